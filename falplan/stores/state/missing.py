"""A state that was there and is gone: nothing is planned as if nothing had ever been applied."""

from __future__ import annotations

from collections.abc import Sequence

from falplan.core.state import StateUnreadable
from falplan.stores.state.interface import Kept


class StateMissing(StateUnreadable):
    """There is none, and there was one. Nothing was touched."""


def why_missing(where: str, backups_where: str, kept: Sequence[Kept], remembered: str) -> str:
    """Why a place without a state had one; empty if nothing says so. `remembered` is the lineage that was last written from here."""
    if kept:
        copies = f"{len(kept)} earlier {'state is' if len(kept) == 1 else 'states are'}"
        return f"{where} does not exist, and {copies} kept in {backups_where}, the newest as {kept[0].name}"
    return f"{where} does not exist, and this machine wrote lineage {remembered} there" if remembered else ""


def missing(why: str, marker: str) -> StateMissing:
    """The refusal. `marker` is the file that remembers where the state was."""
    return StateMissing(
        "The state is missing",
        f"{why}. What was applied may still run, and would be made a second time. Nothing was touched. "
        "`falplan state repair` shows what can be put in its place, or `falplan state push FILE` puts a copy of yours there. "
        f"To begin anew, with nothing that runs: remove what copies there are, and {marker}.",
    )
