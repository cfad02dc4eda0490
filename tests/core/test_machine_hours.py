"""What machines cost: the hours that lie in the time that is asked about, by what they were."""

from __future__ import annotations

from decimal import Decimal

from falplan.core.machine_hours import Hours, Stay, hours_to_json, machine_hours

HOUR = 3600.0
NOW = 100 * HOUR


def stay(begin: float, end: float | None, price: str | None = "2.50", **more: str) -> Stay:
    named = {"region": "us-east", "kind": "g6.xlarge", "market": "on-demand", **more}
    return Stay(**named, begin=begin * HOUR, end=None if end is None else end * HOUR, price=price and Decimal(price))  # type: ignore[arg-type]


def test_only_what_lies_in_the_time_counts_and_what_is_there_counts_until_now() -> None:
    before, across, within, alive, later = stay(1, 9), stay(9, 12), stay(20, 21), stay(99, None), stay(101, None)
    [found] = machine_hours([before, across, within, alive, later], since=10 * HOUR, now=NOW)
    assert found == Hours("us-east", "g6.xlarge", "on-demand", 3, 1, (2 + 1 + 1) * HOUR, Decimal("10.00"))


def test_regions_kinds_and_markets_are_told_apart() -> None:
    stays = [stay(1, 2), stay(1, 2, market="spot", price="1"), stay(1, 2, kind="p5.48xlarge"), stay(1, 2, region="eu")]
    found = machine_hours(stays, since=0, now=NOW)
    assert [(h.region, h.kind, h.market) for h in found] == [
        ("eu", "g6.xlarge", "on-demand"),
        ("us-east", "g6.xlarge", "on-demand"),
        ("us-east", "g6.xlarge", "spot"),
        ("us-east", "p5.48xlarge", "on-demand"),
    ]


def test_what_has_no_price_is_counted_and_costs_nothing() -> None:
    [found] = machine_hours([stay(1, 2), stay(1, 4, price=None)], since=0, now=NOW)
    assert (found.machines, found.unpriced, found.seconds, found.cost) == (2, 1, 4 * HOUR, Decimal("2.50"))


def test_a_part_of_a_second_and_of_a_cent_are_not_lost_before_the_sum() -> None:
    stays = [stay(0, 0.001, price="1") for _ in range(1000)]
    [found] = machine_hours(stays, since=0, now=NOW)
    assert found.cost == Decimal("1.00")
    assert hours_to_json(found)["usd"] == "1"
