"""Wherever a command runs, it ends with the right code: without terminal, home, disk, input, output or locale. Never a traceback,
never a prompt that nobody answers.

Seen red with the command line as it was before: a closed stdout that is flushed at the end (exit 1 and a traceback), output to a full disk
(120 and a traceback), a closed stdin that is asked whether it is a terminal, a home that nobody knows, a disk without a place for
temporary files (70 each).
"""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.sandbox import Sandbox

SPEC = """version: 1
project: shop
owner: acme
gateway: {provider: local, ephemeral: true}
apps:
  web: {command: python3 server.py, files: [server.py], machine_type: XS, environment_variables: {GREETING: "Grüß dich, 世界 ✅"}}
"""
PATIENCE = 100
"""Seconds after which a command counts as hung; a loaded machine needs a few."""


@dataclass(frozen=True)
class Command:
    """A command line, and its code where everything is as it should be."""

    argv: tuple[str, ...]
    code: int
    writes: bool = False  #: to disk, which a read-only one refuses with exit code 1
    silent: bool = False  #: prints nothing on stdout


COMMANDS = {
    "help": Command(("--help",), 0),
    "version": Command(("version",), 0),
    "init": Command(("-C", "empty", "init"), 0, writes=True),
    "validate": Command(("validate",), 0),
    "validate broken": Command(("-C", "broken", "validate"), 3, silent=True),
    "plan": Command(("plan", "--detailed-exitcode"), 2),
    "plan markdown": Command(("plan", "--format", "markdown"), 0),
    "plan saved": Command(("plan", "--out", "../it.plan"), 0, writes=True),
    "apply unapproved": Command(("apply",), 6, writes=True),  # its lock
    "drift": Command(("drift",), 1, silent=True),
    "show": Command(("show",), 0),
    "fmt": Command(("fmt", "--check"), 0, silent=True),
    "schema": Command(("schema", "plan"), 0),
    "secrets set": Command(("-C", "secret", "secrets", "set", "TOKEN"), 0, writes=True),
    "typo": Command(("plna",), 64, silent=True),
}


def tree(folder: Path) -> Path:
    """A project, one with a broken spec, an empty folder, and a home."""
    for name in ("empty", "broken", "secret", "home"):
        (folder / "project" / name).mkdir(parents=True)
    (folder / "project" / "falplan.yaml").write_text(SPEC)
    (folder / "project" / "server.py").write_text("print('ü')\n")
    secret = "environments: {main: {secrets: {TOKEN: {stored: true}}}}\napps: {web: {command: x}}\n"
    (folder / "project" / "secret" / "falplan.yaml").write_text(f"version: 1\nproject: secret\n{secret}")
    (folder / "project" / "broken" / "falplan.yaml").write_text(
        "version: 1\nproject: ü\napps: {web: {comand: 'é ✅'}}\n"
    )
    return folder / "project"


Outcome = tuple[int, bytes]
Place = Callable[[Sequence[str], Path, Mapping[str, str]], Outcome]


def run(argv: Sequence[str], cwd: Path, environ: Mapping[str, str], stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE) -> Outcome:  # fmt: skip
    done = subprocess.run(
        argv, cwd=cwd, env=environ, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=PATIENCE
    )
    return done.returncode, (done.stdout or b"") + done.stderr


def no_terminal(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
    return run(argv, cwd, {**environ, "CI": "true"})


def no_home(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
    """As in a container whose user has no entry in /etc/passwd: nothing says where home is."""
    stranger = "import os, sys, runpy, pwd\n" \
        "def unknown(uid): raise KeyError(uid)\n" \
        "pwd.getpwuid = unknown\n" \
        "sys.argv = ['falplan', *sys.argv[1:]]\nrunpy.run_module('falplan', run_name='__main__')"  # fmt: skip
    kept = {k: v for k, v in environ.items() if k != "HOME" and not k.startswith("XDG_")}
    return run([argv[0], "-c", stranger, *argv[3:]], cwd, kept)


def home_not_there(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
    kept = {k: v for k, v in environ.items() if not k.startswith("XDG_")}
    return run(argv, cwd, {**kept, "HOME": "/proc/nowhere"})


def read_only_disk(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
    """All of it, but for /proc, /dev and the like."""
    script = 'mount --make-rprivate / && for d in / /tmp /var /home /root /dev/shm "$PWD"; do ' \
        '[ ! -d "$d" ] || { mount --bind "$d" "$d" && mount -o remount,bind,ro "$d"; } || exit 99; done; cd "$PWD" && exec "$@"'  # fmt: skip
    return run([*UNSHARE, "sh", "-c", script, "sh", *argv], cwd, environ)


def closed(redirection: str) -> Place:
    def place(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
        return run(["sh", "-c", f'exec "$@" {redirection}', "sh", *argv], cwd, environ)

    return place


def c_locale(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
    kept = {k: v for k, v in environ.items() if not k.startswith("LC_")}
    c = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    return run(argv, cwd, {**kept, **c})


def broken_pipe(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return run(argv, cwd, environ, stdout=writer)
    finally:
        os.close(writer)


def terminal_80x0(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
    """A terminal of 0 columns, as some runners give, to write to; nobody types."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 80, 0, 0, 0))
    with subprocess.Popen(argv, cwd=cwd, env={**environ, "TERM": "xterm"}, stdin=subprocess.DEVNULL, stdout=theirs,
                          stderr=subprocess.PIPE) as process:  # fmt: skip
        os.close(theirs)
        try:
            out = b"".join(_all_of(ours))
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            os.close(ours)
    return process.returncode, out + err


def _all_of(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # how a terminal says that its last writer is gone
            return
        if not piece:
            return
        yield piece


def empty_environment(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
    """`env -i`: not even PATH. Only what makes this checkout's falplan the one that is imported, and what keeps the
    test from this user's own home."""
    kept = ("PYTHONPATH", "FALPLAN_MACHINE_DIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
    return run(argv, cwd, {k: environ[k] for k in kept if k in environ})


def full_disk(argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Outcome:
    """What is printed goes to a disk that is full."""
    with Path("/dev/full").open("wb") as full:
        return run(argv, cwd, environ, stdout=full.fileno())


UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
PLACES: dict[str, Place] = {
    "no terminal": no_terminal,
    "no home": no_home,
    "home not there": home_not_there,
    "read-only disk": read_only_disk,
    "closed stdin": closed("<&-"),
    "closed stdout": closed(">&-"),
    "closed stderr": closed("2>&-"),
    "C locale": c_locale,
    "broken pipe": broken_pipe,
    "80x0 terminal": terminal_80x0,
    "empty environment": empty_environment,
    "output to a full disk": full_disk,
}


def expected(place: str, command: Command) -> int:
    """The code that is right there."""
    if place == "read-only disk" and command.writes:
        return 1
    if place == "output to a full disk" and not command.silent and command.code in (0, 2):
        return 1
    return command.code


def cases() -> Iterator[object]:
    """Everything everywhere with the faults; in each run one command a place, and one place a command."""
    for row, place in enumerate(PLACES):
        for column, name in enumerate(COMMANDS):
            quick = row == column % len(PLACES)
            yield pytest.param(place, name, id=f"{place}: {name}", marks=[] if quick else [pytest.mark.faults])


@pytest.mark.parametrize(("place", "name"), list(cases()))
def test_a_command_ends_with_the_right_code_wherever_it_runs(tmp_path: Path, place: str, name: str) -> None:
    if place == "read-only disk" and not can_unshare():
        pytest.skip("needs unshare --mount")
    command, cwd = COMMANDS[name], tree(tmp_path)
    code, text = PLACES[place]([sys.executable, "-m", "falplan", *command.argv], cwd, _environ(tmp_path))

    told = text.decode(errors="replace")
    assert code == expected(place, command), told
    assert "Traceback" not in told
    assert "a bug in falplan" not in told


ATTACHED = {
    "drift": Command(("drift",), 0),
    "apps list": Command(("apps", "list"), 0),
    "apply": Command(("apply", "--auto-approve"), 0, writes=True),  # finds nothing to do
}
"""Commands that ask a control plane."""


@pytest.fixture(scope="module")
def deployed() -> Iterator[Sandbox]:
    box = Sandbox()
    try:
        box.must("apply", "--auto-approve")
        yield box
    finally:
        box.clean()


@pytest.mark.faults
@pytest.mark.parametrize("place", [p for p in PLACES if "home" not in p])
def test_so_do_commands_that_ask_the_control_plane(deployed: Sandbox, place: str) -> None:
    """Without a home it would not be found; where its data are, XDG_STATE_HOME says here."""
    if place == "read-only disk" and not can_unshare():
        pytest.skip("needs unshare --mount")
    for command in ATTACHED.values():
        argv = [sys.executable, "-m", "falplan", *command.argv]
        environ = deployed.environ(PYTHONDONTWRITEBYTECODE="1")
        code, text = PLACES[place](argv, deployed.project, environ)

        told = text.decode(errors="replace")
        assert code == expected(place, command), (command, told)
        assert "Traceback" not in told
        assert "a bug in falplan" not in told


def _environ(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FAL", "XDG_", "LC_", "COVERAGE")) and k != "CI"}
    return {
        **kept,
        "HOME": str(folder / "project" / "home"),
        "FALPLAN_MACHINE_DIR": str(folder / "ledger"),
        "XDG_STATE_HOME": str(folder / "project" / "home" / "state"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = [*UNSHARE, "sh", "-c", "mount --make-rprivate / && mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp"]
    return subprocess.run(probe, capture_output=True, timeout=30).returncode == 0
