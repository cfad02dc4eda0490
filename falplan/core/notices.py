"""A machine that says of itself that it is taken back: until when, and what is done until then. Decides alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

LAST_CALL = 45.0
"""Seconds before its end from which a machine is emptied, whether what runs there was replaced or not."""
WARNED = 120.0
"""Seconds that a machine has whose notice says no time: EC2 gives two minutes."""


@dataclass(frozen=True, slots=True)
class Notice:
    """`until` is when the machine ends, in seconds since 1970."""

    until: float

    def __str__(self) -> str:
        return f"its provider takes it back at {datetime.fromtimestamp(self.until, UTC):%H:%M:%S} UTC"

    def is_pressing(self, now: float) -> bool:
        """Whether requests that run there have only as much time left as it takes to end them."""
        return now >= self.until - LAST_CALL


def notice_of(told: bytes, now: float) -> Notice | None:
    """What a machine wrote down: JSON with the `time` of its end, as RFC 3339. None if that is nothing; what can't be read is one, too."""
    if not told.strip():
        return None
    try:
        at = datetime.fromisoformat(str(json.loads(told)["time"]))
    except (ValueError, KeyError, TypeError):
        return Notice(now + WARNED)
    return Notice((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
