"""A fleet in the fake EC2: what it buys leads back to a record, whatever dies, lies or changes, and all of it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from falplan.core.errors import FalplanError
from falplan.core.fleet import Life
from falplan.sdk.testing.fakeec2 import Account, Delays, FakeEc2, Fault, Strike
from falplan.stores.runtime.database import Database
from falplan_providers.aws.tags import OPERATION

from .fleets import Town
from .test_histories import strike, unlucky


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database.open(tmp_path / "control.db")
    yield found
    found.close()


@pytest.fixture
def town(fake: FakeEc2, database: Database) -> Town:
    return Town(fake, database, random.Random(1))


async def until(town: Town, true: Callable[[], bool], *, seconds: float = 60, most: int = 60) -> None:
    """Look again and again, so many seconds apart, until something is true."""
    for _ in range(most):
        await town.tick()
        if true():
            return
        town.fake.account.advance(seconds)
    raise AssertionError(
        f"{town.fleet.decision.held} {[(r.machine_id, r.life, r.because) for r in town.fleet.rows.values()]}"
    )


def alive(town: Town) -> list[str]:
    return sorted(i.id for i in town.fake.account.instances(alive=True))


def recorded(town: Town) -> list[str]:
    return sorted(r.identity for r in town.fleet.rows.values() if r.life is not Life.GONE)


def served(town: Town) -> bool:
    """Whether everybody has a runner, and every machine is ready or gone."""
    return not town.settle_runners() and all(r.life in (Life.READY, Life.GONE) for r in town.fleet.rows.values())


def deserted(town: Town) -> bool:
    return all(r.life is Life.GONE for r in town.fleet.rows.values())


async def test_from_nothing_to_three_and_back(town: Town) -> None:
    town.wanted = {"GPU-L40": 3}
    await until(town, lambda: served(town))
    assert [r.kind for r in town.fleet.rows.values()] == ["g6e.4xlarge"] * 3
    assert alive(town) == recorded(town) and len(alive(town)) == 3
    await town.tick()
    assert town.fleet.decision.held == {}

    town.wanted = {}
    await until(town, lambda: deserted(town))
    assert alive(town) == []
    whys = {r.because for r in town.fleet.rows.values()}
    assert all(r.ended_at for r in town.fleet.rows.values()), whys


async def test_it_tells_what_it_waits_for_and_what_was_done(town: Town, database: Database) -> None:
    town.wanted = {"GPU-L40": 1}
    await town.tick()
    [row] = town.fleet.rows.values()
    assert row.life is Life.STARTING and row.price == "3.004"
    await town.tick()
    assert town.fleet.decision.held == {"acme/GPU-L40": (f"waits for {row.machine_id} (g6e.4xlarge, starting)",)}
    await until(town, lambda: served(town))
    kinds = [k for (k,) in database.read("select kind from events order by seq")]
    assert kinds == ["machine.wanted", "machine.bought", "machine.ready"]


async def test_without_capacity_the_next_kind_is_bought_and_the_record_says_which(town: Town) -> None:
    """Seen red with a record that kept the price of the kind that was hoped for."""
    for zone in town.fake.account.catalog.zones:
        town.fake.account.capacity["g6e.4xlarge", zone.zone_id, "on-demand"] = 0
    town.wanted = {"GPU-L40": 1}
    await until(town, lambda: served(town))
    [row] = [r for r in town.fleet.rows.values() if r.life is not Life.GONE]
    assert (row.kind, row.price) == ("g6e.12xlarge", "10.493")


async def test_a_region_without_capacity_says_so_and_is_asked_again_later(town: Town) -> None:
    for zone in town.fake.account.catalog.zones:
        for kind in ("g6e.4xlarge", "g6e.12xlarge"):
            town.fake.account.capacity[kind, zone.zone_id, "on-demand"] = 0
    town.wanted = {"GPU-L40": 1}
    await town.tick()
    asked = len(town.requests())
    await town.tick()
    await town.tick()
    assert len(town.requests()) == asked, "nothing is asked again at once"
    [said] = town.fleet.decision.held["acme/GPU-L40"]
    assert "use1-az1 g6e.4xlarge on-demand: no capacity just now" in said
    town.fake.account.capacity = {}
    await until(town, lambda: served(town))


async def test_credentials_that_expire_buy_nothing_and_what_was_wanted_is_bought_once_they_are_new(town: Town) -> None:
    town.fake.account.faults.append(Fault("RunInstances", Strike.ERROR, 1, 1, "ExpiredToken", 400))
    town.wanted = {"GPU-L40": 1}
    await town.tick()
    await town.tick()
    assert alive(town) == []
    await until(town, lambda: served(town))
    assert len(alive(town)) == 1


async def test_one_that_nobody_wants_any_more_is_given_back_before_it_is_up(town: Town) -> None:
    town.fake.account.faults.append(Fault("RunInstances", Strike.DONE_DROP, 1, 50))
    town.fake.account.delays = Delays(visible={"i": 200})
    town.wanted = {"GPU-L40": 1}
    await town.tick()
    town.fake.account.faults.clear()
    town.wanted = {}
    await until(town, lambda: deserted(town))
    assert alive(town) == []


async def test_a_machine_that_somebody_ends_is_lost_and_another_is_bought(town: Town) -> None:
    town.wanted = {"GPU-L40": 1}
    await until(town, lambda: served(town))
    [identity] = alive(town)
    town.fake.account.end(
        town.fake.account.instances()[0], "Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown"
    )
    await until(town, lambda: served(town) and alive(town) not in ([], [identity]))
    assert len(alive(town)) == 1 and alive(town) == recorded(town)


async def test_an_older_database_takes_its_machines_over_and_gives_back_what_is_empty(
    town: Town, fake: FakeEc2, tmp_path: Path
) -> None:
    """Seen red with machines ended that were not in the database: those of a restored backup had runners."""
    town.wanted = {"GPU-L40": 2}
    await until(town, lambda: served(town))
    before = alive(town)
    older = Database.open(tmp_path / "older.db")
    again = Town(fake, older, random.Random(1), wanted={"GPU-L40": 1})
    await until(again, lambda: served(again) and len(alive(again)) == 1)
    assert set(alive(again)) < set(before) and alive(again) == recorded(again)
    older.close()


async def test_machines_of_another_control_plane_are_shown_and_never_touched(
    town: Town, fake: FakeEc2, tmp_path: Path
) -> None:
    """Whether it still needs them is not known here, until somebody says that it is no more."""
    other = Database.open(tmp_path / "other.db")
    theirs = Town(fake, other, random.Random(1), plane="plane-2", wanted={"GPU-L40": 1})
    await until(theirs, lambda: served(theirs))
    [identity] = alive(theirs)
    for _ in range(5):
        await town.tick()
        fake.account.advance(1_000)
    [shown] = town.fleet.foreign["us-east"]
    assert (shown.identity, shown.control_plane, shown.price) == (identity, "plane-2", Decimal("3.004"))
    assert alive(town) == [identity] and recorded(town) == []

    town.fleet.retired = {"plane-2"}
    await until(town, lambda: alive(town) == [])
    assert recorded(town) == []
    other.close()


# -- histories --------------------------------------------------------------------------------------------------------------


async def history(town: Town, rng: random.Random) -> None:
    fake = town.fake
    for _ in range(20):
        fake.account.faults.clear()
        unlucky(fake, rng)
        strike(fake, rng)
        if rng.random() < 0.5:
            kinds = rng.sample(["GPU-L40", "GPU-H100", "GPU-A6000"], 2)
            town.wanted = {kind: rng.choice((0, 1, 1, 3)) for kind in kinds}
        if town.process.dead or rng.random() < 0.6:
            fake.account.faults, faults = [], fake.account.faults
            town.start(rng.choice((0, rng.randrange(1, 25))))
            fake.account.faults = faults
        await town.tick()
        for instance in fake.account.instances(alive=True):
            if instance.spot and rng.random() < 0.1:
                fake.account.reclaim(instance.id)
        fake.account.advance(rng.choice((1, 5, 40, 200, 700)))


async def converge(town: Town) -> None:
    """Nothing goes wrong any more."""
    account = town.fake.account
    account.faults.clear()
    account.capacity, account.quotas, account.stillborn = {}, {}, set()
    account.delays = Delays()
    town.places.hitch = lambda: None
    town.start(0)
    town.most, town.budget = 20, Decimal(1000)
    town.start(0)
    account.advance(1_000)
    town.wanted = {"GPU-L40": 2, "GPU-H100": 1}
    await until(town, lambda: served(town))
    assert account.overlaps(OPERATION) == []
    assert alive(town) == recorded(town)

    town.wanted = {}
    await until(town, lambda: deserted(town))
    assert alive(town) == []
    known = {a.identity for a in town.fleet.store.journal("us-east").since(1.0)}
    known |= {r.identity for r in town.fleet.rows.values()}
    ran = {i.id for i in account.instances() if account.seconds(i)}
    assert ran <= known, "every machine that ever cost anything is recorded"
    sent = town.requests()
    by_token = {s["ClientToken"]: s for s in sent}
    assert all(s == by_token[s["ClientToken"]] for s in sent), "no token was sent with two requests"


def whole_history(fake: FakeEc2, path: Path, seed: int) -> None:
    rng = random.Random(seed)
    database = Database.open(path)
    try:
        town = Town(fake, database, rng, spot=rng.random() < 0.5)

        def hitch() -> None:
            if rng.random() < 0.2:
                raise FalplanError("It does not answer", "yet")

        town.places.hitch = hitch

        async def all_of_it() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the dead complain to nobody
            await history(town, rng)
            await converge(town)

        asyncio.run(all_of_it())
    finally:
        database.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_fleet_loses_no_machine_whatever_happens(fake: FakeEc2, tmp_path: Path, seed: int) -> None:
    whole_history(fake, tmp_path / "control.db", seed)


@pytest.mark.faults
@pytest.mark.parametrize("block", range(6))
def test_thirty_fleets_lose_no_machine(fake: FakeEc2, tmp_path: Path, block: int) -> None:
    for seed in range(2000 + block * 5, 2005 + block * 5):
        fake.account = Account()
        whole_history(fake, tmp_path / f"{seed}.db", seed)
