"""Which operations may run next. Knows nothing about how they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Walk:
    """Walks a graph of operations: each one after all that it waits for, and never what is downstream of a failure.

    `after` maps each operation to those that must be done before it. Operations become ready in the order of their names.
    """

    after: Mapping[str, Iterable[str]]
    skipped: dict[str, str] = field(default_factory=dict)  #: operation -> the failed one that it waited for
    _open: dict[str, set[str]] = field(init=False)
    _next: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self._open = {name: {d for d in before if d in self.after} for name, before in self.after.items()}
        self._next = {name: [] for name in self.after}
        for name in sorted(self._open):
            for before in self._open[name]:
                self._next[before].append(name)

    def start(self) -> list[str]:
        """The operations that wait for nothing."""
        return sorted(name for name, before in self._open.items() if not before)

    def finish(self, name: str) -> list[str]:
        """Mark one as done; returns those that become ready by it."""
        ready = []
        for after in self._next[name]:
            self._open[after].discard(name)
            if not self._open[after] and after not in self.skipped:
                ready.append(after)
        return ready

    def fail(self, name: str) -> list[str]:
        """Mark one as failed; returns those that are skipped because of it, for the first time."""
        skipped, stack = [], [name]
        while stack:
            for after in self._next[stack.pop()]:
                if after not in self.skipped:
                    self.skipped[after] = name
                    skipped.append(after)
                    stack.append(after)
        return sorted(skipped)
