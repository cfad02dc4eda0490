"""The look for what tests leave behind finds it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import leftovers

LISTENS = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


def test_a_process_its_port_and_a_folder_are_found_until_they_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    leftovers.mark()
    before = leftovers.take()
    with subprocess.Popen(
        [sys.executable, "-c", LISTENS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        port = process.stdout.readline().strip()
        folder = Path(tempfile.mkdtemp(prefix="fpf-"))
        found = leftovers.left_since(before, patience=0)
        folder.rmdir()
        process.kill()

    assert f"path {folder}" in found
    assert f"port {port}, of process {process.pid}" in found
    assert any(line.startswith(f"process {process.pid}: ") for line in found)
    assert not [line for line in leftovers.left_since(before, patience=0) if str(process.pid) in line]


@pytest.mark.parametrize("argv", [["-m", "falplan", "serve", "--home", "FOLDER"], ["-I", "supervisor.py", "FOLDER"]])
def test_what_got_no_mark_is_found_by_its_folder(argv: list[str], tmp_path: Path) -> None:
    folder = tempfile.mkdtemp(prefix="fpl-")
    sleeps = [sys.executable, "-c", "input()", *(a.replace("FOLDER", folder) for a in argv)]
    before = leftovers.take()
    with subprocess.Popen(sleeps, stdin=subprocess.PIPE, env={}) as process:
        found = leftovers.left_since(before, patience=0)
        process.kill()
    Path(folder).rmdir()

    assert any(line.startswith(f"process {process.pid}: ") for line in found)
