"""What EC2's machines cost, on demand and with Linux, by a list that is a part of falplan."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import resources


@dataclass(frozen=True, slots=True)
class Prices:
    """USD an hour by AWS's region and type. `collected` is the day that the list was made on, as 2026-11-23, `source` what of."""

    table: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)
    collected: str = ""
    source: str = ""

    def of(self, region: str, kind: str) -> Decimal | None:
        """What a type costs in a region; None if the list does not say."""
        return self.table.get(region, {}).get(kind)


@functools.cache
def bundled() -> Prices:
    """The list that came with this falplan."""
    text = resources.files(__package__).joinpath("prices.json").read_text(encoding="utf-8")
    body = json.loads(text)
    table = {
        region: {kind: Decimal(price) for kind, price in kinds.items()} for region, kinds in body["usd_an_hour"].items()
    }
    return Prices(table, str(body["collected"]), str(body["source"]))
