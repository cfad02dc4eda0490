"""Hosts that run sshd, as a region of static machines."""

from __future__ import annotations

from collections.abc import Mapping

from falplan.core.values import Json
from falplan.sdk.provider import Provider

from .options import hosts_of
from .region import SshRegion

__all__ = ["SshRegion", "provider"]


def provider(region_name: str, options: Mapping[str, Json]) -> Provider:
    """The region `region_name` of the hosts that its options name.

    Raises:
        FalplanError: an option is unknown or has no meaning.
    """
    return SshRegion(region_name, hosts_of(region_name, options), dict(options))
