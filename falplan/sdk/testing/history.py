"""What the history of a fake world shows: which rules were broken, and what was made how often. Reads lines, and no world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from falplan.core.values import JsonObject


def violations(notes: Sequence[JsonObject]) -> list[str]:
    """Everything that should never have happened, in order; empty if all is well.

    Two processes changing the world at one time; two calls for one address at once; a second thing of one address beside one that it
    does not replace; something made before what it depends on; more than one thing made for one operation while each of them was there.
    """
    told = [str(n["what"]) for n in notes if n["event"] == "violation"]
    return told + [f"operation {o} made {', '.join(made)} at once" for o, made in _twice(notes).items()]


def made(notes: Iterable[JsonObject]) -> Counter[str]:
    """How many things were made for each operation."""
    return Counter(str(n["operation"]) for n in notes if n["event"] == "made")


def _twice(notes: Iterable[JsonObject]) -> dict[str, list[str]]:
    there: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    for note in notes:
        operation, identity = str(note["operation"]), str(note.get("identity", ""))
        if note["event"] == "made":
            mine = there.setdefault(operation, [])
            mine.append(identity)
            if len(mine) > 1:
                found[operation] = list(mine)
        elif note["event"] == "removed":
            for mine in there.values():
                if identity in mine:
                    mine.remove(identity)
    return found
