"""The regions of a spec whose machines are bought, as markets of a fleet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from falplan import registry
from falplan.control.fleet import Market
from falplan.core.values import Json, JsonObject


def markets_of(regions: Mapping[str, Json]) -> dict[str, Market]:
    """Who sells in each of these regions, `{"provider": …}` with the provider's own options beside it, by name.

    Raises:
        FalplanError: a provider refuses its options.
    """
    bodies = {name: cast("JsonObject", body) for name, body in regions.items()}
    sellers = {name: registry.seller_of(name, body) for name, body in bodies.items()}
    return {name: Market(seller, body=bodies[name]) for name, seller in sellers.items() if seller is not None}
