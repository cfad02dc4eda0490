"""Two applies of one project at one moment: exactly one of them changes anything, and nothing is corrupted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from falplan.core.errors import ExitCode

from .provided import APPLY, BACKENDS, Fleet, change_hosts, place_of, some_hosts
from .sandbox import Broken

HOSTS = 40
ROUNDS = 10
"""Pairs of applies of one project, one after the other."""
SLOW = 0.25
"""Seconds that a change of the world lasts: long enough for the second apply to come while the first is at it."""


def race_cases(rng: random.Random, full: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    """50 pairs of applies for each backend, or a few."""
    rounds = ROUNDS if full else 2
    for number in range(50 // ROUNDS if full else 1):
        for backend in BACKENDS:
            seed = rng.randrange(2**32)
            name = f"{rounds} pairs of applies at once, state in {backend} {number} (seed {seed})"
            yield name, partial(races, backend, random.Random(seed), rounds)


def races(backend: str, rng: random.Random, rounds: int = ROUNDS, hosts: int = HOSTS) -> None:
    """A project that two applies are started for again and again, each time with another wish."""
    with place_of(backend) as place:
        fleet = Fleet(place=place)
        try:
            fleet.slow_down(SLOW)
            fleet.apply()
            fleet.hosts = some_hosts(hosts, rng)
            fleet.write()
            for number in range(rounds):
                if number:
                    change_hosts(fleet, rng)
                    fleet.hosts[f"new-{number}"] = {}  # whatever was drawn, there is something to do
                    fleet.write()
                both_at_once(fleet, waits=number % 2 == 1)
                fleet.check_applied()
            fleet.destroy()
        finally:
            fleet.clean()


def both_at_once(fleet: Fleet, *, waits: bool) -> None:
    """Start two applies together. One does everything; the other is refused, or `waits` and then has nothing to do.

    Raises:
        Broken: both changed the world, none did, or the one that was not first ended in another way.
    """
    seen = len(fleet.world.notes())
    timeout = ["--lock-timeout", "100" if waits else "0"]
    started = [fleet.start(*APPLY, *timeout) for _ in range(2)]
    ended = [(*process.communicate(timeout=200), process.returncode) for process in started]
    fleet.check_whole()
    codes = sorted(code for _, _, code in ended)
    notes = fleet.world.notes()[seen:]
    changing = {str(n["process"]) for n in notes if n["event"] == "begin" and n["verb"] not in ("look", "read")}
    story = "\n".join(f"exit {code}\n{out[-1500:]}\n{err[-1500:]}" for out, err, code in ended)
    if len(changing) != 1:
        raise Broken(f"{len(changing)} of two applies changed the world\n{story}")
    # One that only came when the other was done finds nothing to do, waiting or not.
    late = any("No changes." in out for out, _, _ in ended)
    if codes != ([ExitCode.DONE, ExitCode.DONE] if waits or late else [ExitCode.DONE, ExitCode.LOCKED]):
        raise Broken(f"two applies exited {codes}\n{story}")
