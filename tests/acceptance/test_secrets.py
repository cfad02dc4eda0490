"""Secrets with real processes: they arrive byte for byte, are nowhere else, and restart what uses them and nothing more."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import apsw
import psutil
import pytest

from tests.faults.sandbox import Broken, Ran, Sandbox, wait_until

APP = """
import hashlib, http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        found = {os.fsdecode(n): hashlib.sha256(v).hexdigest() for n, v in os.environb.items() if n.startswith(b"ODD_")}
        answer = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""

COMMAND = "command: [python3, odd.py], files: [odd.py], machine_type: XS, keep_alive: 300, startup_timeout: 60"

ODD: dict[str, bytes] = {
    "EMPTY": b"",
    "TEMPLATE": b"{{7*7}} {% raw %} canary-template-c4a1",
    "DASH": b"-rf canary-dash-51f0",
    "QUOTES": b"canary'quo\"te`d$(id)\\x;&|*?~!#-8e21",
    "LINES": b"-----BEGIN CANARY-----\nbase64canary7Zq1\n\tand more\r\n-----END CANARY-----\n\n",
    "BYTES": b"canary-bytes-\xff\xfe\xc3\x28\x80-d09b",
    "UNICODE": "canary-ü-☃-🔑-3bd8".encode(),
    "BIG": b"canary-big-" + hashlib.sha512(b"big").hexdigest().encode() * 511 + b"-end",
    "STORED": b"canary-stored-6a6c\xf0",
    "ENV": b"canary-env-77aa\xfd {{7*7}}",
    "COMMAND": b"canary-command-2b1f\n",
}
"""Name -> value of every odd secret. Each long enough to be looked for has a word that stands nowhere else."""


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder outside the sandbox, with the files that secrets are read from."""
    for name, value in ODD.items():
        (tmp_path / name).write_bytes(value)
    return tmp_path


@pytest.fixture
def odd(box: Sandbox, kept: Path) -> Iterator[Sandbox]:
    """A project whose one app gets every odd secret."""
    files = [n for n in ODD if n not in ("STORED", "ENV", "COMMAND")]
    sources = {f"ODD_{n}": {"file": str(kept / n)} for n in files} | {
        "ODD_STORED": {"stored": True},
        "ODD_ENV": {"env": "CANARY"},
        "ODD_COMMAND": {"command": ["sh", "-c", f"cat {shlex.quote(str(kept / 'COMMAND'))}; echo"]},
    }
    spec(box, sources, {"odd": COMMAND})
    yield box


def spec(box: Sandbox, secrets: dict[str, object], apps: dict[str, str], more: str = "") -> None:
    (box.project / "odd.py").write_text(APP)
    # CALLS is what the sandbox knows its apps by.
    lines = [f'  {n}: {{{body}, environment_variables: {{CALLS: "{box.calls}"}}}}' for n, body in apps.items()]
    text = f"version: 1\nproject: secrets\nowner: acme\nenvironments:\n  main: {{secrets: {json.dumps(secrets)}}}\n{more}apps:\n"
    (box.project / "falplan.yaml").write_text(text + "\n".join(lines) + "\n")


def forms(value: bytes) -> set[bytes]:
    """The shapes that a value could leak in: whole or a part of it, as it is or encoded."""
    texts = {value, value[:24], value[-24:], value[len(value) // 2 :][:24]}
    found: set[bytes] = set()
    for text in texts:
        shown = text.decode("utf-8", "surrogateescape")
        found |= {
            text,
            text[::-1],
            base64.b64encode(text).rstrip(b"=")[:-1],
            base64.urlsafe_b64encode(text).rstrip(b"=")[:-1],
        }
        found |= {text.hex().encode(), urllib.parse.quote_from_bytes(text).encode(), repr(text)[2:-1].encode()}
        found |= {json.dumps(shown)[1:-1].encode(), shlex.quote(shown).encode("utf-8", "surrogateescape")}
        found |= set(text.splitlines())
    return {form for form in found if len(form) >= 12}


CANARIES = {name: forms(value) for name, value in ODD.items() if len(value) >= 12}


def leaks(content: bytes) -> list[str]:
    return [name for name, shapes in CANARIES.items() if any(shape in content for shape in shapes)]


def where_files_leak(root: Path) -> list[str]:
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                found += [f"{path}: {leak}" for leak in leaks(path.read_bytes())]
    return found


def where_processes_leak(box: Sandbox, *, environ: bool) -> list[str]:
    """Command lines of all processes of the sandbox; environments of all but the apps' own."""
    apps = {p.pid for ps in box.runner_marks().values() for p in ps} if environ else set()
    found = []
    for process in psutil.process_iter():
        for name in ("cmdline", "environ") if environ else ("cmdline",):
            try:
                content = Path(f"/proc/{process.pid}/{name}").read_bytes()
            except OSError:
                continue
            if process.pid not in apps:
                found += [f"{process.pid} {name}: {leak}" for leak in leaks(content)]
    return found


class Watch:
    """Looks at the command lines of all processes again and again while something is done."""

    def __init__(self, box: Sandbox) -> None:
        self.box, self.found, self.looks = box, list[str](), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.is_set():
            self.found += where_processes_leak(self.box, environ=False)
            self.looks += 1

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def said(ran: Ran) -> bytes:
    return (ran.out + ran.err).encode("utf-8", "surrogateescape")


@pytest.mark.faults
def test_odd_values_arrive_byte_for_byte_and_are_nowhere_else(odd: Sandbox) -> None:
    """Seen red with secrets in runner.json, with a control plane that inherits the command line's environment, with a seal that
    encrypts nothing, and with values in the plan's inputs.
    """
    env = {"CANARY": os.fsdecode(ODD["ENV"]), "FALPLAN_DEBUG": "1"}
    first = odd.set_secret("ODD_STORED", ODD["STORED"], **env)
    outputs = [first, odd.run("plan", **env), odd.run("plan", "--json", **env)]
    with Watch(odd) as watch:
        outputs.append(odd.must("apply", "--auto-approve", **env))
        got = json.loads(odd.must("call", "odd", "{}").out)

    assert got == {f"ODD_{name}": hashlib.sha256(value).hexdigest() for name, value in ODD.items()}
    commands = (
        ["plan"], ["plan", "--json"], ["show"], ["show", "--json"], ["show", "app.main.odd"], ["state", "show", "secret.main.ODD_BIG"],
        ["secrets", "list"], ["secrets", "list", "--json"], ["secrets", "set", "ODD_NONE"], ["secrets", "unset", "ODD_STORED"],
        ["runners", "list", "--json"], ["apps", "--json"], ["graph"], ["validate"], ["env"],
    )  # fmt: skip
    outputs += [odd.run(*arguments, **env) for arguments in commands]
    outputs += failing(odd, env)

    assert first.code == 0
    assert [leak for ran in outputs for leak in leaks(said(ran))] == []
    assert watch.looks > 3
    assert watch.found == []
    assert where_processes_leak(odd, environ=True) == []
    assert where_files_leak(odd.folder) == []
    odd.destroy()


def failing(box: Sandbox, env: dict[str, str]) -> list[Ran]:
    """Commands that end badly, with the values at hand: a value that can't be delivered, an app that never starts, a killed apply."""
    text = (box.project / "falplan.yaml").read_text()
    (box.project / "falplan.yaml").write_text(text.replace(COMMAND, COMMAND.replace("odd.py]", "nope.py]", 1)))
    ran = [box.run("apply", "--auto-approve", **env)]
    (box.project / "falplan.yaml").write_text(text.replace("odd: {", "odd: {max_concurrency: 3, "))
    ran.append(box.run("apply", "--auto-approve", **{**env, "FALPLAN_FAILPOINTS": "apply.app.before_act=kill"}))
    ran.append(box.set_secret("ODD_STORED", ODD["STORED"] + b"\0", **env))
    ran.append(box.run("apply", "--auto-approve", **{**env, "XDG_STATE_HOME": "/proc/none"}))
    (box.project / "falplan.yaml").write_text(text)

    assert [r.code for r in ran[:3]] == [7, -9, 6], [(r.code, r.err) for r in ran]
    assert ran[3].code not in (0, 70), ran[3].err
    return ran


def marks(box: Sandbox) -> dict[str, set[str]]:
    """App -> its runners."""
    rows = json.loads(box.must("runners", "list", "--json").out)
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["endpoint"], set()).add(row["runner_id"])
    return found


THREE = {
    "a": f"{COMMAND}, secrets: [ODD_A]",
    "b": f"{COMMAND}, secrets: [ODD_A, ODD_B]",
    "c": f"{COMMAND}, secrets: []",
}
BOTH: dict[str, object] = {"ODD_A": {"env": "A"}, "ODD_B": {"env": "B"}}


@pytest.mark.faults
def test_a_new_value_restarts_exactly_the_apps_that_use_it(box: Sandbox) -> None:
    """A new key of the project restarts none. Seen red with a plan that takes a new fingerprint for a new value, and with
    a definition that leaves the versions out: the old value went on being used.
    """
    spec(box, BOTH, THREE)
    box.must("apply", "--auto-approve", A="1", B="1")
    before = marks(box)
    plan = box.must("plan", A="1", B="2").out
    box.must("apply", "--auto-approve", A="1", B="2")
    after = marks(box)

    assert "app.main.b will be updated in-place: secret.main.ODD_B changes" in plan
    assert "Plan: 0 to add, 2 to change, 0 to destroy." in plan
    assert [after[e] == before[e] for e in ("acme/a", "acme/b", "acme/c")] == [True, False, True]
    assert json.loads(box.must("call", "b", "{}").out)["ODD_B"] == hashlib.sha256(b"2").hexdigest()
    assert json.loads(box.must("call", "c", "{}").out) == {}

    box.must("secrets", "rotate-key")
    rotated = box.must("apply", "--auto-approve", A="1", B="2").out
    assert "Apply complete! 0 added, 2 changed, 0 destroyed." in rotated
    assert marks(box) == after
    assert "No changes." in box.must("plan", A="1", B="2").out

    spec(box, {"ODD_A": {"env": "A"}}, {**THREE, "b": f"{COMMAND}, secrets: [ODD_A]"})
    removed = box.must("apply", "--auto-approve", A="1")
    assert removed.err.index("app.main.b: Modification complete") < removed.err.index("secret.main.ODD_B: Destroying")
    assert set(json.loads(box.must("call", "b", "{}").out)) == {"ODD_A"}
    assert [row["name"] for row in json.loads(box.must("secrets", "list", "--json").out)] == ["ODD_A"]
    box.destroy()


def test_a_value_that_is_not_here_stays_as_it_was_applied_and_a_new_one_is_refused(box: Sandbox) -> None:
    """Seen red with a plan that takes a missing value for a removed one."""
    spec(box, {"ODD_A": {"env": "A"}}, {"a": COMMAND})
    refused = box.run("apply", "--auto-approve")
    untouched = not (box.project / ".falplan" / "state.json").exists() and not box.processes("serve")
    box.must("apply", "--auto-approve", A="1")
    runners = marks(box)
    spec(box, {"ODD_A": {"env": "A"}}, {"a": f"{COMMAND}, max_concurrency: 3"})
    changed = box.must("apply", "--auto-approve")
    plan = box.run("plan", "--detailed-exitcode")

    assert refused.code == 6
    assert "secret.main.ODD_A: the environment variable A is not set." in refused.err
    assert untouched
    assert (
        "secret.main.ODD_A: unknown (source not here): the environment variable A is not set; it is left as it was"
        in changed.out
    )
    assert "Apply complete! 0 added, 1 changed, 0 destroyed." in changed.out
    assert marks(box) == runners
    assert json.loads(box.must("call", "a", "{}").out) == {"ODD_A": hashlib.sha256(b"1").hexdigest()}
    assert plan.code == 1, "not everything is known"

    spec(box, BOTH, {"a": COMMAND})
    refused = box.run("apply", "--auto-approve")
    assert refused.code == 6
    assert "secret.main.ODD_B" in refused.err
    assert "secret.main.ODD_A:" not in refused.err
    assert "max_concurrency" in json.dumps(box.state()), "state is whole"


def test_a_stored_secret_is_set_before_and_after_the_first_apply(box: Sandbox) -> None:
    spec(box, {"ODD_A": {"stored": True}, "ODD_B": {"env": "B"}}, {"a": f"{COMMAND}, secrets: [ODD_A]"})
    unset = box.run("apply", "--auto-approve", B="1")
    box.set_secret("ODD_A", b"1\n")
    box.must("apply", "--auto-approve", B="1")
    first = json.loads(box.must("call", "a", "{}").out)
    again = box.set_secret("ODD_A", b"1")
    nothing = box.must("plan", B="1").out
    told = box.set_secret("ODD_A", b"2")
    plan = box.must("plan", B="1").out
    old = json.loads(box.must("call", "a", "{}").out)
    box.must("apply", "--auto-approve", B="1")
    new = json.loads(box.must("call", "a", "{}").out)

    assert unset.code == 6
    assert "falplan secrets set ODD_A" in unset.err
    assert first == old == {"ODD_A": hashlib.sha256(b"1").hexdigest()}
    assert again.code == 0
    assert "No changes." in nothing, "the same value is the same version"
    assert "app.main.a get it with the next `falplan apply`" in told.out
    assert "app.main.a will be updated in-place: secret.main.ODD_A changes" in plan
    assert new == {"ODD_A": hashlib.sha256(b"2").hexdigest()}
    assert box.set_secret("ODD_B", b"2").code == 6, "it is read from elsewhere"
    assert "did you mean" in box.set_secret("ODD_AA", b"2").err
    assert box.run("secrets", "unset", "ODD_A").code == 6, "an app uses it"
    box.check_converged(B="1")


def test_a_stored_secret_that_was_delivered_to_a_control_plane_that_then_died_is_found_there_again(
    box: Sandbox,
) -> None:
    """Apply was killed before it recorded that it had delivered the value, which lies nowhere else."""
    spec(box, {"ODD_A": {"stored": True}}, {"a": f"{COMMAND}, secrets: [ODD_A]"})
    box.set_secret("ODD_A", b"1")
    killed = box.run("apply", "--auto-approve", FALPLAN_FAILPOINTS="apply.secret.after_act=kill")
    box.kill_control_plane()
    assert killed.code < 0

    box.check_converged()

    assert json.loads(box.must("call", "a", "{}").out) == {"ODD_A": hashlib.sha256(b"1").hexdigest()}


@pytest.mark.faults
def test_a_control_plane_that_lost_its_secrets_gets_them_again(box: Sandbox) -> None:
    """Its key is gone: nothing can be opened, and apply delivers everything anew."""
    spec(box, {"ODD_A": {"env": "A"}}, {"a": COMMAND})
    box.must("apply", "--auto-approve", A="1")
    box.kill_control_plane()
    (home,) = (box.folder / "state" / "falplan").iterdir()
    (home / "secrets.key").unlink()
    box.must("apply", "--auto-approve", A="1")
    box.must("apply", "--auto-approve", A="1")
    for processes in box.runner_marks().values():
        for process in processes:
            process.kill()

    _until_answered(box)


@pytest.mark.faults
def test_a_value_that_was_changed_in_the_database_is_told_of_and_delivered_again(box: Sandbox) -> None:
    spec(box, {"ODD_A": {"env": "A"}}, {"a": COMMAND})
    box.must("apply", "--auto-approve", A="1")
    box.kill_control_plane()
    (home,) = (box.folder / "state" / "falplan").iterdir()
    thief = apsw.Connection(str(home / "control.db"))
    thief.execute("update secret_versions set sealed = zeroblob(length(sealed))")
    thief.close()
    box.run("apply", "--auto-approve", "--target", "gateway", A="1")
    plan = box.run("plan", "--detailed-exitcode", A="1")
    drift = box.run("drift", A="1")

    assert plan.code == 2
    assert "what the control plane kept of it was damaged, or changed by somebody else" in plan.out
    assert drift.code == 2
    box.check_converged(A="1")
    for processes in box.runner_marks().values():
        for process in processes:
            process.kill()
    _until_answered(box)


def _until_answered(box: Sandbox) -> None:
    def answers() -> bool:
        ran = box.run("call", "a", "{}")
        return ran.code == 0 and json.loads(ran.out) == {"ODD_A": hashlib.sha256(b"1").hexdigest()}

    try:
        wait_until(answers, 60)
    except Broken as exc:
        raise AssertionError(box.serve_log()) from exc
