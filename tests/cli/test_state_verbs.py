"""The verbs on saved state, as a person runs them: real files, no control plane."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from falplan.cli.group import _run
from falplan.core.resources import Resource, ResourceType
from falplan.core.state import Entry, Intent, Output, State, Status, parse_state, render_state
from falplan.stores.encryption import seal_for
from falplan.stores.spec import load_spec
from falplan.stores.state.local import LocalState
from tests.core.builders import LINEAGE, a_build, a_gateway, a_state, an_app

SPEC = """\
version: 1
project: demo
environments: {staging: {apps: all}}
apps:
  hello: {command: [python3, hello.py], files: [hello.py]}
"""
ENCRYPTED = SPEC + "state: {encryption: {key: {env: STATE_KEY}}}\n"
KEY = base64.b64encode(b"k" * 32).decode()
OTHER = base64.b64encode(b"o" * 32).decode()


def a_secret(name: str) -> Resource:
    return Resource(f"secret.main.{name}", ResourceType.SECRET, {"source": {"env": name}}, ("gateway",))


FULL = a_state(
    a_gateway(),
    a_build(),
    an_app(),
    a_secret("TOKEN"),
    a_build(environment="staging"),
    an_app(environment="staging"),
    serial=3,
    outputs={"url": Output("https://x/run"), "token": Output("canary-7f3a", sensitive=True), "all": Output(["a", 1])},
)


@dataclass
class Project:
    """A folder with a spec and a state, and what was planted that nobody may see."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __call__(self, *args: str, code: int = 0, stdin: str = "", **environ: str) -> tuple[str, str]:
        """Run a command in this process, which is how a hundred of them fit into a test run. Returns stdout and stderr."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(os, "environ", self.everything(environ))
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            ended = int(_run(["-C", str(self.folder), *args]))
        return self._checked(args, ended, code, out.getvalue(), err.getvalue())

    def started(self, *args: str, code: int = 0, **environ: str) -> tuple[str, str]:
        """The same in a process of its own."""
        argv = [sys.executable, "-m", "falplan", "-C", str(self.folder), *args]
        environment = self.everything(environ)
        ran = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment
        )
        return self._checked(args, ran.returncode, code, ran.stdout, ran.stderr)

    def everything(self, environ: dict[str, str]) -> dict[str, str]:
        home = {"HOME": str(self.folder.parent), "XDG_STATE_HOME": str(self.folder.parent / "home")}
        return {"PATH": "/usr/bin:/bin", "NO_COLOR": "1", **home, **self.environ, **environ}

    @staticmethod
    def _checked(args: tuple[str, ...], ended: int, code: int, out: str, err: str) -> tuple[str, str]:
        assert ended == code, f"{args}: {out}{err}"
        assert "Traceback" not in err
        assert KEY not in out + err
        assert OTHER not in out + err
        return out, err

    @property
    def path(self) -> Path:
        return self.folder / ".falplan" / "state.json"

    @property
    def store(self) -> LocalState:
        return LocalState(self.path.parent, seal_for(load_spec(self.folder), self.environ))

    @property
    def state(self) -> State:
        found = self.store.read("demo")
        assert found is not None
        return found


@pytest.fixture(params=[SPEC, ENCRYPTED], ids=["clear", "encrypted"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """State with serial 4, and as its one backup an older one."""
    return a_project(tmp_path, request.param)


@pytest.fixture
def clear(tmp_path: Path) -> Project:
    return a_project(tmp_path, SPEC)


def a_project(tmp_path: Path, spec: str) -> Project:
    made = Project(tmp_path / "project", {"STATE_KEY": KEY})
    made.folder.mkdir()
    (made.folder / "falplan.yaml").write_text(spec)
    (made.folder / "hello.py").write_text("")
    made.store.save(replace(FULL, serial=2, resources={"gateway": FULL.resources["gateway"]}, outputs={}))
    made.store.save(FULL)
    return made


# Looking


def test_list_names_all_or_what_a_pattern_names(project: Project) -> None:
    everything = project("state", "list")[0].splitlines()

    assert everything == sorted(FULL.resources)
    assert project("state", "list", "app.staging")[0] == "app.staging.hello\n"
    assert project("state", "list", "*.main.*")[0].split() == [
        "app.main.hello",
        "build.main.hello",
        "secret.main.TOKEN",
    ]
    assert json.loads(project("state", "list", "--json", "gateway")[0]) == ["gateway"]
    assert project("state", "list", "nothing")[0] == ""


def test_show_prints_one_resource(project: Project) -> None:
    assert "(applied, generation 1)" in project("state", "show", "app.main.hello")[0]
    assert json.loads(project("state", "show", "gateway", "--json")[0])["address"] == "gateway"
    assert "Did you mean app.main.hello?" in project("state", "show", "app.main.helo", code=1)[1]


def test_output_shows_what_is_sensitive_only_to_who_asks_for_it(project: Project) -> None:
    out, _ = project("output")

    assert out.splitlines() == ['all = ["a", 1]', "token = (sensitive value)", 'url = "https://x/run"']
    assert project("output", "url", "--raw")[0] == "https://x/run"
    assert project("output", "token")[0] == '"canary-7f3a"\n'
    assert json.loads(project("output", "--json")[0])["token"] == {"value": "canary-7f3a", "sensitive": True}
    assert 'did you mean "url"?' in project("output", "ulr", code=1)[1]
    assert "--json prints it" in project("output", "all", "--raw", code=1)[1]
    project("output", "--raw", code=64)


# Editing


def test_mv_keeps_the_resource_and_rewrites_what_depends_on_it(project: Project) -> None:
    out, _ = project("state", "mv", "build.main.hello", "build.main.other")
    state = project.state

    assert "build.main.hello -> build.main.other" in out
    assert "app.main.hello depends on build.main.other" in out
    assert "serial 5. The one before is kept as state.00000004.json" in out
    assert state.resources["app.main.hello"].dependencies == ("build.main.other",)
    assert state.retired == {"build.main.hello": 1}
    assert state.resources["build.main.other"].inputs == FULL.resources["build.main.hello"].inputs
    assert state.outputs == FULL.outputs


def test_an_app_that_is_moved_tells_that_it_serves_as_before(clear: Project) -> None:
    _, err = clear("state", "mv", "app.main.hello", "app.staging.other")

    assert "goes on serving as acme/hello" in err


def test_a_moved_resource_never_gets_an_operation_id_again(clear: Project) -> None:
    """Seen red with the resource's own generation: ids of the new address would have begun at 2 again."""
    clear.store.save(replace(clear.state, retired={"app.main.other": 9}))
    clear("state", "mv", "app.main.hello", "app.main.other")
    clear("state", "mv", "app.main.other", "app.main.hello")

    assert clear.state.resources["app.main.hello"].generation == 9
    assert clear.state.retired == {"app.main.other": 9}


@pytest.mark.parametrize(
    ("source", "target", "code", "says"),
    [
        ("app.main.hello", "app.staging.hello", 6, "The address is taken"),
        ("app.main.hello", "build.main.x", 6, "A resource keeps its type"),
        ("app.main.hello", "app.main", 6, "Not an address"),
        ("app.main.hello", "app.main.a.b", 6, "Not an address"),
        ("app.main.hello", "app.main.Upper", 6, "Not an address"),
        ("secret.main.TOKEN", "secret.main.1", 6, "Not an address"),
        ("app.main.hello", "app.main.hello", 6, "It is there already"),
        ("gateway", "gateway.main.x", 6, "The gateway can't be moved"),
        ("app.main.helo", "app.main.x", 1, "Did you mean app.main.hello?"),
    ],
)
def test_mv_refuses_what_makes_no_sense(clear: Project, source: str, target: str, code: int, says: str) -> None:
    before = clear.path.read_bytes()
    _, err = clear("state", "mv", source, target, code=code)

    assert says in err
    assert clear.path.read_bytes() == before


def test_rm_forgets_tells_what_goes_on_and_asks(project: Project) -> None:
    before = project.path.read_bytes()
    _, refused = project("state", "rm", "app.main.hello", code=6)
    assert "Approval is missing" in refused
    assert project.path.read_bytes() == before
    out, err = project("state", "rm", "app.main.hello", "build.main.hello", "--auto-approve")

    assert "app.main.hello is forgotten" in out
    assert "goes on serving as acme/hello" in err
    assert "app.main.hello" not in project.state.resources
    assert project.state.retired == {"app.main.hello": 1, "build.main.hello": 1}


def test_rm_names_what_still_depends_on_it(clear: Project) -> None:
    _, err = clear("state", "rm", "build.main.hello", "--auto-approve")

    assert "app.main.hello still depends on build.main.hello" in err
    assert clear("state", "list")  # the dependency is retired, not lost: the state is sound


def test_what_was_interrupted_is_not_edited(clear: Project) -> None:
    open_one = replace(clear.state.resources["app.main.hello"], intent=Intent("update", "op", 2, "digest"))
    clear.store.append(clear.state, Entry("begin", "app.main.hello", 2, open_one))
    for verb in (("mv", "app.main.hello", "app.main.x"), ("rm", "--auto-approve", "app.main.hello")):
        assert "An operation on it was interrupted" in clear("state", *verb, code=6)[1]
    assert "An operation on it was interrupted" in clear("taint", "app.main.hello", code=6)[1]


def test_taint_and_untaint(project: Project) -> None:
    out, _ = project("taint", "app.main.hello")
    assert "its callers get errors in between" in out
    assert project.state.resources["app.main.hello"].status == "remake"
    assert "It is tainted already" in project("taint", "app.main.hello", code=6)[1]
    project("untaint", "app.main.hello")

    assert project.state.resources["app.main.hello"].status == "applied"
    assert "It is not tainted" in project("untaint", "app.main.hello", code=6)[1]


def test_what_never_came_to_be_is_not_untainted(clear: Project) -> None:
    failed = replace(clear.state.resources["app.main.hello"], status=Status.TAINTED)
    clear.store.save(replace(clear.state, resources={**clear.state.resources, failed.address: failed}))

    assert "It never came to be" in clear("untaint", "app.main.hello", code=6)[1]


def test_verbs_wait_for_the_lock_and_name_its_holder(clear: Project) -> None:
    before = clear.path.read_bytes()
    with clear.store.locked("apply"):
        for verb in (
            ("state", "mv", "app.main.hello", "app.main.x"),
            ("state", "rm", "gateway", "--auto-approve"),
            ("state", "backup", "make"),
            ("state", "repair", "--apply"),
            ("taint", "gateway", "--lock-timeout", "0.2"),
        ):
            assert "`apply`" in clear(*verb, code=4)[1]
        clear("state", "list")  # readers never wait
        clear("state", "repair")

    assert clear.path.read_bytes() == before


# Pull, push, backups


def test_what_is_pulled_can_be_pushed(project: Project) -> None:
    pulled, _ = project("state", "pull")
    assert parse_state(pulled, "pulled") == project.state
    (project.folder / "kept.json").write_text(pulled)
    assert "It is the same state" in project("state", "push", "kept.json")[0]
    project("state", "rm", "app.main.hello", "--auto-approve")
    _, older = project("state", "push", "kept.json", "--auto-approve", code=6)
    out, err = project("state", "push", "kept.json", "--auto-approve", "--force")

    assert "Its serial is 4, and the state has 5" in older
    assert "  + app.main.hello" in out
    assert "Warning: Its serial is 4" in err
    assert project.state.serial == 6
    assert project.state.resources == FULL.resources
    assert project("state", "push", "-", "--auto-approve", stdin=render_state(project.state))[0].startswith(
        "It is the same"
    )


def _rendered(**changed: Any) -> str:
    return render_state(replace(FULL, serial=9, **changed))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (_rendered(project="other"), "The state belongs to another project"),
        (_rendered(lineage="other"), "It is of another lineage"),
        (_rendered().replace("acme/hello", "acme/hullo"), "its checksum does not match"),
        (_rendered()[:-9], "The file holds no sound state"),
        ("", "The file holds no sound state"),
        (_rendered(resources={"app.main.hello": FULL.resources["app.main.hello"]}), "which this state never had"),
    ],
    ids=["project", "lineage", "checksum", "torn", "empty", "dangling"],
)
def test_push_refuses_what_does_not_continue_the_state(clear: Project, content: str, says: str) -> None:
    before = clear.path.read_bytes()
    (clear.folder / "pushed.json").write_text(content)
    _, err = clear("state", "push", "pushed.json", "--auto-approve", code=6)

    assert says in err
    assert clear.path.read_bytes() == before


def test_push_takes_another_lineage_only_by_force_and_approval(clear: Project) -> None:
    (clear.folder / "pushed.json").write_text(_rendered(lineage="another"))
    assert "Approval is missing" in clear("state", "push", "pushed.json", "--force", code=6)[1]
    clear("state", "push", "pushed.json", "--force", "--auto-approve")

    assert (clear.state.lineage, clear.state.serial) == ("another", 10)


def test_backups_are_listed_shown_made_and_restored(project: Project) -> None:
    made, _ = project("state", "backup", "make")
    rows = json.loads(project("state", "backup", "list", "--json")[0])
    shown, _ = project("state", "backup", "show", "state.00000003.json")
    out, _ = project("state", "backup", "restore", "state.00000003.json", "--auto-approve")

    assert "State saved with serial 5" in made
    assert [r["serial"] for r in rows] == [4, 3]
    assert list(parse_state(shown, "shown").resources) == ["gateway"]
    assert "  - app.main.hello" in out
    assert (project.state.serial, list(project.state.resources)) == (6, ["gateway"])
    assert "state.00000004.json" in project("state", "backup", "list")[0]
    assert "No such backup" in project("state", "backup", "restore", "../state.json", code=6)[1]


# An older state than was seen


def test_a_state_that_was_put_back_is_refused_until_it_is_taken_on_purpose(project: Project) -> None:
    """Seen red without the note of serials: a plan was made from the older state."""
    project("state", "list")  # serial 4 is seen
    older = (project.path.parent / "backups" / "state.00000003.json").read_bytes()
    project.path.unlink()
    project.path.write_bytes(older)
    for verb in (["plan"], ["apply", "--auto-approve"], ["state", "list"], ["state", "mv", "gateway", "x"], ["output"]):
        _, err = project(*verb, code=6)
        assert "has serial 3; this machine saw serial 4 at 20" in err
        assert "falplan state repair --apply" in err
    assert "it is older than it was" in project("state", "repair", code=1)[0]
    project("state", "repair", "--apply", "--auto-approve")

    assert project.state.serial == 5
    assert project("state", "list")[0] == "gateway\n"


def test_a_backup_that_is_restored_is_newer_than_all_that_were_seen(project: Project) -> None:
    project("state", "backup", "restore", "state.00000003.json", "--auto-approve")

    assert project("state", "list")[0] == "gateway\n"


@pytest.mark.parametrize("home", ["file", "missing", "broken"])
def test_a_home_that_can_not_be_used_fails_nothing(clear: Project, home: str) -> None:
    place = clear.folder.parent / "home"
    if home == "file":
        place.write_text("no folder")
    if home == "broken":
        (place / "falplan-serials").mkdir(parents=True)
        (place / "falplan-serials" / LINEAGE).write_text('{"serial": "x"}')
    if home == "missing":
        clear.environ["XDG_STATE_HOME"] = "/proc/nothing"

    assert clear("state", "list")[0].splitlines() == sorted(FULL.resources)


def test_what_is_remembered_is_its_users_own(clear: Project) -> None:
    clear("state", "list")
    note = clear.folder.parent / "home" / "falplan-serials" / LINEAGE

    assert json.loads(note.read_text())["serial"] == 4
    assert note.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in note.parent.iterdir()] == [LINEAGE]


# Encryption, from outside


def test_encryption_is_switched_on_renewed_and_off(clear: Project) -> None:
    spec = clear.folder / "falplan.yaml"
    spec.write_text(ENCRYPTED)
    assert "The state is not encrypted" in clear("state", "list", code=6)[1]
    spec.write_text(SPEC + "state: {encryption: {key: {env: STATE_KEY}, previous: [none]}}\n")
    clear("state", "backup", "make")
    assert b"app.main.hello" not in clear.path.read_bytes()
    spec.write_text(ENCRYPTED)
    clear("state", "list")
    spec.write_text(SPEC + "state: {encryption: {key: {env: NEW_KEY}, previous: [{env: STATE_KEY}]}}\n")
    clear.environ["NEW_KEY"] = OTHER
    clear("state", "backup", "make")
    spec.write_text(SPEC + "state: {encryption: {key: {env: NEW_KEY}}}\n")
    clear("state", "list")
    spec.write_text(SPEC + "state: {encryption: {key: none, previous: [{env: NEW_KEY}]}}\n")
    clear("state", "backup", "make")
    spec.write_text(SPEC)

    assert clear("state", "list")[0].splitlines() == sorted(FULL.resources)


@pytest.mark.parametrize("key", ["", OTHER, "hunter2-hunter2"])
def test_a_wrong_key_is_refused_before_anything_and_never_shown(tmp_path: Path, key: str) -> None:
    project = a_project(tmp_path, ENCRYPTED)
    before = project.path.read_bytes()
    for verb in (["plan"], ["state", "list"], ["state", "pull"], ["state", "rm", "gateway", "--auto-approve"]):
        out, err = project.started(*verb, code=6, STATE_KEY=key)
        assert "STATE_KEY" in err
        assert "hunter2" not in out + err
    told, _ = project("state", "repair", code=1, STATE_KEY=key)

    assert "before its key is here" in told
    assert project.path.read_bytes() == before


# Repair


def broken(project: Project, content: str | bytes) -> bytes:
    """Put something in the place of the snapshot, as an editor would."""
    written = content.encode() if isinstance(content, str) else content
    project.path.unlink()
    project.path.write_bytes(written)
    return written


def aside(project: Project) -> bytes:
    """What the repair kept of what was there."""
    (kept,) = (project.path.parent / "backups").glob("broken.*Z.json")
    return kept.read_bytes()


def _reseal(text: str) -> str:
    """The text with a checksum that matches: what a bug or a clever editor would write."""
    from falplan.core.values import digest

    body = json.loads(text)
    body.pop("checksum")
    return json.dumps({**body, "checksum": "sha256:" + digest(body)})


def test_repair_says_that_nothing_is_wrong(project: Project) -> None:
    assert "Nothing is wrong" in project("state", "repair")[0]
    before = project.path.read_bytes()
    project("state", "repair", "--apply", "--auto-approve")

    assert project.path.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: raw[: len(raw) // 2], ["torn", "damaged"]),
        (lambda raw: b"", ["empty"]),
        (lambda raw: b"\xff\xfe" + raw, ["can't be read", "damaged", "not encrypted", "torn"]),
        (
            lambda raw: raw.replace(b"acme/hello", b"acme/hullo") if b"acme" in raw else raw[:-9] + b"AAAA" + raw[-5:],
            ["checksum", "damaged"],
        ),
    ],
    ids=["torn", "empty", "bytes", "edited"],
)
def test_a_damaged_snapshot_is_made_of_the_newest_good_backup_and_kept(
    project: Project, damage: Any, says: list[str]
) -> None:
    raw = broken(project, damage(project.path.read_bytes()))
    project("state", "list", code=6)
    told, _ = project("state", "repair", code=1)
    assert any(word in told for word in says)
    assert "the newest good backup, state.00000003.json" in told
    assert project.path.read_bytes() == raw
    assert "Approval is missing" in project("state", "repair", "--apply", code=6)[1]
    project("state", "repair", "--apply", "--auto-approve")

    assert project("state", "list")[0] == "gateway\n"
    assert aside(project) == raw
    assert "Nothing is wrong" in project("state", "repair")[0]


def test_an_edited_snapshot_is_taken_as_it_stands_when_that_is_asked_for(clear: Project) -> None:
    broken(clear, clear.path.read_text().replace("acme/hello", "acme/hullo"))
    clear("state", "repair", "--apply", "--auto-approve", "--as-it-stands")

    assert clear.state.resources["app.main.hello"].inputs["endpoint"] == "acme/hullo"
    assert len(clear.state.resources) == len(FULL.resources)


def test_the_journal_counts_when_its_snapshot_is_torn(project: Project) -> None:
    """Seen red without the journal: what an apply had made since was forgotten."""
    made = replace(FULL.resources["app.main.hello"], address="app.main.new", generation=1)
    project.store.append(project.state, Entry("done", "app.main.new", 1, replace(made, dependencies=("gateway",))))
    raw = broken(project, project.path.read_bytes()[:-40])
    journal = (project.path.parent / "state.journal").read_bytes()
    out, _ = project("state", "repair", "--apply", "--auto-approve")
    kept = json.loads(aside(project))

    assert "and 1 entry of the journal" in out
    assert project("state", "list")[0].split() == ["app.main.new", "gateway"]
    assert base64.b64decode(kept["snapshot"]) == raw
    assert base64.b64decode(kept["journal"]["records"][0][1]) in journal
    assert not (project.path.parent / "state.journal").exists()


def test_contradictions_are_named_and_mended(clear: Project) -> None:
    body = json.loads(clear.path.read_text())
    app = next(r for r in body["resources"] if r["address"] == "app.main.hello")
    app["dependencies"] = ["gateway", "build.main.gone"]
    body["resources"] += [{**app, "generation": 7}, {"address": "app.main.half"}]
    body["retired"] = {"gateway": 1}
    raw = broken(clear, _reseal(json.dumps(body)))
    told, _ = clear("state", "repair", code=1)
    clear("state", "repair", "--apply", "--auto-approve")

    assert "app.main.hello stands twice; generation 7 is kept" in told
    assert "depends on build.main.gone, which is not there" in told
    assert "gateway is both there and retired" in told
    assert "can't be read, and is left out" in told
    assert clear.state.resources["app.main.hello"].generation == 7
    assert clear.state.resources["app.main.hello"].dependencies == ("gateway",)
    assert aside(clear) == raw


def test_a_journal_of_another_lineage_counts_for_nothing_and_is_kept(clear: Project) -> None:
    journal = clear.path.parent / "state.journal"
    foreign = LocalState(clear.folder / "foreign")
    other = foreign.save(replace(FULL, lineage="another", serial=8))
    foreign.append(other, Entry("done", "gateway", 2, None))
    journal.write_bytes(foreign.journal.read_bytes())
    clear("state", "list", code=6)
    told, _ = clear("state", "repair", code=1)
    clear("state", "repair", "--apply", "--auto-approve")

    assert "belongs to another lineage, another" in told
    assert clear.state.resources.keys() == FULL.resources.keys()
    assert json.loads(aside(clear))["journal"]["lineage"] == "another"


def test_whole_entries_around_a_damaged_one_count(clear: Project) -> None:
    app = replace(FULL.resources["app.main.hello"], dependencies=("gateway",))
    for name in ("one", "two", "three"):
        made = replace(app, address=f"app.main.{name}")
        clear.store.append(clear.state, Entry("done", made.address, 1, made))
    journal = clear.path.parent / "state.journal"
    journal.write_text(journal.read_text().replace("app.main.two", "app.main.tow"))
    clear("state", "list", code=6)
    told, _ = clear("state", "repair", code=1)
    clear("state", "repair", "--apply", "--auto-approve")

    assert "damaged at entry 2; 2 whole entries count" in told
    assert {"app.main.one", "app.main.three"} <= clear.state.resources.keys()


def test_a_snapshot_that_is_gone_is_made_of_its_backup(clear: Project) -> None:
    clear.store.append(clear.state, Entry("done", "gateway", 2, replace(FULL.resources["gateway"], generation=2)))
    clear.path.unlink()
    clear("state", "list", code=6)
    clear("state", "repair", "--apply", "--auto-approve")

    assert clear.state.resources["gateway"].generation == 2
    assert clear.state.serial == 5


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: _reseal(text.replace('"format_version": 2', '"format_version": 99')), "Install that one"),
        (lambda text: _reseal(text.replace('"project": "demo"', '"project": "other"')), "It is no damage"),
    ],
    ids=["newer", "project"],
)
def test_what_is_no_damage_is_not_mended(clear: Project, damage: Any, says: str) -> None:
    raw = broken(clear, damage(clear.path.read_text()))
    assert says in clear("state", "repair", code=1)[0]
    clear("state", "repair", "--apply", "--auto-approve", code=6)

    assert clear.path.read_bytes() == raw


def test_a_damaged_backup_is_passed_over_and_one_can_be_chosen(clear: Project) -> None:
    clear("state", "backup", "make")
    newest = clear.path.parent / "backups" / "state.00000004.json"
    newest.unlink()
    newest.write_text("{")
    broken(clear, "")
    told, _ = clear("state", "repair", code=1)
    unknown, _ = clear("state", "repair", "--from", "state.00000009.json", code=1)
    clear("state", "repair", "--apply", "--from", "state.00000003.json", "--auto-approve")

    assert "state.00000004.json is no good" in told
    assert "made of the newest good backup, state.00000003.json" in told
    assert "There is no good backup state.00000009.json" in unknown
    assert list(clear.state.resources) == ["gateway"]


def test_nothing_applied_is_nothing_broken(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.folder.mkdir()
    (project.folder / "falplan.yaml").write_text(SPEC)
    (project.folder / "hello.py").write_text("")

    assert "Nothing was ever applied" in project("state", "repair")[0]
    assert project("state", "list")[0] == ""
    assert project("output")[0] == ""
    assert json.loads(project("output", "--json")[0]) == {}
    for verb in (["state", "pull"], ["state", "mv", "a", "b"], ["state", "backup", "make"], ["taint", "gateway"]):
        assert "Nothing was applied yet" in project(*verb, code=1)[1]
