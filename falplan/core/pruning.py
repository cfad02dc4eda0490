"""What may be deleted, and how much of it there is. Pure: limits in, words out."""

from __future__ import annotations

from dataclasses import dataclass

from falplan.core.values import JsonObject

KEPT_RUNNERS = 50
"""Ended runners whose folders and logs are kept by default."""

KEPT_EVENTS = 30 * 86_400.0
"""Seconds after which events and ended operations are forgotten by default."""

KEPT_UNUSED = 3600.0
"""Seconds for which a bundle, a lock and its environment stay though nothing needs them: a deploy under way may be about to."""

KEPT_ASIDE = 2
"""Folders of data that a restored backup replaced."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What stays. `requests` and `events` in seconds since they ended or happened, `runners` a number.

    `requests` None: until their own retention is over.
    """

    requests: float | None = None
    runners: int = KEPT_RUNNERS
    events: float = KEPT_EVENTS


@dataclass(frozen=True, slots=True)
class Prunable:
    """Things of one kind that may go: how many, and their bytes."""

    what: str
    count: int
    size: int


def limits_from_json(body: JsonObject) -> Limits:
    """Limits as a request names them; what it does not name stays as it is by default.

    Raises:
        ValueError: a limit is no number, or below zero.
    """
    values: dict[str, float | None] = {}
    for name in ("requests", "runners", "events"):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
            raise ValueError(f"{name} must be a number, not below 0")
        values[name] = value
    defaults = Limits()
    events, runners = values.get("events"), values.get("runners")
    return Limits(
        values.get("requests"),
        defaults.runners if runners is None else int(runners),
        defaults.events if events is None else events,
    )
