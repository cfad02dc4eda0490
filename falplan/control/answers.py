"""What comes in through the admin interface, and what goes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

from falplan.control.operations import BadOperation
from falplan.core.values import JsonObject


class Body(Protocol):
    """A request's body, read at most once."""

    async def read(self) -> bytes: ...
    def chunks(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. A body of chunks is sent as it comes."""

    status: int
    body: bytes | AsyncIterator[bytes]
    content_type: str = "application/json"


async def read_object(body: Body) -> JsonObject:
    """The JSON object that a body holds.

    Raises:
        BadOperation: it holds something else.
    """
    try:
        value = json.loads(await body.read())
    except ValueError as exc:
        raise BadOperation("The body is not JSON", str(exc)) from exc
    if not isinstance(value, dict):
        raise BadOperation("The body is not an object")
    return cast("JsonObject", value)


def as_json(value: Any, status: int = 200) -> Answer:
    """An answer of JSON."""
    return Answer(status, json.dumps(value).encode())


def missing(what: str) -> Answer:
    """404."""
    return as_json({"summary": f"No such {what}", "detail": ""}, 404)
