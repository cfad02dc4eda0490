"""The control plane's log: it is rotated, nothing that is printed is lost, and a full disk costs lines alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, os, resource, sys, threading
from pathlib import Path
from falplan.control.logfile import log_to_stderr_or
os.umask(0o077)
path, what = Path(sys.argv[1]), sys.argv[2]
print("before logging is up", file=sys.stderr, flush=True)
log_to_stderr_or(path, largest=20_000, kept=3)
log = logging.getLogger("test")
if what == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for n in range(1000):
    log.info("line %d %s", n, "x" * 60)
    if what == "full" and n == 500:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
os.write(2, b"past logging\\n")
if what == "crash":
    os.abort()
if what == "thread":
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
print("done", flush=True)
"""


def ran(path: Path, what: str) -> subprocess.CompletedProcess[bytes]:
    """The program with its output in the log, as a control plane that was started detached."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        argv = [sys.executable, "-c", PROGRAM, str(path), what]
        return subprocess.run(argv, stdout=descriptor, stderr=descriptor, timeout=60, check=False)
    finally:
        os.close(descriptor)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("serve.log*"))


def test_the_log_is_rotated_and_the_newest_files_stay_private(tmp_path: Path) -> None:
    """Seen red with a plain handler: one file of everything."""
    assert ran(tmp_path / "serve.log", "plain").returncode == 0

    assert [p.name for p in files(tmp_path)] == ["serve.log", "serve.log.1", "serve.log.2", "serve.log.3"]
    assert all(p.stat().st_size <= 21_000 for p in files(tmp_path))
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in files(tmp_path))
    assert "line 999 " in (tmp_path / "serve.log").read_text()


def test_what_bypasses_logging_is_found_in_the_newest_file(tmp_path: Path) -> None:
    """Seen red with standard error left at the first file: last words were in one that was deleted."""
    for what, words in (
        ("plain", "past logging"),
        ("thread", "ZeroDivisionError"),
        ("crash", "Fatal Python error: Aborted"),
    ):
        folder = tmp_path / what
        folder.mkdir()
        ran(folder / "serve.log", what)

        assert words in (folder / "serve.log").read_text()


def test_words_from_before_logging_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "serve.log"
    path.write_text("of an earlier one\n")
    ran(path, "plain")
    text = "".join(p.read_text() for p in files(tmp_path))
    assert "of an earlier one" not in text  # three files on, as everything of that age

    path.unlink()
    subprocess.run([sys.executable, "-c", PROGRAM.replace("range(1000)", "range(3)"), str(path), "plain"], check=True)
    assert not path.exists()  # its standard error is not the log: nothing is written there


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """Seen red with an error of the handler that reached its caller."""
    done = ran(tmp_path / "serve.log", "full")
    text = "".join(p.read_text() for p in files(tmp_path))

    assert done.returncode == 0, text[-2000:]
    assert "line 999 " in text
    assert "line 100 " not in text


def test_a_second_process_begins_a_new_file_and_the_first_follows(tmp_path: Path) -> None:
    """As a control plane and its successor. Seen red with a handler that held on to its file."""
    path = tmp_path / "serve.log"
    elsewhere = "log.info('first'); os.rename(path, str(path) + '.1'); path.touch(0o600)"
    code = PROGRAM.replace("for n in range(1000)", f"{elsewhere}\nfor n in range(2)")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    argv = [sys.executable, "-c", code, str(path), "plain"]
    subprocess.run(argv, stdout=descriptor, stderr=descriptor, timeout=60, check=True)
    os.close(descriptor)

    text = path.read_text()
    assert "line 1 " in text
    assert "past logging" in text
    assert (tmp_path / "serve.log.1").read_text().startswith("before logging is up\n")
