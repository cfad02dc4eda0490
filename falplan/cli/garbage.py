"""How often Python looks for garbage in a command's process. A command makes many objects, keeps nearly all, and ends."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()


def collect_rarely() -> None:
    """For commands: a third of a large plan's time went into looking through objects that all were still needed."""
    gc.set_threshold(100_000, 20, 100)


def collect_as_usual() -> None:
    """For what goes on for weeks."""
    gc.set_threshold(*_USUAL)
