"""Fetches what EC2's machines cost now from AWS's price list, for one region at a time. Reads, and changes nothing at AWS."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any

from falplan.core.errors import FalplanError
from falplan.core.spending import spelt

from .account import Account
from .prices import Beside, Prices

SOLD = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
"""What tells an ordinary machine from those with licences, hardware of their own, or a reservation that stands unused."""
HOURS = "Hrs"


def fetch(account: Account, region: str, kinds: Collection[str]) -> dict[str, Decimal]:
    """USD an hour of each of these types in a region, as far as the list has them.

    Raises:
        FalplanError: it has none of them, or two prices for one: then nobody knows which is meant.
    """
    wanted = {**SOLD, "regionCode": region}
    found: dict[str, Decimal] = {}
    for text in account.products([{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()]):
        product = json.loads(text)
        kind = str(product["product"]["attributes"].get("instanceType", ""))
        if kind not in kinds:
            continue
        for price in _hourly(product):
            if found.setdefault(kind, price) != price:
                text = f"{kind} in {region}: {spelt(found[kind])} and {spelt(price)} USD an hour."
                raise FalplanError("AWS's price list has two prices for one machine", text)
    if not found:
        raise FalplanError("AWS's price list has no such region", f"{region}: none of {len(kinds)} types is in it.")
    return found


def _hourly(product: Mapping[str, Any]) -> Iterable[Decimal]:
    """On demand, by the hour, and not free: parts of the list that are, are no prices of machines."""
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            price = Decimal(dimension["pricePerUnit"].get("USD", "0"))
            if dimension.get("unit") == HOURS and price:
                yield price


def merged(known: Prices, region: str, found: Mapping[str, Decimal], *, collected: str) -> str:
    """A list as JSON: what was known of other regions, and what was `found` of this one on the day `collected`."""
    table = {**{name: dict(kinds) for name, kinds in known.table.items()}, region: dict(found)}
    body = {
        "collected": collected,
        "source": f"AWS's price list, {region} on {collected}"
        + (f"; other regions: {known.source}, {known.collected}" if set(known.table) - {region} else ""),
        "usd_an_hour": {
            name: {kind: spelt(kinds[kind]) for kind in sorted(kinds)} for name, kinds in sorted(table.items())
        },
        "beside": {name: _beside(beside) for name, beside in sorted(known.beside.items())},
    }
    return json.dumps(body, indent=1) + "\n"


def _beside(beside: Beside) -> dict[str, str]:
    told = {"gib_month": beside.gib, "iops_month": beside.iops, "throughput_month": beside.throughput}
    return {name: spelt(price) for name, price in {**told, "address_hour": beside.address}.items()}
