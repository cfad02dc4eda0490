"""Which pool is asked next: decided from what was tried, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from falplan.sdk.launches import Attempt, Pool, Verdict
from falplan_providers.aws.pools import (
    ON_DEMAND,
    QUOTA_PAUSE,
    SPOT,
    Exhausted,
    Follow,
    Move,
    Resolve,
    Stop,
    Try,
    Way,
    in_order,
    next_move,
    pause_of,
)
from falplan_providers.aws.quotas import family_of, way_out

NOW = 1_000_000.0
POOLS = [Pool("p5.48xlarge", zone, ON_DEMAND) for zone in ("use1-az1", "use1-az2", "use1-az4")]
WAYS = [Way(pool, f"subnet-{pool.zone}") for pool in POOLS]


def tried(verdict: Verdict, pool: Pool = POOLS[0], *, number: int = 1, ago: float = 10.0, launch: str = "a") -> Attempt:
    told = 0.0 if verdict is Verdict.UNKNOWN else NOW - ago
    return Attempt(launch, number, pool, {}, NOW - ago, verdict, told_at=told, because="said so")


def move(*attempts: Attempt, others: tuple[Attempt, ...] = (), told: tuple[int, ...] = (1,)) -> Move:
    return next_move(WAYS, attempts, [*attempts, *others], now=NOW, told=told)


def test_the_first_pool_is_asked_first() -> None:
    assert move() == Try(WAYS[0], 1)


def test_an_attempt_of_which_nobody_knows_is_resolved_before_anything_else() -> None:
    unknown = tried(Verdict.UNKNOWN, number=2)

    assert move(tried(Verdict.CAPACITY), unknown) == Resolve(unknown)


@pytest.mark.parametrize("verdict", [Verdict.MADE, Verdict.ENDED])
def test_what_made_a_machine_is_followed(verdict: Verdict) -> None:
    made = tried(verdict)

    assert move(made) == Follow(made)


@pytest.mark.parametrize("verdict", [Verdict.CAPACITY, Verdict.NOT_OFFERED])
def test_a_pool_without_capacity_makes_way_for_the_next(verdict: Verdict) -> None:
    assert move(tried(verdict)) == Try(WAYS[1], 2)


@pytest.mark.parametrize("verdict", [Verdict.PERMISSION, Verdict.PARAMETER])
def test_what_every_pool_would_answer_stops_the_launch_until_it_is_asked_for_again(verdict: Verdict) -> None:
    refused = tried(verdict)

    assert move(refused) == Stop(refused)
    assert move(refused, told=()) == Try(WAYS[0], 2)


def test_a_quota_closes_its_family_and_no_other() -> None:
    refused = tried(Verdict.QUOTA)
    small = Way(Pool("g6.xlarge", "use1-az1", ON_DEMAND), "subnet-1")
    spot = Way(Pool("p5.48xlarge", "use1-az1", SPOT), "subnet-1")

    assert isinstance(move(refused), Exhausted)
    for way in (small, spot):
        assert next_move([*WAYS, way], [refused], [refused], now=NOW, told=()) == Try(way, 2)


def test_a_machine_of_the_family_ends_the_pause_of_its_quota() -> None:
    refused, made = tried(Verdict.QUOTA, ago=60), tried(Verdict.MADE, POOLS[1], ago=30, launch="b")

    assert pause_of(POOLS[2], [refused, made], NOW) is None


def test_pools_are_remembered_between_launches() -> None:
    others = tuple(tried(Verdict.CAPACITY, pool, launch="b") for pool in POOLS[:2])

    assert move(others=others) == Try(WAYS[2], 1)


def test_the_pause_grows_with_each_refusal_in_a_row_and_ends() -> None:
    for row, seconds in ((1, 180), (2, 360), (3, 600), (9, 600)):
        refusals = [tried(Verdict.CAPACITY, number=n + 1, ago=1000.0 - n) for n in range(row)]
        last = refusals[-1].told_at
        assert pause_of(POOLS[0], refusals, last + seconds - 1) is not None
        assert pause_of(POOLS[0], refusals, last + seconds) is None
    made = tried(Verdict.MADE, number=4, ago=1.0)
    assert pause_of(POOLS[0], [*refusals, made], NOW) is None


def test_when_all_pause_the_first_to_end_is_told() -> None:
    attempts = [tried(Verdict.CAPACITY, p, number=n + 1, ago=30.0 - n) for n, p in enumerate(POOLS)]
    found = move(*attempts)

    assert isinstance(found, Exhausted)
    assert found.again_at == attempts[0].told_at + 180
    assert [way for way, _ in found.pauses] == WAYS


def test_a_type_that_a_zone_does_not_offer_is_not_asked_for_there_for_a_day() -> None:
    refused = tried(Verdict.NOT_OFFERED)

    assert pause_of(POOLS[0], [refused], NOW + 80_000) is not None
    assert pause_of(POOLS[0], [refused], NOW + 90_000) is None
    assert pause_of(POOLS[0], [replace(refused, verdict=Verdict.QUOTA)], NOW + QUOTA_PAUSE) is None


def test_nothing_to_ask_is_exhausted_at_once() -> None:
    assert next_move([], [], [], now=NOW, told=()) == Exhausted((), NOW)


def test_spot_comes_first_where_it_is_wanted_and_last_where_it_costs_as_much() -> None:
    demand = [Way(Pool("p5.48xlarge", z, ON_DEMAND), "s", Decimal("55.04")) for z in ("az1", "az2")]
    spot = [
        Way(Pool("p5.48xlarge", z, SPOT), "s", Decimal(p)) for z, p in (("az1", "20"), ("az2", "14"), ("az3", "55.04"))
    ]

    found = in_order([*demand, *spot], ["p5.48xlarge"], spot_first=True)
    assert found == [spot[1], spot[0], *demand, spot[2]]
    assert in_order([*spot[:2], *demand], ["p5.48xlarge"], spot_first=False) == [*demand, spot[1], spot[0]]


def test_kinds_keep_the_order_they_were_asked_for_in() -> None:
    ways = [Way(Pool(kind, "az1", ON_DEMAND), "s", Decimal(price)) for kind, price in (("b", "1"), ("a", "2"))]

    assert [w.pool.offer for w in in_order(ways, ["a", "b"], spot_first=False)] == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "market", "family"),
    [
        ("p5.48xlarge", "on-demand", "P"),
        ("p4d.24xlarge", "spot", "P4, P3 and P2"),
        ("p5en.48xlarge", "spot", "P5"),
        ("p6-b200.48xlarge", "spot", "P6"),
        ("g6e.xlarge", "on-demand", "G and VT"),
        ("gr6.4xlarge", "spot", "G and VT"),
        ("t3.small", "on-demand", "Standard"),
        ("trn1.32xlarge", "on-demand", "Trn"),
        ("inf2.xlarge", "on-demand", "Inf"),
        ("x2iedn.xlarge", "on-demand", "X"),
    ],
)
def test_types_of_a_family_share_a_quota(kind: str, market: str, family: str) -> None:
    assert family_of(kind, market) == family


def test_more_of_a_quota_is_asked_for_by_a_command() -> None:
    found = way_out("p5.48xlarge", "on-demand", "us-east-1", 384)

    assert "request-service-quota-increase --region us-east-1" in found
    assert found.endswith("--quota-code L-417A185B --desired-value 384")
    assert "list-service-quotas" in way_out("p6-b200.48xlarge", "spot", "us-east-1", 192)
