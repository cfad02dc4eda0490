"""Notes in the place of a state: where it went, or that there is none yet. An older falplan refuses them as damaged, never as empty."""

from __future__ import annotations

import json
from dataclasses import dataclass

from falplan.core.state import State
from falplan.core.values import JsonObject, digest

KIND = "falplan state: moved"
NOTHING = "falplan state: none yet"


@dataclass(frozen=True, slots=True)
class Moved:
    """Where a state went, and which it was."""

    lineage: str
    serial: int
    project: str
    to: str

    @property
    def text(self) -> str:
        return (
            f"the state of {self.project} was moved to {self.to} at serial {self.serial}. "
            "Write that place under `state:` in the spec; where it is there already, `falplan state migrate` makes this folder use it."
        )


def moved_note(state: State, to: str) -> bytes:
    """The note, as JSON text with a checksum."""
    body: JsonObject = {
        "kind": KIND,
        "project": state.project,
        "lineage": state.lineage,
        "serial": state.serial,
        "moved_to": to,
    }
    return (json.dumps({**body, "checksum": digest(body)}, indent=1, ensure_ascii=False) + "\n").encode()


def parse_moved(text: str) -> Moved | None:
    """The note; None for anything else, a damaged note included."""
    if KIND not in text[:200]:
        return None
    try:
        body = json.loads(text)
        if body.pop("checksum") != digest(body) or body["kind"] != KIND:
            return None
        return Moved(body["lineage"], body["serial"], body["project"], body["moved_to"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


def nothing_note(lock_id: str) -> bytes:
    """That nothing was applied yet. It takes the place that a former holder of the lock would write its first state to."""
    return (json.dumps({"kind": NOTHING, "written_by_lock": lock_id}, indent=1) + "\n").encode()


def is_nothing(text: str) -> bool:
    """Whether this is that note."""
    return NOTHING in text[:200] and text.lstrip().startswith("{") and '"lineage"' not in text
