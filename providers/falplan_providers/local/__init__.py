"""The machine at hand as a region of one static machine."""

from __future__ import annotations

from collections.abc import Mapping

from falplan.core.values import Json
from falplan.sdk.provider import Provider
from falplan.sdk.room import room_of

from .region import LocalRegion
from .shell import LocalShell

__all__ = ["LocalRegion", "LocalShell", "provider"]


def provider(region_name: str, options: Mapping[str, Json]) -> Provider:
    """The region `region_name` on this machine.

    Raises:
        FalplanError: an option is unknown or has no meaning.
    """
    return LocalRegion(region_name, room_of(region_name, options))
