"""A region of AWS as a seller: it keeps what every seller promises, and asks EC2 no more than it needs."""

from __future__ import annotations

from decimal import Decimal

import pytest

from falplan.core.spec.machine_types import BUILT_IN
from falplan.sdk.launches import Intent, NoCapacity, Terms, Verdict
from falplan.sdk.testing.conformance import check_elastic
from falplan.sdk.testing.fakeec2 import FakeEc2
from falplan.sdk.testing.journals import MemoryJournal
from falplan_providers.aws.launching import Clock
from falplan_providers.aws.prices import Prices
from falplan_providers.aws.requests import Build
from falplan_providers.aws.selling import STALE, Seller, Wishes

from .scene import AMI, OWNER, account_at

L40 = [BUILT_IN["GPU-L40"]]


def seller(fake: FakeEc2, region: str = "us-east", *, spot: bool = False, base: int = 0) -> Seller:
    account = fake.account
    prices = Prices({"us-east-1": {t.name: t.price for t in account.catalog.types}})
    clock = Clock(lambda: account.now, account.advance, lambda least, most: most)
    limits = Terms(4, Decimal(60))
    return Seller(
        region, account_at(fake.url), limits, Wishes(spot=spot, base=base), lambda owner: Build(AMI, ()), prices, clock
    )


def test_it_conforms(fake: FakeEc2) -> None:
    check_elastic(seller(fake), L40, lambda: fake.account.advance(400))


def test_two_regions_of_a_spec_in_one_region_of_aws_have_machines_of_their_own(fake: FakeEc2) -> None:
    east, other = seller(fake), seller(fake, "batch")
    made = east.buy(["g6e.4xlarge"], Intent("us-east/m-1", "mine", "plane-1"), MemoryJournal())
    theirs = other.buy(["g6e.4xlarge"], Intent("batch/m-1", "mine", "plane-1"), MemoryJournal())
    fake.account.advance(60)
    assert [b.identity for b in east.look("mine")] == [made.identity]
    assert [b.identity for b in other.look("mine")] == [theirs.identity]


def test_what_aws_offers_is_asked_for_once_an_hour_and_for_kinds_that_are_new(fake: FakeEc2) -> None:
    region = seller(fake)

    def asked() -> int:
        return len(fake.calls_of("DescribeInstanceTypes"))

    for _ in range(5):
        region.offers(L40)
    assert asked() == 1
    region.offers([BUILT_IN["GPU-H100"]])
    region.offers([*L40, BUILT_IN["GPU-H100"]])
    assert asked() == 2
    fake.account.advance(STALE + 1)
    region.offers(L40)
    assert asked() == 3


def test_zones_without_a_subnet_are_not_asked_and_spot_comes_first_where_it_is_wanted(fake: FakeEc2) -> None:
    kinds = ["g6e.4xlarge"]
    assert {w.pool.market for w in seller(fake).ways(kinds, spot=False)} == {"on-demand"}
    ways = seller(fake, spot=True).ways(kinds, spot=True)
    assert [w.pool.market for w in ways] == ["spot"] * (len(ways) // 2) + ["on-demand"] * (len(ways) // 2)
    assert all(w.subnet.startswith("subnet-") for w in ways)


def test_so_many_machines_are_on_demand_before_any_is_spot(fake: FakeEc2) -> None:
    """One that ends makes room for another; a repeated purchase stays what it was."""
    region, kinds = seller(fake, spot=True, base=2), ["g6e.4xlarge"]
    journal = MemoryJournal()

    def buy(operation: str) -> str:
        return region.buy(kinds, Intent(operation, OWNER, "cp-1"), journal).pool.market

    assert [buy(f"m-{n}") for n in range(4)] == ["on-demand", "on-demand", "spot", "spot"]
    assert buy("m-0") == "on-demand" and len(fake.account.instances()) == 4
    [first, *_] = [i for i in fake.account.instances() if not i.spot]
    region.end(OWNER, [first.id])
    assert buy("m-5") == "on-demand"


def test_pools_that_are_left_alone_are_told_without_asking_aws(fake: FakeEc2) -> None:
    """By a control plane that has just started, too, and that knows nothing of the types yet."""
    region, journal = seller(fake), MemoryJournal()
    fake.account.quotas["G", "on-demand"] = 8
    with pytest.raises(NoCapacity):
        region.buy(["g6e.4xlarge"], Intent("m-1", OWNER, "cp-1"), journal)
    fake.account.calls.clear()
    fake.account.advance(180)
    [told] = region.paused(journal)
    assert (told.verdict, told.until) == (Verdict.QUOTA, fake.account.now - 180 + 900)
    assert (
        "the account's quota of 8 vCPU allowed no 16 vCPU more 3 min ago; to ask for more: aws service-quotas"
        in told.because
    )
    assert "--desired-value 24" in told.because

    [fresh] = seller(fake).paused(journal)
    assert fresh.because.endswith("the account's quota of 8 vCPU allowed no more 3 min ago")
    assert not fake.account.calls
    fake.account.advance(900)
    assert region.paused(journal) == []


def test_what_a_machine_costs_as_spot_is_told_by_zone(fake: FakeEc2) -> None:
    [offer] = [o for o in seller(fake, spot=True).offers(L40) if o.name == "g6e.4xlarge"]
    assert offer.spot and all(price < (offer.price or 0) for price in offer.spot.values())
    assert all(zone.startswith("use1-az") for zone in offer.spot)
    assert all(not o.spot for o in seller(fake).offers(L40)), "it is asked for where spot is wanted alone"
