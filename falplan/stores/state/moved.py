"""The note that a migration leaves in the place of a state: where it went. An older falplan refuses it as damaged, never as empty."""

from __future__ import annotations

import json
from dataclasses import dataclass

from falplan.core.state import State
from falplan.core.values import JsonObject, digest

KIND = "falplan state: moved"


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
