"""What is told of starts under way, for whoever waits for them. Kept nowhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

Say = Callable[[str], None]
"""Takes a line of progress, from any thread."""


@dataclass(slots=True)
class Progress:
    """Lines about runners that are being started. Safe from any thread."""

    _lines: dict[str, list[str]] = field(default_factory=dict)
    _listeners: dict[str, Say] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, runner_id: str, line: str) -> None:
        """Take a line, and pass it on to whoever listens."""
        with self._turn:
            self._lines.setdefault(runner_id, []).append(line)
            say = self._listeners.get(runner_id)
            if say:
                say(line)

    def listen(self, runner_id: str, say: Say) -> None:
        """Pass on what was told already, and what will be. Once for each runner: another call changes nothing."""
        with self._turn:
            if runner_id not in self._listeners:
                self._listeners[runner_id] = say
                for line in self._lines.get(runner_id, []):
                    say(line)

    def forget(self, runner_id: str) -> None:
        """Its start is over."""
        with self._turn:
            self._lines.pop(runner_id, None)
            self._listeners.pop(runner_id, None)
