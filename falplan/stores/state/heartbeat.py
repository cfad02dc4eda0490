"""Says again and again that a lock's holder lives. Knows no place."""

from __future__ import annotations

import threading
from collections.abc import Callable

from falplan.core.errors import FalplanError
from falplan.stores.state.backend import Lost, NotWritten


class Heartbeat:
    """Calls `beat` every third of the lease, in a thread of its own, until it is stopped or the lock turns out to be lost.

    A beat that fails otherwise is tried again: whether the lock is still ours is decided by the next write, never here.
    """

    def __init__(self, beat: Callable[[], None], lease: float) -> None:
        self._beat, self._pause = beat, lease / 3
        self._stop = threading.Event()
        self.lost: Lost | None = None
        self._thread = threading.Thread(target=self._run, name="state-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No beat is under way, and none follows, once this returns."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                self._beat()
            except Lost as exc:
                self.lost = exc
                return
            except (FalplanError, NotWritten):
                continue  # the place is away for the moment; the lease may outlive that
