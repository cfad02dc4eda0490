"""How long operations take while they run, and when it is time to say so again. Reads no clock: every time comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

EVERY = 10.0
"""Seconds between two signs of life of one operation."""


@dataclass(slots=True)
class Stopwatch:
    """Operations under way, by address. Times are of any clock that never jumps, in seconds."""

    every: float = EVERY
    _since: dict[str, float] = field(default_factory=dict)
    _told: dict[str, float] = field(default_factory=dict)

    @property
    def running(self) -> list[str]:
        """Addresses of those that were begun and have not ended, sorted."""
        return sorted(self._since)

    def start(self, address: str, now: float) -> None:
        self._since[address] = self._told[address] = now

    def end(self, address: str, now: float) -> float:
        """Seconds that it took; it is not under way any more."""
        self._told.pop(address, None)
        return now - self._since.pop(address, now)

    def elapsed(self, address: str, now: float) -> float:
        """Seconds since it was begun; 0 for one that is not under way."""
        return now - self._since.get(address, now)

    def due(self, now: float) -> list[tuple[str, float]]:
        """(address, seconds elapsed) of those for which another `every` seconds went by, sorted. Each is told once."""
        found = []
        for address in self.running:
            if now - self._told[address] >= self.every:
                steps = (now - self._since[address]) // self.every
                self._told[address] = self._since[address] + steps * self.every
                found.append((address, now - self._since[address]))
        return found
