"""Forty planted values, sixty commands of which twenty fail, and every place that anything is written to or said in: nothing is found.

A value is looked for by a word in it that stands nowhere else: as it is, backwards, in hex, Base64 at each alignment, UTF-16, escaped for
URLs and JSON, split over lines; and every value by its plain hashes, which would give a short one away.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shlex
import signal
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from falplan.cli.group import _run
from falplan.engine.local_gateway import reach
from falplan.stores.home import ControlHome
from tests.canaries import leaked, word
from tests.faults.sandbox import Ran, Sandbox

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

SHAPES = (
    "{w}", " {w} ", "-{w}", "--{w}=x", "-rf {w}", "'{w}", '"{w}"', "{w}\\", "`{w}`", "$({w})", "${{{w}}}", "{{{{ {w} }}}}", "{{% raw %}}{w}",
    "%s{w}%d", "{{0}}{w}", "{w}\n", "\n{w}", "a\r\n{w}\r\nb", "\t{w}", "-----BEGIN KEY-----\n{w}\nb2s=\n-----END KEY-----\n", "{w}🔑☃",
    "ü{w}é", "e\u0301{w}", "\u202e{w}", "\ufeff{w}", "\x1b[31m{w}\x1b[0m", "https://u:{w}@h/p?q=1&r=2#f", "postgres://u:{w}@h/db",
    "Authorization: Bearer {w}", '{{"key": "{w}"}}', "key: &a {w}", "<a b='{w}'/>", "#{w}", "={w}", "~/{w}", "eyJhbGciOiJub25lIn0.{w}.",
)  # fmt: skip
BYTES = {
    36: b"\xff\xfe" + word(36).encode() + b"\xc3\x28\x80",
    37: word(37).encode() + b"x" * 65_000 + word(37).encode(),
    38: b"true",
    39: b"a",
}
VALUES: dict[str, bytes] = {f"ODD_{n:02d}": s.format(w=word(n)).encode() for n, s in enumerate(SHAPES)}
VALUES |= {f"ODD_{n:02d}": v for n, v in BYTES.items()}
STORED, FROM_ENVIRONMENT, FROM_COMMAND = "ODD_00", "ODD_01", "ODD_02"


HASHES = {
    f"{name} {kind}": hashlib.new(kind, value).hexdigest().encode()
    for name, value in VALUES.items()
    for kind in ("sha256", "sha1", "md5")
}  # fmt: skip


def leaks(content: bytes) -> list[str]:
    """Which shape of the word, or hash of a value, stands there."""
    return leaked(content) + [name for name, digest in HASHES.items() if digest in content]


APP = """
import hashlib, http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        found = {os.fsdecode(n): hashlib.sha512(v).hexdigest() for n, v in os.environb.items()}
        answer = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
SPEC = """version: 1
project: nowhere
owner: acme
environments:
  main: {{secrets: {secrets}}}
outputs: {{plain: {{value: said}}}}
apps:
  odd: {{command: ["{python}", odd.py], files: [odd.py], machine_type: XS, keep_alive: 300, startup_timeout: 60, max_concurrency: {most}, environment_variables: {{CALLS: "{calls}"}}}}
{more}"""

PLANTED_AROUND = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "SSH_AUTH_SOCK", "SSH_ASKPASS", "GITHUB_TOKEN",
    "GH_TOKEN", "GITLAB_TOKEN", "CI_JOB_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "HF_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY",
    "PGPASSWORD", "PGPASSFILE", "DATABASE_URL", "MYSQL_PWD", "REDIS_URL", "DOCKER_AUTH_CONFIG", "KUBECONFIG", "VAULT_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_SECRET", "NPM_TOKEN", "PIP_INDEX_URL", "UV_INDEX_URL", "TWINE_PASSWORD", "SUDO_ASKPASS",
    "SENTRY_DSN",
)  # fmt: skip
"""Variables of the controller that no app may get."""
OF_FALPLAN = {
    "HOST",
    "PORT",
    "FALPLAN_RUNNER",
    "FALPLAN_RUNNER_FOLDER",
    "FALPLAN_APP",
    "CALLS",
    "PYTHONUNBUFFERED",
    "CUDA_VISIBLE_DEVICES",
}
OF_FALPLAN |= {"CUDA_DEVICE_ORDER", "FAL_APP_NAME", "FAL_JOB_ID", "FAL_REGION"}
PASSED_ON = {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL"}


class World:
    """The sandbox, and all that was said and shown."""

    def __init__(self, box: Sandbox, kept: Path) -> None:
        self.box, self.kept, self.said = box, kept, list[tuple[str, int, bytes]]()
        self.found: set[str] = set()
        self.looks = 0
        for name, value in VALUES.items():
            (kept / name).write_bytes(value)
        (box.project / "odd.py").write_text(APP)
        self.write()

    def write(self, most: int = 2, more: str = "", less: str = "") -> None:
        sources: dict[str, object] = {name: {"file": str(self.kept / name)} for name in VALUES if name != less}
        sources[STORED] = {"stored": True}
        sources[FROM_ENVIRONMENT] = {"env": "PLANTED_ONE"}
        sources[FROM_COMMAND] = {"command": ["sh", "-c", f"cat {shlex.quote(str(self.kept / FROM_COMMAND))}"]}
        text = SPEC.format(
            secrets=json.dumps(sources), most=most, calls=self.box.calls, more=more, python=sys.executable
        )
        (self.box.project / "falplan.yaml").write_text(text)

    @property
    def environ(self) -> dict[str, str]:
        planted = {
            name: f"around-{name}" for name in PLANTED_AROUND
        }  # the control plane may have them, as whoever started it
        return {**planted, "PLANTED_ONE": os.fsdecode(VALUES[FROM_ENVIRONMENT]), "FALPLAN_DEBUG": "1"}

    def note(self, what: str, ran: Ran) -> Ran:
        self.said.append((what, ran.code, (ran.out + ran.err).encode("utf-8", "surrogateescape")))
        return ran

    def run(self, *args: str, **more: str) -> Ran:
        """As a process, while the command lines of all processes are looked at."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.005):
                self.look("cmdline")

        thread = threading.Thread(target=look)
        thread.start()
        try:
            return self.note(" ".join(args), self.box.run(*args, **{**self.environ, **more}))
        finally:
            over.set()
            thread.join()

    def look(self, name: str, but: frozenset[int] = frozenset()) -> None:
        self.looks += 1
        for pid in psutil.pids():
            if pid not in but:
                try:
                    content = Path(f"/proc/{pid}/{name}").read_bytes()
                except OSError:
                    continue
                self.found |= {f"{name} of {pid}: {leak}" for leak in leaks(content)}

    @property
    def home(self) -> ControlHome:
        [home] = (self.box.folder / "state" / "falplan").iterdir()
        return ControlHome(home)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    box = Sandbox()
    try:
        yield World(box, tmp_path_factory.mktemp("kept"))
    finally:
        box.clean()


READING = (
    "plan", "plan --json", "plan --format tree", "plan --format markdown", "plan --detailed-exitcode", "plan --refresh=false", "plan --refresh-only",
    "plan --destroy", "plan --json-into plan.json", "plan --out saved.plan", "plan --untrusted", "show", "show --json", "show secret.main.ODD_19",
    "show app.main.odd", "show saved.plan", "show saved.plan --json", "drift", "drift --json", "drift --markdown", "state list",
    "state show secret.main.ODD_37", "state show app.main.odd", "state pull", "state backup list", "output", "output --json", "output plain",
    "secrets list", "secrets list --json", "keys list", "apps list", "apps --json", "runners list --json", "audit", "audit --json", "graph", "validate", "env",
    "state repair",
)  # fmt: skip
FAILING = (
    "plan --var nope=1", "plan --target app.main.nope", "plan -e nope", "destroy", "apply nope.plan", "apply odd.py", "show nope.plan",
    "show app.main.nope", "state show nope", "state mv a b", "state rm nope", "state push odd.py", "output nope", "secrets unset ODD_00",
    "secrets set NOPE", "runners logs nope", "apps scale nope --max-concurrency 3", "force-unlock nope", "import app.main.x acme/x", "call nope {}",
)  # fmt: skip


def test_forty_values_are_nowhere(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For a fingerprint that is a plain hash, a value among a plan's inputs or in a command's arguments, and a control plane that inherits the
    command line's environment.
    """
    box = world.box
    world.note("secrets set", box.set_secret(STORED, VALUES[STORED], **world.environ))
    assert world.run("apply", "--auto-approve", "--json").code == 0, world.said[-1]
    answered = world.box.must("call", "odd", "{}").out
    got = json.loads(answered)

    assert {n: got[n] for n in VALUES} == {n: hashlib.sha512(v).hexdigest() for n, v in VALUES.items()}
    strange = set(got) - set(VALUES) - PASSED_ON - OF_FALPLAN - {"LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
    assert not strange & set(PLANTED_AROUND), strange
    assert sorted(strange) == [], "the app's environment is what was declared, and nothing else"

    _changes_and_failures(world)
    _in_this_process(world, monkeypatch, capfd)
    _asked_of_the_control_plane(world)
    _look_everywhere(world)


def _changes_and_failures(world: World) -> None:
    """Values that change, an app that never starts, an apply that is killed, interrupted, can't save: all with the values at hand."""
    box = world.box
    (world.kept / "ODD_05").write_bytes(VALUES["ODD_05"] + word(5).encode())
    world.write(
        more="  bad: {command: [python3, nope.py], files: [odd.py], machine_type: XS, min_concurrency: 1, startup_timeout: 5}\n"
    )
    assert world.run("apply", "--auto-approve", "--json").code not in (0, 70)
    world.write(most=3)
    assert world.run("apply", "--auto-approve", FALPLAN_FAILPOINTS="apply.app.before_act=kill").code == -signal.SIGKILL
    assert (box.project / ".falplan" / "state.journal").exists()
    world.found |= {f"journal: {leak}" for leak in leaks((box.project / ".falplan" / "state.journal").read_bytes())}
    assert world.run("apply", "--auto-approve").code == 0, world.said[-1]
    world.write(most=4)
    full = "journal.done.before_write=raise;state.save.before_write=raise"
    assert world.run("apply", "--auto-approve", FALPLAN_FAILPOINTS=full).code == 5, world.said[-1]
    assert (box.project / ".falplan" / "errored.json").exists()
    assert world.run("plan").code in (0, 1)
    assert world.run("apply", "--auto-approve").code == 6
    world.found |= {f"errored: {leak}" for leak in leaks((box.project / ".falplan" / "errored.json").read_bytes())}
    assert world.run("state", "push", "--auto-approve", str(box.project / ".falplan" / "errored.json")).code == 0, (
        world.said[-1]
    )
    assert world.run("apply", "--auto-approve").code == 0, world.said[-1]
    bug = world.run(
        "apply", "--auto-approve", "--replace", "app.main.odd", FALPLAN_FAILPOINTS="call.DEPLOY.before_send=nonsense"
    )
    assert bug.code in (0, 70)
    assert world.run("apply", "--auto-approve").code == 0, world.said[-1]
    world.note("too much", box.set_secret(STORED, VALUES[STORED] + b"\0", **world.environ))
    world.note("of a file", box.set_secret("ODD_03", VALUES[STORED], **world.environ))
    assert world.run("backup", "backup.tar.gz").code == 0, world.said[-1]


def _in_this_process(world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Commands that only read, and that fail, run as the group runs them, with what they print caught at the descriptors."""
    for name, value in world.box.environ(**world.environ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.box.project)
    for fails, commands in ((False, READING), (True, FAILING)):
        for command in commands:
            capfd.readouterr()
            code = int(_run(["-C", str(world.box.project), *command.split()]))
            out, err = capfd.readouterr()
            world.note(command, Ran(code, out, err))
            assert code != 70, (command, err)
            assert not (fails and code == 0), (command, out)
    for name in world.environ:
        monkeypatch.delenv(name)


def _asked_of_the_control_plane(world: World) -> None:
    """What it tells an admin, and what the gateway says of a runner."""
    client = reach(world.home)
    assert client is not None
    for path in ("/status", "/world", "/secrets", "/apps", "/runners", "/audit", "/keys", "/unfinished"):
        try:
            world.note(path, Ran(0, json.dumps(client.get(path)), ""))
        except Exception as exc:
            world.note(path, Ran(1, str(exc), ""))


def _look_everywhere(world: World) -> None:
    box = world.box
    mine = frozenset({os.getpid()})
    apps = frozenset(p.pid for processes in box.runner_marks().values() for p in processes)
    world.look("environ", mine | apps)
    world.look("cmdline")
    for what, _, content in world.said:
        world.found |= {f"said by {what}: {leak}" for leak in leaks(content)}
    for folder, _, names in os.walk(box.folder):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                world.found |= {f"{path}: {leak}" for leak in leaks(path.read_bytes())}
    with tarfile.open(box.project / "backup.tar.gz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            world.found |= {f"{member.name} in the backup: {leak}" for leak in leaks(file.read() if file else b"")}

    assert world.found == set()
    assert len(VALUES) == 40
    assert len(world.said) >= 60
    assert sum(code != 0 for _, code, _ in world.said) >= 20, [(w, c) for w, c, _ in world.said]
    assert world.looks > 20


def test_the_search_finds_what_there_is() -> None:
    """Every shape that is looked for is found where it stands: the search itself is no test that can't fail."""
    rng = random.Random(1)
    plain = VALUES["ODD_19"]
    noise = rng.randbytes(3000)
    for hidden in (
        plain, plain[::-1], plain.hex().encode(), base64.b64encode(plain), base64.b64encode(b"x" + plain), base64.b64encode(b"xy" + plain),
        json.dumps(plain.decode()).encode(), shlex.quote(plain.decode()).encode(), b"\n    | ".join(word(3).encode()[i : i + 4] for i in range(0, 14, 4)),
        hashlib.sha256(VALUES["ODD_39"]).hexdigest().encode(), word(1).encode("utf-16-le"),
    ):  # fmt: skip
        assert leaks(noise + hidden + noise), hidden
    assert leaks(noise) == []
