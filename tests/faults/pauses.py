"""An apply that sleeps past its lease while another one takes over: what it does when it wakes is refused, and nothing is lost.

SIGSTOP at a random instant, for longer than three leases, then SIGCONT. A local lock is its process's as long as that lives, so this is
about S3 and PostgreSQL. A call to a provider that was on its way when the process fell asleep still arrives; no other one may.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from falplan.core.errors import ExitCode

from .provided import Fleet, change_hosts, place_of, some_hosts
from .sandbox import PATIENCE, Broken, wait_until

HOSTS = 40
PARALLELISM = 4
APPLY = ("apply", "--auto-approve", "--parallelism", str(PARALLELISM), "--lock-timeout", "60")
LEASE = 3.0
SLOW = 0.2
"""Seconds that a change of the world lasts: with so many hosts, an apply is at it for about two seconds."""
TRIALS = 10
"""Pauses in one project, one after the other."""


def pause_cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    """100 pauses for each backend that has a lease, or two."""
    trials = TRIALS if full else 2
    for number in range(100 // TRIALS if full else 1):
        for backend in ("s3", "postgres"):
            seed = rng.randrange(2**32)
            yield (
                f"{trials} pauses of an apply, state in {backend} {number} (seed {seed})",
                partial(pauses, backend, random.Random(seed), trials),
            )


def pauses(backend: str, rng: random.Random, trials: int = TRIALS) -> None:
    """A project whose applies are put to sleep again and again, until so many of them slept through another one's work."""
    with place_of(backend) as place:
        fleet = Fleet(place=place, lease=LEASE)
        try:
            fleet.slow_down(SLOW)
            fleet.apply()
            fleet.hosts = some_hosts(HOSTS, rng)
            fleet.write()
            slept = 0
            for number in range(3 * trials):
                slept += _sleep_once(fleet, number, rng)
                if slept == trials:
                    break
            else:
                raise Broken(f"only {slept} of {3 * trials} applies were at work when they were paused")
            fleet.destroy()
        finally:
            fleet.clean()


def _sleep_once(fleet: Fleet, number: int, rng: random.Random) -> bool:
    """One apply sleeps, another one with another wish does its work meanwhile. Returns whether the first one still had work to do."""
    fleet.hosts[f"new-{number}"] = {}  # whatever was drawn, there is something to do
    change_hosts(fleet, rng)
    begun = len(fleet.world.notes())
    first = fleet.start(*APPLY)
    try:
        wait_until(lambda: len(_changing(fleet, begun)) > 0 or first.poll() is not None, PATIENCE)
        if not _asleep(fleet, first, rng.uniform(0, 1.5)):
            first.communicate(timeout=PATIENCE)
            return False
        if fleet.holder() is None:  # all was saved, and the lock given back
            first.send_signal(signal.SIGCONT)
            first.communicate(timeout=PATIENCE)
            return False
        asleep = time.monotonic()
        state = fleet.read_state()
        journaled = {r.intent.operation for r in state.resources.values() if r.intent} if state else set()
        change_hosts(fleet, rng)
        fleet.must(*APPLY)
        fleet.check_whole()
        time.sleep(max(0.0, asleep + 3 * LEASE - time.monotonic()))
        seen = len(fleet.world.notes())
        first.send_signal(signal.SIGCONT)
        out, err = first.communicate(timeout=PATIENCE)
    finally:
        if first.poll() is None:
            first.kill()
            first.communicate()
    late = _changing(fleet, seen)
    if (
        first.returncode == 0 and not late
    ):  # it slept between its last write and the end of its lock, which was all that it lost
        _check_converges(fleet)
        return False
    _check_refused(first.returncode, out, err)
    if len(late) > PARALLELISM or not late <= journaled:
        raise Broken(
            f"changed by the one that slept: {late}; on their way were {journaled}\n{out[-2000:]}\n{err[-2000:]}"
        )
    _check_converges(fleet)
    return True


def _asleep(fleet: Fleet, process: subprocess.Popen[str], after: float) -> bool:
    """Pause the process so many seconds from now, but not while it keeps the fake world for itself: no cloud is kept so."""
    time.sleep(after)
    while process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: _is_stopped(process.pid), 10)
        if _is_free(fleet.world.folder / "lock"):
            return True
        process.send_signal(signal.SIGCONT)
        time.sleep(0.002)
    return False


def _is_stopped(pid: int) -> bool:
    """Whether each of its threads is: a signal takes its time to reach them all. A process that has ended counts as stopped."""
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(stat.read_text().rpartition(")")[2].split()[0])
    return all(state in "TtZX" for state in states)


def _is_free(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(20):  # another thread of another process may have it for a moment
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.001)
            else:
                return True
    finally:
        os.close(descriptor)
    return False


def _changing(fleet: Fleet, since: int) -> set[str]:
    """Operations of calls that were begun and change something."""
    notes = fleet.world.notes()[since:]
    return {str(n["operation"]) for n in notes if n["event"] == "begin" and n["verb"] not in ("look", "read")}


def _check_refused(code: int, out: str, err: str) -> None:
    if code != ExitCode.STATE_NOT_SAVED or "The lock was lost" not in err:
        raise Broken(f"an apply that lost its lock exited {code}\n{out[-2000:]}\n{err[-2000:]}")
    if "Traceback" in err or not out.rstrip().splitlines():
        raise Broken(f"no summary, or a traceback\n{out[-2000:]}\n{err[-2000:]}")


def _check_converges(fleet: Fleet) -> None:
    """What could not be saved is told of until somebody gives it up; what arrived late is found by the next apply, and all is as wanted."""
    fleet.check_whole()
    unsaved = fleet.project / ".falplan" / "errored.json"
    if unsaved.exists():
        refused = fleet.run(*APPLY)
        if refused.code != ExitCode.REFUSED or f"rm {unsaved}" not in refused.err:
            raise Broken(
                f"an apply beside {unsaved} exited {refused.code}\n{refused.out[-2000:]}\n{refused.err[-2000:]}"
            )
        unsaved.unlink()
    fleet.apply()
    fleet.check_applied(overlaps=True)
