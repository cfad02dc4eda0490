"""Pids that were a runner's and are somebody else's by now: nobody else is ended, and nothing of the runner is left.

The kernel is told which pid to give (`clone3` with `set_tid`), so that every pid in question is taken again, in each trial.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.lab.fleet import Fleet, a_fleet
from tests.lab.namespaces import LabHost

from .sandbox import Broken, Missing, kill, wait_until

TAKE = """
import ctypes, os, sys
CLONE3, SIGCHLD = 435, 17
libc = ctypes.CDLL(None, use_errno=True)
for wanted in map(int, sys.argv[1:]):
    pids = (ctypes.c_int * 1)(wanted)
    args = (ctypes.c_uint64 * 11)(0, 0, 0, 0, SIGCHLD, 0, 0, 0, ctypes.addressof(pids), 1, 0)
    got = libc.syscall(CLONE3, ctypes.byref(args), ctypes.sizeof(args))
    if got == 0:
        os.setsid()
        for number in (0, 1, 2):
            os.dup2(os.open("/dev/null", os.O_RDWR), number)
        os.execvp("sleep", ["sleep", "3600"])
    if got != wanted:
        sys.exit(f"{wanted}: errno {ctypes.get_errno()}")
"""
"""Starts a process under each of these pids."""


def parts(full: bool) -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    for number in range(20 if full else 1):
        yield f"pids of runners are others' {number}", partial(reused, trials=10 if full else 1)


def reused(rng: random.Random, trials: int) -> None:
    """A runner's processes are killed, others get their pids, and the control plane looks again, stops and starts.

    Seen red with a look that takes a pid for a process.
    """
    with a_fleet(("a",), least=1, most=1) as fleet:
        [host] = fleet.hosts
        fleet.apply()
        strangers: list[int] = []
        for number in range(trials):
            wait_until(lambda: fleet.where() == ["a"], 60, fleet.rows)
            strangers += _exchange(fleet, host, whole=rng.random() < 0.5)
            fleet.version = number + 2
            fleet.check_converged()
            _check_alive(host, strangers)
            if rng.random() < 0.5:
                fleet.must("runners", "stop", fleet.rows()[0]["runner_id"])
        fleet.destroy()
        _check_alive(host, strangers)
        wait_until(lambda: not fleet.running(), 20, fleet.running)


def _exchange(fleet: Fleet, host: LabHost, *, whole: bool) -> list[int]:
    """Kill a runner's supervisor, and its app as well if `whole`; let others have their pids before anybody looks. The pids, as there."""
    status = _status(fleet, host)
    serving = fleet.box.processes("serve")
    for process in serving:
        process.suspend()
    try:
        pids = [int(status["supervisor"]["pid"]), *([int(status["child"]["pid"])] if whole else [])]
        kill(_outside(host, pids))
        wait_until(lambda: not any(Path(f"/proc/{host.first}/root/proc/{pid}").exists() for pid in pids), 10)
        _take(host, pids)
    finally:
        for process in serving:
            process.resume()
    return pids


def _status(fleet: Fleet, host: LabHost) -> dict[str, Any]:
    """What the one runner's supervisor wrote down."""
    [row] = fleet.rows()
    [path] = host.disk.rglob(f"runners/{row['runner_id']}/status.json")
    return dict(json.loads(path.read_bytes()))


def _outside(host: LabHost, pids: list[int]) -> list[Any]:
    """The processes that are called so on the host."""
    import psutil

    found = []
    for pid in host.processes():
        text = Path(f"/proc/{pid}/status").read_text() if Path(f"/proc/{pid}").exists() else ""
        line = next((line for line in text.splitlines() if line.startswith("NSpid:")), "NSpid: 0")
        if int(line.split()[-1]) in pids:
            found.append(psutil.Process(pid))
    return found


def _take(host: LabHost, pids: list[int]) -> None:
    inside = ["nsenter", "-t", str(host.first), "--pid", "--mount", "--net", "--root"]
    argv = [*inside, "sh", "-c", 'cd /; exec /usr/local/bin/python3 -c "$0" "$@"', TAKE]
    done = subprocess.run([*argv, *map(str, pids)], capture_output=True, text=True, timeout=60)
    if done.stderr.strip().endswith(("errno 38", "errno 1")):  # ENOSYS, EPERM
        raise Missing("clone3 with set_tid", installable=False)
    if done.returncode:
        raise Broken(done.stderr)


def _check_alive(host: LabHost, strangers: list[int]) -> None:
    gone = [pid for pid in strangers if _line(host, pid) != b"sleep\x003600\0"]
    if gone:
        raise Broken(f"processes that are nobody's of ours were ended: {gone}")


def _line(host: LabHost, pid: int) -> bytes:
    try:
        return Path(f"/proc/{host.first}/root/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
