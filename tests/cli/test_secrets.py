"""`falplan secrets` before anything was applied: values come from standard input or a terminal, and are kept encrypted."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from falplan.stores.pending_secrets import PendingSecrets
from falplan.stores.project_key import ProjectKeys

SPEC = """\
version: 1
project: demo
environments:
  main: {secrets: {KEPT: {stored: true}, OTHER: {env: OTHER}}}
  staging: {secrets: {KEPT: {stored: true}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "falplan.yaml").write_text(SPEC)
    return project


def argv(folder: Path, *args: str) -> list[str]:
    return [sys.executable, "-m", "falplan", "-C", str(folder), "secrets", *args]


def environ(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FALPLAN_")}
    return {**kept, "XDG_STATE_HOME": str(folder.parent / "state"), "NO_COLOR": "1"}


def secrets(folder: Path, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv(folder, *args), input=stdin, capture_output=True, env=environ(folder), timeout=60)


def kept(folder: Path, address: str) -> bytes | None:
    state = folder / ".falplan"
    found = PendingSecrets(state / "secrets").read(address, ProjectKeys(state, {}).read())
    return found.value.reveal() if found else None


def test_a_value_waits_encrypted_until_there_is_a_control_plane(folder: Path) -> None:
    ran = secrets(folder, "set", "KEPT", stdin=b"hunter2hunter2\xff\n\n")
    secrets(folder, "set", "KEPT", "-e", "staging", stdin=b"other")
    files = [p for p in (folder / ".falplan").rglob("*") if p.is_file()]

    assert ran.returncode == 0, ran.stderr
    assert kept(folder, "secret.main.KEPT") == b"hunter2hunter2\xff\n"
    assert kept(folder, "secret.staging.KEPT") == b"other"
    assert not [p for p in files if b"hunter2" in p.read_bytes()]
    assert all(p.stat().st_mode & 0o077 == 0 for p in files)
    assert b"hunter2" not in ran.stdout + ran.stderr
    assert secrets(folder, "unset", "KEPT").returncode == 0
    assert kept(folder, "secret.main.KEPT") is None
    assert secrets(folder, "unset", "KEPT").returncode == 1


def test_a_value_that_waits_is_opened_by_an_older_key_and_by_no_other(folder: Path) -> None:
    secrets(folder, "set", "KEPT", stdin=b"value")
    rotated = secrets(folder, "rotate-key")
    found = kept(folder, "secret.main.KEPT")
    (folder / ".falplan" / "project.key").unlink()
    ProjectKeys(folder / ".falplan", {}).ensure()

    assert rotated.returncode == 0, rotated.stderr
    assert found == b"value"
    assert kept(folder, "secret.main.KEPT") is None


@pytest.mark.parametrize(
    ("name", "stdin", "code", "says"),
    [
        ("OTHER", b"x", 6, b"comes from env OTHER"),
        ("KEPTT", b"x", 3, b'did you mean "KEPT"?'),
        ("KEPT", b"hunter2\0", 6, b"NUL"),
        ("KEPT", b"hunter2" * 30_000, 6, b"bytes"),
    ],
)
def test_what_can_not_be_set_says_why_and_shows_nothing(
    folder: Path, name: str, stdin: bytes, code: int, says: bytes
) -> None:
    ran = secrets(folder, "set", name, stdin=stdin)

    assert ran.returncode == code
    assert says in ran.stderr
    assert b"hunter2" not in ran.stdout + ran.stderr
    assert not (folder / ".falplan" / "secrets").exists()


def test_a_terminal_is_asked_without_echo(folder: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        argv(folder, "set", "KEPT"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environ(folder),
        start_new_session=True,
    )
    shown = b""
    while b"KEPT: " not in shown:
        shown += os.read(leader, 1024)
    assert not termios.tcgetattr(leader)[3] & termios.ECHO
    os.write(leader, b"hunter2\n")
    while b"is kept" not in shown:
        shown += os.read(leader, 1024)
    process.wait(60)
    os.close(leader)
    os.close(follower)

    assert b"hunter2" not in shown
    assert kept(folder, "secret.main.KEPT") == b"hunter2"


def test_a_listing_names_sources_and_no_values(folder: Path) -> None:
    ran = secrets(folder, "list")

    assert ran.stdout.decode().split("\n")[1].split() == ["KEPT", "main", "stored"]
    assert b"env OTHER" in ran.stdout
