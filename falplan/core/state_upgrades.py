"""Older formats of the state file, each brought to the next by one pure function. A newer one is refused before it comes here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from falplan.core.values import JsonObject

Upgrade = Callable[[JsonObject], JsonObject]


def _to_2(body: JsonObject) -> JsonObject:
    """Format 2 adds what was forgotten on purpose, outputs, and which resources are protected: a reader of 1 would drop them."""
    return body


UPGRADES: Mapping[int, Upgrade] = {1: _to_2}
"""Format -> what makes the next one of it."""


def upgraded(body: JsonObject, *, to: int, upgrades: Mapping[int, Upgrade] = UPGRADES) -> JsonObject:
    """The body in format `to`, with its `format_version`. The checksum was that of the old one and is looked at before.

    Raises:
        ValueError: there is no way from its format to that one.
    """
    version = body.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"format {version!r} is none")
    while version < to:
        if version not in upgrades:
            raise ValueError(f"nothing reads format {version}")
        version += 1
        body = {**upgrades[version - 1](body), "format_version": version}
    return body
