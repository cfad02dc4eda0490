"""A fake world in memory, for tests within one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from falplan.core.values import JsonObject
from falplan.sdk.testing.rules import Rule
from falplan.sdk.testing.things import Call, Lag, Thing


class Died(BaseException):
    """Stands for SIGKILL within one process: nothing may catch it but the test."""


class MemoryWorld:
    """Things in memory. `faults` may be set at any time. After a death, `restart` begins what stands for the next process."""

    def __init__(self) -> None:
        self.faults: list[Rule] = []
        self.dead = False
        self._things: dict[str, Thing] = {}
        self._notes: list[JsonObject] = []
        self._counts: dict[int, int] = {}
        self._calls: list[Call] = []
        self._lags: list[Lag] = []
        self._number = 0
        self._life = 1
        self._mutex = threading.RLock()

    def restart(self) -> None:
        """The next process: calls of the one before are over, however they ended, and rules count anew."""
        self._life += 1
        self.dead = False
        self._counts.clear()

    def process(self) -> str:
        return str(self._life)

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._mutex:
            if self.dead:
                raise Died
            yield

    def number(self) -> int:
        self._number += 1
        return self._number

    def things(self, region: str, address: str | None = None) -> list[Thing]:
        found = (t for t in self._things.values() if t.region == region and address in (None, t.address))
        return sorted(found, key=lambda t: t.identity)

    def find(self, region: str, identity: str) -> Thing | None:
        found = self._things.get(identity)
        return found if found and found.region == region else None

    def put(self, thing: Thing, instead: Thing | None = None) -> None:
        self._things[thing.identity] = thing

    def remove(self, thing: Thing) -> None:
        self._things.pop(thing.identity, None)

    def note(self, line: JsonObject) -> None:
        self._notes.append(line)

    def notes(self) -> list[JsonObject]:
        return list(self._notes)

    def enter(self, call: Call) -> list[Call]:
        self._calls = [c for c in self._calls if c.process == call.process]
        others = list(self._calls)
        self._calls.append(call)
        return others

    def leave(self, call: Call) -> None:
        self._calls.remove(call)

    def rules(self) -> list[Rule]:
        return self.faults

    def passed(self, rule: int) -> int:
        self._counts[rule] = self._counts.get(rule, 0) + 1
        return self._counts[rule]

    def lags(self) -> list[Lag]:
        return self._lags

    def keep_lags(self, lags: list[Lag]) -> None:
        self._lags = lags

    def die(self) -> None:
        self.dead = True
        raise Died
