"""Before what machines stand in is removed, none of them is left that carries the project's mark: their provider is asked, not believed."""

from __future__ import annotations

import time
from collections.abc import Callable

from falplan.core.errors import FalplanError
from falplan.core.plural import count
from falplan.sdk.launches import Bought, Elastic, Stage

PATIENCE = 600.0
"""Seconds that machines get to end. GPU machines take some minutes."""
PAUSE = 5.0


def end_all(
    seller: Elastic, owner: str, say: Callable[[str], None], *, pause: Callable[[float], None] = time.sleep
) -> None:
    """End every machine that is there still, and wait until all are gone. May be called again.

    The control plane has given back what it bought; it may be dead, or have lost its memory.

    Raises:
        FalplanError: some are there still, or nobody answers.
    """
    waited, told = 0.0, False
    while True:
        left = [m for m in seller.look(owner) if m.stage is not Stage.GONE]
        if not left:
            return
        if waited >= PATIENCE:
            names = ", ".join(sorted(m.identity for m in left))
            raise FalplanError(
                "Machines are there still", f"{names}: they do not end. Apply again, or end them by hand."
            )
        alive = [m.identity for m in left if m.stage is not Stage.ENDING]
        if alive:
            seller.end(owner, alive)
        if not told:
            say(_said(left))
            told = True
        pause(PAUSE)
        waited += PAUSE


def _said(left: list[Bought]) -> str:
    names = ", ".join(sorted(f"{m.identity} ({m.pool.offer})" for m in left))
    return f"ending {count(len(left), 'machine')}: {names}"
