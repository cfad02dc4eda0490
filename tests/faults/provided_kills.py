"""kill -9 of applies of 400 hosts at random instants, with state in each backend; after each of them one apply converges.

The checks were seen red with a `create` that ignores the mark, which makes two hosts of one address: see test_provided.py.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

from .provided import APPLY, BACKENDS, Fleet, change_hosts, meddle, place_of, some_hosts
from .sandbox import Broken

HOSTS = 400
TRIALS = 10
"""Kills in one project, one after the other: each finds what the ones before it left."""
USUAL = 4.0
"""Seconds that an apply of that many hosts takes after its first look: planning, the changes, and the last save."""
SLOW = 0.02
"""Seconds that a change of the world lasts."""


def kill_cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    """200 kills for each backend, or a few."""
    trials = TRIALS if full else 3
    for number in range(200 // TRIALS if full else 1):
        for backend in BACKENDS:
            seed = rng.randrange(2**32)
            name = f"{trials} kills of an apply of {HOSTS} hosts, state in {backend} {number} (seed {seed})"
            yield name, partial(kills, backend, random.Random(seed), trials)


def fifty_cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    """1,000 kills of applies of 50 hosts, state beside the spec, or three."""
    trials = TRIALS if full else 3
    for number in range(1000 // TRIALS if full else 1):
        seed = rng.randrange(2**32)
        run = partial(kills, "local", random.Random(seed), trials, hosts=50, usual=1.0)
        yield f"{trials} kills of an apply of 50 hosts {number} (seed {seed})", run


def kills(backend: str, rng: random.Random, trials: int = TRIALS, *, hosts: int = HOSTS, usual: float = USUAL) -> None:
    """A project that is killed again and again, at another instant and on the way to another wish each time."""
    with place_of(backend) as place:
        fleet = Fleet(place=place)
        struck = 0
        try:
            fleet.slow_down(SLOW)
            fleet.apply()  # the control plane alone, which lasts: it is not what is killed here
            fleet.hosts = some_hosts(hosts, rng)
            fleet.write()
            for number in range(trials):
                if number:
                    change_hosts(fleet, rng)
                    meddle(fleet, rng)
                struck += _kill_once(fleet, rng, usual)
                if rng.random() < 0.3:
                    if rng.random() < 0.5:
                        change_hosts(fleet, rng)
                    struck += _kill_once(fleet, rng, usual)
                fleet.apply()
                fleet.check_applied()
            if not struck and trials >= 10:  # so few as in each `make faults` may all come too late
                raise Broken("no kill struck an apply: the case proves nothing")
            fleet.destroy()
            if fleet.things():
                raise Broken(f"left behind: {fleet.things()}")
        finally:
            fleet.clean()


def _kill_once(fleet: Fleet, rng: random.Random, usual: float) -> bool:
    """Kill an apply somewhere between its first look at the world and its usual end. Returns whether it was under way."""
    journal = fleet.world.folder / "journal.jsonl"
    begun = journal.stat().st_size
    process = fleet.start(*APPLY, "--lock-timeout", "60")
    instant = rng.uniform(0, usual)
    while process.poll() is None and journal.stat().st_size == begun:
        time.sleep(0.01)
    give_up = time.monotonic() + instant
    while process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate()
    if process.returncode not in (-signal.SIGKILL, 0):
        raise Broken(f"apply exited {process.returncode}\n{out[-2000:]}\n{err[-2000:]}")
    fleet.check_whole()
    return process.returncode != 0
