"""How many regions are looked at at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from falplan.engine.provided import Place, Provided, look_at
from falplan.sdk.resources import Found
from falplan.sdk.testing.memory import MemoryWorld
from falplan.sdk.testing.world import WorldProvider
from tests.core.builders import a_state

REGIONS = tuple(f"r{n}" for n in range(6))


class Crowd:
    """Who is inside together. A look waits until as many are inside as may be, and a moment longer for one too many."""

    def __init__(self, size: int) -> None:
        self.size, self.most, self.inside, self._lock = size, 0, 0, threading.Lock()
        self._together, self._crowded = threading.Barrier(size), threading.Event()

    def enter(self) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside > self.size:
                self._crowded.set()
        self._together.wait(10)
        self._crowded.wait(0.2)

    def leave(self) -> None:
        with self._lock:
            self.inside -= 1


class Crowded(WorldProvider):
    """A region that is slow to look at."""

    def __init__(self, region: str, crowd: Crowd) -> None:
        super().__init__(region, MemoryWorld())
        self._crowd = crowd

    def look(self, owner: str, known: Mapping[str, Found]) -> list[Found]:
        self._crowd.enter()
        found = super().look(owner, known)
        self._crowd.leave()
        return found


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_as_many_regions_are_looked_at_together_as_are_asked_for(size: int) -> None:
    """Seen red with eight at a time, whatever was asked for."""
    crowd = Crowd(size)
    places = {name: Place(name, "fake", Crowded(name, crowd)) for name in REGIONS}

    look_at(Provided(places), a_state(), at_a_time=size)

    assert crowd.most == size
