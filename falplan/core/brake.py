"""When the next machine may be bought after some in a row came to nothing: each was paid for. Decides alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from falplan.core.ages import in_words
from falplan.core.plural import count

ALLOWED = 1
"""Machines in a row that may come to nothing before anything waits: one is bad luck."""
FIRST, LONGEST = 120.0, 3_600.0
"""Seconds until the next one is bought; twice as long after each further one."""


@dataclass(frozen=True, slots=True)
class Dud:
    """A machine that was bought and ended, or was given up, before it took a runner. `at` is when, in seconds since 1970."""

    at: float
    because: str


def brake(duds: Sequence[Dud], *, now: float) -> str:
    """Why nothing is bought now; empty if something may be. `duds` are those since the last machine that took runners, the newest first."""
    over = len(duds) - ALLOWED
    if over <= 0:
        return ""
    until = duds[0].at + min(LONGEST, FIRST * 2.0 ** (over - 1))
    if now >= until:
        return ""
    last, left = duds[0].because.rstrip("."), in_words(until - now)
    row = f"{count(len(duds), 'machine')} in a row came to nothing, the last one as {last}"
    return f"{row}; another one is bought in {left}, or once the region is changed in the spec"
