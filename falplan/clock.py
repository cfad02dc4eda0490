"""The only reader of time and maker of ids."""

from __future__ import annotations

import random
import secrets
import time
import uuid
from datetime import UTC, datetime


def now() -> float:
    """Seconds since the epoch. For what is stored or shown; never for measuring how long something took."""
    return time.time()


def monotonic() -> float:
    """Seconds on a clock that never jumps. For deadlines inside one process."""
    return time.monotonic()


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, as `2026-01-31T12:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_uuid() -> str:
    """A random UUID, for lineages and request ids."""
    return str(uuid.uuid4())


def new_id(prefix: str) -> str:
    """A short random name, as `runner-3f9c0a1be2d4`: 48 bits, lower-case hex, safe in paths and unit names."""
    return f"{prefix}-{secrets.token_hex(6)}"


def new_secret() -> str:
    """256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


def jitter(low: float, high: float) -> float:
    """A random number of seconds between the two."""
    return random.uniform(low, high)  # noqa: S311 - spreads retries, protects nothing
