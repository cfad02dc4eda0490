"""What machines cost by the list that is a part of falplan, and which machine each of fal's machine types leads to."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from falplan.core.errors import FalplanError
from falplan.core.offers import Unplaced, choices
from falplan.core.placement import Need
from falplan.core.spec.machine_types import BUILT_IN
from falplan.sdk.testing.fakeec2 import FakeEc2
from falplan_providers.aws.kinds import CPU, GPUS, asked_for, offered
from falplan_providers.aws.listing import fetch, merged
from falplan_providers.aws.prices import WHERE, Prices, current, read
from falplan_providers.aws.requests import Disk

from .scene import account_at
from .told import ec2s_types

UNPRICED = {"p5e.48xlarge", "p6-b300.48xlarge"}
"""Not sold on demand in us-east-1 when the list was made, or not yet."""
YOUNG = ("g7.", "g7e.")


@pytest.fixture
def bundled(tmp_path: Path) -> Prices:
    return current({"XDG_DATA_HOME": str(tmp_path)})


def test_the_list_has_every_type_that_was_sold_when_it_was_made(bundled: Prices) -> None:
    names = {*CPU, *(name for names in GPUS.values() for name in names)}
    missing = {name for name in names if bundled.of("us-east-1", name) is None and not name.startswith(YOUNG)}

    assert missing == UNPRICED
    assert bundled.collected == "2026-01-19"
    assert bundled.of("eu-north-1", "p5.48xlarge") is None, "a price of another region is none"


FIRST = {
    "GPU-A100": ("p4d.24xlarge", "2.744705"),
    "GPU-B200": ("p6-b200.48xlarge", "14.2416"),
    "GPU-H100": ("p5.4xlarge", "6.88"),
    "GPU-H200": ("p5en.48xlarge", "7.912"),
    "GPU-L40": ("g6e.4xlarge", "3.00424"),
}
"""fal's machine type -> what one runner on it is put on, and what a used GPU costs there where all are used."""


@pytest.mark.parametrize("name", sorted(FIRST))
def test_each_of_fals_gpu_types_leads_to_the_machine_that_costs_least_for_a_gpu(name: str, bundled: Prices) -> None:
    kind = BUILT_IN[name]
    types = [ec2s_types()[n] for n in asked_for([kind], {}) if n in ec2s_types()]
    offers = offered("us-east", "us-east-1", types, [kind], {}, bundled)
    first, unit = FIRST[name]
    size = next(o.slots.total_gpus for o in offers if o.name == first)
    found, _ = choices([Unplaced(Need((name,)), size, BUILT_IN)], offers)

    assert found[0].offer.name == first
    assert found[0].unit_price == Decimal(unit)


def test_a_list_that_was_fetched_comes_before_the_bundled_one(tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(
        json.dumps({"collected": "2026-11-23", "source": "me", "usd_an_hour": {"eu-north-1": {"x": "1.5"}}})
    )
    environ = {WHERE: str(mine)}

    assert current(environ).of("eu-north-1", "x") == Decimal("1.5")
    mine.write_text("{}")
    with pytest.raises(FalplanError, match="can't be read"):
        current(environ)


def test_a_list_that_is_none_is_refused() -> None:
    with pytest.raises(KeyError):
        read("{}")


def test_prices_are_fetched_from_among_much_that_costs_something_else(fake: FakeEc2) -> None:
    sold = {t.name: t.price for t in fake.account.catalog.types}
    found = fetch(account_at(fake.url), "us-east-1", {"p5.48xlarge", "g6.xlarge", "p9.huge"})

    assert found == {"p5.48xlarge": sold["p5.48xlarge"], "g6.xlarge": sold["g6.xlarge"]}
    with pytest.raises(FalplanError, match="no such region"):
        fetch(account_at(fake.url), "mars-north-1", {"p5.48xlarge"})


def test_what_is_fetched_of_one_region_leaves_the_others_as_they_were(bundled: Prices) -> None:
    text = merged(bundled, "eu-north-1", {"p5.48xlarge": Decimal("60.5440")}, collected="2026-11-23")
    found = read(text)

    assert found.of("eu-north-1", "p5.48xlarge") == Decimal("60.544")
    assert found.table["us-east-1"] == bundled.table["us-east-1"]
    assert found.source == f"AWS's price list, eu-north-1 on 2026-11-23; other regions: {bundled.source}, 2026-01-19"


@pytest.mark.parametrize(
    ("disk", "public", "month", "hour"),
    [
        (Disk(200, 3000, 125), False, "16", "0"),
        (Disk(200, 6000, 500), True, "46", "0.005"),
        (Disk(1000, 16000, 1000), True, "180", "0.005"),
    ],
)
def test_volumes_and_addresses_are_in_the_price(
    disk: Disk, public: bool, month: str, hour: str, bundled: Prices
) -> None:
    """By hand: 0.08 a GiB, 0.005 an operation beyond 3,000, 0.04 a MiB beyond 125; a month has 730 hours."""
    found = bundled.more("us-east-1", disk, public=public)
    assert found.cost == (Decimal(month) / 730 + Decimal(hour)).quantize(Decimal("0.0001"))
    assert found.remark.startswith("$0.") and f"a volume of {disk.size} GiB" in found.remark
    assert ("public address" in found.remark) is public


def test_where_they_are_not_known_that_is_said(bundled: Prices) -> None:
    found = bundled.more("eu-north-1", Disk(), public=True)
    assert (found.cost, found.remark) == (Decimal(0), "a volume of 200 GiB and a public address are not in the price")
    kept = read(merged(bundled, "eu-north-1", {"p5.48xlarge": Decimal(60)}, collected="2026-11-23"))
    assert kept.beside == bundled.beside
