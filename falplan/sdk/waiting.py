"""What is being waited for, so that somebody can say so: a machine that says nothing is told from a program that hangs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

TOLD_AFTER = 3.0
"""Seconds after which a wait is told of."""


@dataclass(slots=True, eq=False)
class Wait:
    """One wait. `what` is as people read it, `at_most` the seconds after which it is given up, `since` monotonic seconds."""

    what: str
    at_most: float
    since: float = field(default_factory=time.monotonic)
    told: bool = False


Listener = Callable[[Sequence[Wait]], None]


@dataclass(slots=True)
class _Waits:
    listener: Listener | None = None
    under_way: set[Wait] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)
    watched: bool = False

    def watch(self) -> None:
        """Tell of each wait that lasts; ends with the last one."""
        while True:
            with self.changed:
                if not self.under_way:
                    self.watched = False
                    return
                due = [w for w in self.under_way if not w.told]
                left = min((w.since + TOLD_AFTER - time.monotonic() for w in due), default=TOLD_AFTER)
                if left > 0:
                    self.changed.wait(left)
                    continue
                long = [w for w in due if w.since + TOLD_AFTER <= time.monotonic()]
                for one in long:
                    one.told = True
                listener = self.listener
            if listener is not None:
                listener(sorted(long, key=lambda w: w.what))


_waits = _Waits()


def tell(listener: Listener | None) -> None:
    """Have waits that last longer than `TOLD_AFTER` told to `listener`, each once, from another thread. None: to nobody."""
    _waits.listener = listener


@contextlib.contextmanager
def waiting_for(what: str, at_most: float) -> Iterator[None]:
    """The block waits for something, for so many seconds at most."""
    wait = Wait(what, at_most)
    with _waits.changed:
        _waits.under_way.add(wait)
        if _waits.listener is not None and not _waits.watched:
            _waits.watched = True
            threading.Thread(target=_waits.watch, name="waits", daemon=True).start()
    try:
        yield
    finally:
        with _waits.changed:
            _waits.under_way.discard(wait)
            if not _waits.under_way:
                _waits.changed.notify_all()
