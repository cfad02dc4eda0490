"""Saved plans on the command line, as far as no control plane is needed: whatever is wrong with one, nothing is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from falplan.cli import apply as apply_module
from falplan.cli import plan as plan_module
from falplan.cli import show as show_module
from falplan.cli.saved import check_replanned
from falplan.core.errors import ExitCode, FalplanError, Refused
from falplan.core.planner import make_plan
from falplan.core.state import State
from falplan.engine import apply as engine_apply
from falplan.stores.plan_file import plan_bytes, plan_of
from falplan.stores.project_key import ProjectKey, ProjectKeys
from falplan.stores.state.local import LocalState
from falplan.stores.state.seal import NoSeal
from tests.cli.spec_commands import run
from tests.core.builders import a_build, a_gateway, a_state, wanted

SPEC = """
version: 1
project: demo
variables: {tag: {type: str, default: v1}}
machine_types: {XS: {price_per_hour: 0.25}}
budget_per_hour: 2.5
regions: {here: {provider: local, price_per_hour: {S: 0.5}, budget_per_hour: 2}}
environments: {main: {secrets: {TOKEN: {env: TOKEN}}, budget_per_hour: 2}}
checks: {none: {assert: "{{ plan.create == 0 }}", error: something is made, severity: warning}}
outputs: {who: {value: "{{ project }}"}, hidden: {value: canary-output-77, sensitive: true}}
apps:
  base: {command: [python3, base.py, "{{ var.tag }}"], files: [base.py]}
"""
TOKEN = "canary-token-55d1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "falplan.yaml").write_text(SPEC)
    (project / "base.py").write_text("")
    return project


@pytest.fixture(autouse=True)
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Operations that were begun: every one of them goes this way."""
    begun: list[str] = []
    real = engine_apply._Run._one

    def one(self: Any, change: Any) -> None:
        begun.append(change.address)
        real(self, change)

    monkeypatch.setattr(engine_apply._Run, "_one", one)
    return begun


def environ(folder: Path, token: str = TOKEN) -> dict[str, str]:
    home = str(folder.parent)
    return {"HOME": home, "XDG_STATE_HOME": f"{home}/state", "TMPDIR": f"{home}/tmp", "TOKEN": token}


def falplan(command: click.Command, folder: Path, *args: str, **more: str) -> Result:
    return run(command, folder, *args, environ={**environ(folder), **more})


def save(folder: Path, *args: str) -> Path:
    result = falplan(plan_module.command, folder, "--out", "p", *args)
    assert result.exception is None, result.exception
    return folder / "p"


def keys(folder: Path) -> ProjectKeys:
    return ProjectKeys(folder / ".falplan", {})


def edit(path: Path, change: Callable[[Any], None], key: ProjectKey | None = None) -> None:
    """Edit a plan and sign it again, as only somebody with the project's key could."""
    ring = keys(path.parent).ensure()
    body = plan_of(path.read_bytes(), "p", ring, NoSeal())
    change(body)
    path.write_bytes(plan_bytes(body, 0, key or ring.current, NoSeal()))


def bound(**changed: Any) -> Callable[[Any], None]:
    return lambda body: body["binding"].update(changed)


def moved_on(folder: Path) -> None:
    LocalState(folder / ".falplan").save(State("demo", "other-lineage", 3))


Wrong = Callable[[Path], object]
MUTATIONS: dict[str, tuple[Wrong, str]] = {
    "edited": (
        lambda f: (f / "p").write_bytes((f / "p").read_bytes().replace(b"base.py", b"evil.py")),
        "It was edited after it was signed",
    ),
    "unsigned": (
        lambda f: (f / "p").write_bytes((f / "p").read_bytes().partition(b"\n")[2]),
        "It is not signed",
    ),
    "half-written": (lambda f: (f / "p").write_bytes((f / "p").read_bytes()[:-1]) and None, "It is half-written"),
    "another key": (lambda f: edit(f / "p", lambda b: None, ProjectKey.of(b"x" * 32)), "It is signed with key"),
    "another project": (lambda f: edit(f / "p", bound(project="other")), 'for project "other"; this is "demo"'),
    "another lineage": (moved_on, "the one here is other-lineage"),
    "another place": (lambda f: edit(f / "p", bound(where="/elsewhere")), "for a new state in /elsewhere"),
    "another serial": (lambda f: edit(f / "p", bound(serial=4)), "state is at serial 0, the plan was made at 4"),
    "another state": (lambda f: edit(f / "p", bound(state_digest="x")), "state moved since, at serial 0"),
    "expired": (lambda f: edit(f / "p", bound(valid_until=1.0, created_at=0.0)), "It expired at 1970-01-01"),
    "another file": (
        lambda f: (f / "base.py").write_text("changed"),
        "It was made from another spec: file base.py of app.main.base differs.",
    ),
    "another spec": (
        lambda f: (f / "falplan.yaml").write_text(SPEC.replace("default: v1", "default: v2")),
        "It was made from another spec: app.main.base differs, variables.tag differs.",
    ),
    "another falplan": (lambda f: edit(f / "p", bound(falplan="9.9+ff")), "It was made by falplan 9.9+ff"),
    "another provider": (
        lambda f: edit(f / "p", bound(providers={"local": "0.0+00"})),
        "It was made with provider local 0.0+00",
    ),
    "another falplan's keys": (lambda f: edit(f / "p", bound(more=1)), "made it; this is"),
    "newer format": (
        lambda f: (f / "p").write_bytes((f / "p").read_bytes().replace(b"-plan 1 ", b"-plan 2 ", 1)),
        "It has format 2",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_plan_that_does_not_hold_good_is_refused_and_nothing_is_touched(
    folder: Path, carried_out: list[str], name: str
) -> None:
    """Seen red with each check taken out of `objections`, and with an apply that looked at the plan after it had begun."""
    path = save(folder)
    mutate, said = MUTATIONS[name]
    mutate(folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "state.lock"}
    result = falplan(apply_module.command, folder, "p")
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "state.lock"}

    assert isinstance(result.exception, Refused)
    assert said in result.exception.detail
    assert "Nothing was changed." in result.exception.detail
    assert carried_out == []
    assert after == before
    assert not (folder.parent / "state" / "falplan").exists()
    assert path.exists()


def test_the_value_of_a_secret_is_the_planned_one_or_nothing_is_done(folder: Path, carried_out: list[str]) -> None:
    """Seen red with an apply that delivered whatever value was there."""
    content = save(folder).read_bytes()
    other = falplan(apply_module.command, folder, "p", TOKEN="another value")
    gone = run(apply_module.command, folder, "p", environ={k: v for k, v in environ(folder).items() if k != "TOKEN"})

    assert TOKEN.encode() not in content
    assert isinstance(other.exception, Refused)
    assert "secret.main.TOKEN: its value is not the one that the plan was made with." in other.exception.detail
    assert isinstance(gone.exception, Refused)
    assert "secret.main.TOKEN: its value is not here" in gone.exception.detail
    assert carried_out == []


def test_a_renewed_key_leaves_plans_and_fingerprints_good(folder: Path, carried_out: list[str]) -> None:
    """All that is wrong is the file that is looked at last. Seen red with a comparison under the current key alone."""
    from falplan.cli.context import Options
    from falplan.cli.project import load
    from falplan.engine.project import open_project
    from falplan.engine.saved import check_saved, look_again, open_saved

    path = save(folder)
    keys(folder).rotate()
    project = open_project(load(Options(folder, environ=environ(folder))), environ(folder))
    saved = open_saved(project, path)
    planned, moved = look_again(project, saved, check_saved(project, saved))

    assert moved == []
    assert set(planned.secrets.values) == {"secret.main.TOKEN"}
    assert carried_out == []


def test_a_plan_without_a_secrets_value_is_not_saved(folder: Path) -> None:
    less = {k: v for k, v in environ(folder).items() if k != "TOKEN"}
    result = run(plan_module.command, folder, "--out", "p", environ=less)

    assert isinstance(result.exception, Refused)
    assert "The value of a secret is not here" in result.exception.summary
    assert not (folder / "p").exists()


def test_apply_reads_the_spec_with_the_variables_of_the_plan(folder: Path) -> None:
    """Seen red with an apply that read the spec with the defaults: another spec."""
    save(folder, "--var", "tag=v2")
    shown = falplan(show_module.command, folder, "p", "--json")
    refused = falplan(apply_module.command, folder, "p", "--var", "tag=v3")
    body = json.loads(shown.output)

    assert [r["change"]["after"]["command"] for r in body["resource_changes"] if r["address"] == "app.main.base"] == [
        ["python3", "base.py", "v2"]
    ]
    assert isinstance(refused.exception, Refused)
    assert "It was made from another spec: app.main.base differs, variables.tag differs." in refused.exception.detail
    assert "differs" not in str(falplan(apply_module.command, folder, "p", TOKEN="other").exception)


def test_show_prints_a_saved_plan_as_plan_does(folder: Path) -> None:
    planned = falplan(plan_module.command, folder, "--out", "p")
    shown = falplan(show_module.command, folder, "p")

    assert shown.output.startswith(planned.stdout)
    assert "for project demo at serial 0; holds good until" in shown.output
    assert "Its signature is right." in shown.output
    body = json.loads(falplan(show_module.command, folder, "p", "--json").output)
    assert body["format_version"] == "1.2"
    assert body["saved"]["destroys"] is False


def test_a_saved_plan_says_the_same_in_json_as_the_plan_that_it_was(folder: Path) -> None:
    """Seen red with a file that left out costs, checks, outputs and the state that the plan was made from."""
    planned = json.loads(falplan(plan_module.command, folder, "--out", "p", "--json").stdout)
    shown = json.loads(falplan(show_module.command, folder, "p", "--json").output)
    for body in (planned, shown):
        body.pop("timestamp", None)

    assert planned["checks"][0]["status"] == "fail"
    assert planned["falplan"]["cost"]
    assert {"who", "hidden"} == planned["output_changes"].keys()
    assert shown.pop("saved")["project"] == "demo"
    assert shown == planned
    assert b"canary-output-77" not in (folder / "p").read_bytes()


def test_show_believes_no_edited_plan(folder: Path) -> None:
    path = save(folder)
    path.write_bytes(path.read_bytes().replace(b"base.py", b"evil.py"))
    result = falplan(show_module.command, folder, "p")

    assert isinstance(result.exception, Refused)
    assert result.output == ""


@pytest.mark.parametrize("value", ["0", "24w", "-1h", "367d", "", "1h30m"])
def test_a_plan_holds_good_for_a_time_of_at_most_a_year(folder: Path, value: str) -> None:
    result = falplan(plan_module.command, folder, "--out", "p", "--valid-for", value)

    assert isinstance(result.exception, click.BadParameter)
    assert not (folder / "p").exists()


def test_valid_for_says_how_long(folder: Path) -> None:
    save(folder, "--valid-for", "90m")
    body: Any = plan_of((folder / "p").read_bytes(), "p", keys(folder).read(), NoSeal())

    assert body["binding"]["valid_until"] - body["binding"]["created_at"] == 5400


def test_json_without_anybody_to_ask_needs_approval_beforehand(folder: Path) -> None:
    assert isinstance(falplan(apply_module.command, folder, "--json").exception, click.UsageError)


def test_an_error_ends_the_event_stream_as_a_diagnostic(folder: Path) -> None:
    save(folder)
    (folder / "base.py").write_text("changed")
    result = falplan(apply_module.command, folder, "p", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]

    assert [e["type"] for e in events] == ["version", "diagnostic"]
    assert "another spec" in events[1]["diagnostic"]["detail"]
    assert isinstance(result.exception, FalplanError)
    assert result.exception.exit_code is ExitCode.REFUSED


def test_a_new_plan_that_nobody_reviewed_removes_nothing_more(folder: Path) -> None:
    """Seen red with a replan that --auto-approve covered whatever it did."""
    state = a_state(a_gateway(), a_build("a"), a_build("b"))
    reviewed = make_plan(wanted(a_gateway(), a_build("b")), state, {})
    worse = make_plan(wanted(a_gateway()), state, {})

    check_replanned(reviewed, reviewed)
    check_replanned(worse, reviewed)
    with pytest.raises(
        Refused, match=r"build.main.b: destroyed or replaced now, and not by the plan that was reviewed"
    ):
        check_replanned(reviewed, worse)


@pytest.mark.parametrize("existing", [False, True])
def test_a_plan_is_never_one_of_an_apps_files(folder: Path, existing: bool) -> None:
    """It would change the spec that it was made from. Seen red: such a plan could be saved, and never applied."""
    (folder / "falplan.yaml").write_text(SPEC.replace(", files: [base.py]", ""))
    if existing:
        (folder / "p").write_text("of the app")
    result = falplan(plan_module.command, folder, "--out", "p")
    (folder / ".falplanignore").write_text("p\n")

    assert isinstance(result.exception, Refused)
    assert "is one of the files of app.main.base" in result.exception.detail
    assert (folder / "p").exists() == existing
    assert not existing or (folder / "p").read_text() == "of the app"
    save(folder)
