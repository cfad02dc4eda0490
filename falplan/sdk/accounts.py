"""What a cloud's account has to allow falplan, and what its list of prices says. Buys nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from falplan.core.values import JsonObject


@runtime_checkable
class CloudAccount(Protocol):
    """A region's provider that has an account."""

    def policies(self) -> Mapping[str, JsonObject]:
        """Whose credentials (`control-plane`, `apply`) -> what they have to be allowed, as the cloud reads it. Asks nobody."""
        ...

    def fetch_prices(self, day: str) -> str:
        """Fetch what machines cost there now, and keep it on this computer for everything that falplan does here; in words, what was kept.

        `day` is today's, such as 2026-11-23.

        Raises:
            FalplanError: nobody answers, or there is no such region.
        """
        ...
