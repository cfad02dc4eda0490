"""What a whole run of tests leaves behind on this machine: a snapshot before it, one after it, and what is new.

Processes count if they carry the mark of this run, or live in a folder below the temporary one, as runners do, which get little
of their caller's environment. Listening sockets are named with the process that has them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "FALPLANS_TEST_RUN"
"""An environment variable that all that a test starts inherits."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is of falplan's on this machine, each as text."""

    processes: frozenset[str]
    sockets: frozenset[str]
    paths: frozenset[str]

    def new_in(self, later: Snapshot) -> list[str]:
        """What a later one has beside this one, sorted."""
        return sorted((later.processes - self.processes) | (later.sockets - self.sockets) | (later.paths - self.paths))


def mark() -> None:
    """Mark this process, and all that it starts."""
    os.environ.setdefault(MARK, uuid.uuid4().hex)


def take() -> Snapshot:
    """Look at the machine as it is now."""
    own = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    processes, sockets = set(), set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in own or process.status() == psutil.STATUS_ZOMBIE or not _is_ours(process):
                continue
            processes.add(f"process {process.pid}: {' '.join(process.cmdline())[:300]}")
            for found in process.net_connections("inet"):
                if found.status == psutil.CONN_LISTEN:
                    sockets.add(f"port {found.laddr.port}, of process {process.pid}")
    return Snapshot(frozenset(processes), frozenset(sockets), frozenset(f"path {p}" for p in _paths()))


def left_since(before: Snapshot, patience: float = 20.0) -> list[str]:
    """What is new since then and does not go away within `patience` seconds."""
    give_up = time.monotonic() + patience
    while (found := before.new_in(take())) and time.monotonic() < give_up:
        time.sleep(0.2)
    return found


def _is_ours(process: psutil.Process) -> bool:
    environ, line = process.environ(), " ".join(process.cmdline())
    if MARK in os.environ and environ.get(MARK) == os.environ[MARK]:
        return True
    temporary = tempfile.gettempdir()
    serves = f"falplan serve --home {temporary}" in line or (f" {temporary}" in line and "supervisor.py" in line)
    return serves or environ.get("FALPLAN_RUNNER_FOLDER", "").startswith(temporary)


def _paths() -> Iterator[Path]:
    """Where falplan, and what tests start, may leave something: data folders, sockets, ledgers, control groups, namespaces."""
    temporary, home = Path(tempfile.gettempdir()), Path.home()
    state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = [
        (temporary, "fpf-*"),
        (temporary, "falplan*"),
        (state / "falplan", "*"),
        (config / "falplan", "*"),
        (Path(f"/var/tmp/falplan-{os.getuid()}"), "*"),
        (Path("/run/netns"), "*"),
    ]
    if os.environ.get("XDG_RUNTIME_DIR"):
        places.append((Path(os.environ["XDG_RUNTIME_DIR"]), "falplan*"))
    for folder, pattern in places:
        yield from folder.glob(pattern)
    with contextlib.suppress(OSError):
        yield from Path("/sys/fs/cgroup").glob("**/falplan-*")
