"""Who waits for a runner of one app, and who is next. Knows no runners and no clock."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class Waiter:
    """One request that waits. `since` is on the monotonic clock. `granted` is called once, with the runner that it gets.

    `ticket` is its place for good: one that comes back stands where it stood.
    """

    since: float
    granted: Callable[[Any], None]
    low_priority: bool = False
    hint: str | None = None
    ticket: int = 0


@dataclass(slots=True)
class _Lane:
    """Waiters in order of their tickets. What was served is cut off in one go, so that taking the first one is cheap."""

    waiters: dict[int, Waiter] = field(default_factory=dict)
    tickets: list[int] = field(default_factory=list)
    start: int = 0

    def add(self, waiter: Waiter) -> None:
        self.waiters[waiter.ticket] = waiter
        insort(self.tickets, waiter.ticket, lo=self.start)

    def pop(self) -> Waiter:
        ticket = self.tickets[self.start]
        self.start += 1
        if self.start > 1024 and self.start * 2 > len(self.tickets):
            del self.tickets[: self.start]
            self.start = 0
        return self.waiters.pop(ticket)

    def remove(self, waiter: Waiter) -> bool:
        if self.waiters.pop(waiter.ticket, None) is None:
            return False
        del self.tickets[self.before(waiter) + self.start]
        return True

    def before(self, waiter: Waiter) -> int:
        return bisect_left(self.tickets, waiter.ticket, lo=self.start) - self.start


@dataclass(slots=True)
class Line:
    """The line of one app: first come, first served; low priority after normal, as on fal."""

    _normal: _Lane = field(default_factory=_Lane)
    _low: _Lane = field(default_factory=_Lane)
    _next: int = 1

    def __len__(self) -> int:
        return len(self._normal.waiters) + len(self._low.waiters)

    def __iter__(self) -> Iterator[Waiter]:
        yield from self._normal.waiters.values()
        yield from self._low.waiters.values()

    def enter(self, waiter: Waiter) -> None:
        """Stand in line: at the end, or, with a ticket, where one stood."""
        if not waiter.ticket:
            waiter.ticket, self._next = self._next, self._next + 1
        self._lane(waiter).add(waiter)

    def leave(self, waiter: Waiter) -> bool:
        """Step out. False if it did not stand here."""
        return self._lane(waiter).remove(waiter)

    def first(self) -> Waiter:
        """Who is next. The line must not be empty."""
        lane = self._normal if self._normal.waiters else self._low
        return lane.waiters[lane.tickets[lane.start]]

    def pop(self) -> Waiter:
        """Take who is next out of the line. The line must not be empty."""
        return (self._normal if self._normal.waiters else self._low).pop()

    def position(self, waiter: Waiter) -> int:
        """How many are served before."""
        ahead = len(self._normal.waiters) if waiter.low_priority else 0
        return ahead + self._lane(waiter).before(waiter)

    def _lane(self, waiter: Waiter) -> _Lane:
        return self._low if waiter.low_priority else self._normal
