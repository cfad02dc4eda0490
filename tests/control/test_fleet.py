"""A control plane whose region sells machines: the real controller, fleet and database, a seller in memory, and runners that are rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from falplan import clock
from falplan.control.fleet import Fleet, Market
from falplan.control.holdings import Holdings
from falplan.control.host import HERE, Sight, Told
from falplan.control.room import Room
from falplan.control.tenancy import HostTenancy
from falplan.core.definition import Definition
from falplan.core.errors import FalplanError
from falplan.core.fleet import Life
from falplan.core.operations import OperationStatus
from falplan.core.placement import Slots, slots_from_json
from falplan.core.resources import machine_of
from falplan.core.spec.machine_types import BUILT_IN
from falplan.core.values import JsonObject
from falplan.core.warm import Warm, warm_to_json
from falplan.sdk.launches import Bought, Pool, Stage, Terms
from falplan.sdk.testing.sellers import MARKET, ZONE, MemorySeller, an_offer
from falplan.stores.runtime.control import RunnerRow
from falplan.stores.runtime.fleet import FleetStore, MachineRow
from tests.control.machine_in_memory import ENDPOINT, InMemory, Running, a_control_plane, deploy_body

BODY: JsonObject = {"provider": "memory", "size": 3}
SOON = Terms(3, Decimal(10), idle=0.3)


@dataclass
class Estate(InMemory):
    """No machine but those that were bought and taken."""

    taken: dict[str, Told] = field(default_factory=dict)
    ram: int | None = None  #: that machines turn out to have, in place of what they are sold with

    async def machines(self) -> list[Slots]:
        return [self._slots(told) for told in self.taken.values()]

    def _slots(self, told: Told) -> Slots:
        sold = slots_from_json(told.sold) if told.sold else an_offer("east").slots
        if self.ram is not None:
            sold = replace(sold, total_ram=self.ram, free_ram=self.ram)
        closed = "it is removed" if told.leaving else ""
        return replace(sold, machine_id=machine_of(told.address), closed=closed)

    @property
    def has_hosts(self) -> bool:
        return bool(self.taken)

    def is_elsewhere(self, machine_id: str) -> bool:
        return machine_id != HERE

    async def observe(self) -> Sight:
        now = clock.monotonic()
        return Sight(dict(self.runners), {HERE: now, **{machine_of(a): now for a in self.taken}})

    async def add_host(self, told: Told) -> JsonObject:
        self.taken[told.address] = told
        return {}

    async def close_host(self, address: str) -> str:
        if address not in self.taken:
            return ""
        self.taken[address] = replace(self.taken[address], leaving=True)
        return machine_of(address)

    async def remove_host(self, address: str, *, silent: bool = False) -> None:
        self.taken.pop(address, None)

    async def start(self, row: RunnerRow, definition: Definition, say: Callable[[str], None]) -> None:
        if row.machine_id not in {machine_of(a) for a in self.taken}:
            raise FalplanError("No such machine", row.machine_id)
        await super().start(row, definition, say)


@dataclass
class Trade:
    """A control plane, who sells to it, and what it has bought."""

    plane: Running
    fleet: Fleet
    seller: MemorySeller
    estate: Estate

    def alive(self) -> list[str]:
        return [i for i, (_, b) in self.seller.made.items() if b.stage is not Stage.GONE]

    def rows(self, *lives: Life) -> list[MachineRow]:
        return [r for r in self.fleet.rows.values() if r.life in lives]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.02)

    def events(self) -> list[str]:
        rows = self.plane.controller.world.store._database.read("select kind from events order by seq")
        return [str(kind) for (kind,) in rows if str(kind).startswith("machine.")]


@asynccontextmanager
async def trading(
    folder: Path, seller: MemorySeller, estate: Estate | None = None, *, open_: bool = True
) -> AsyncIterator[Trade]:
    """A control plane that buys of this seller, whose machines come up, and end, within a moment."""
    estate = estate or Estate()

    async def let_time_pass() -> None:
        while True:
            await asyncio.sleep(0.1)
            seller.ready()

    async with a_control_plane(folder, estate) as plane:
        controller = plane.controller
        store = FleetStore(controller.world.store._database)
        tenancy = HostTenancy(estate, controller.world, controller.ending)
        fleet = Fleet(store, tenancy, "lineage", "plane-1", controller.wake, pace=(0.05, 0.1))
        fleet.seller_of = lambda region, body: seller if body == BODY else None
        fleet.load()
        fleet.configure({"east": Market(seller, body=BODY)} if open_ else {})
        controller.fleet = fleet
        passing = asyncio.create_task(let_time_pass())
        try:
            yield Trade(plane, fleet, seller, estate)
        finally:
            passing.cancel()
            controller.fleet = None
            await fleet.tasks.wait()
            fleet.close()


def a_seller(limits: Terms = SOON, **more: object) -> MemorySeller:
    return MemorySeller("east", [an_offer("east")], limits, now=clock.now(), **more)  # type: ignore[arg-type]


async def test_a_deploy_that_finds_no_room_waits_for_a_machine_and_runs_there(tmp_path: Path) -> None:
    async with trading(tmp_path, a_seller()) as trade:
        done = await trade.plane.deploy()

        assert done.status is OperationStatus.DONE, done.outcome
        [row] = trade.rows(Life.READY)
        [runner] = trade.plane.controller.world.runners.values()
        assert runner.machine_id == row.machine_id and row.identity == "fake-1"
        assert trade.events() == ["machine.wanted", "machine.bought", "machine.ready"]
        assert trade.plane.controller.launching.held == {}


async def test_a_machine_without_a_runner_is_given_back_and_one_with_a_runner_is_kept(tmp_path: Path) -> None:
    async with trading(tmp_path, a_seller()) as trade:
        await trade.plane.deploy()
        await asyncio.sleep(0.6)
        assert len(trade.alive()) == 1, "its runner is on it"
        await trade.plane.scale(min_concurrency=0)
        await trade.until(lambda: not trade.alive())
        await trade.until(lambda: not trade.rows(Life.READY, Life.LEAVING))

        [row] = trade.rows(Life.GONE)
        assert row.because.startswith("no runner has been on it for") and row.ended_at
        assert trade.estate.taken == {}
        assert trade.events()[-2:] == ["machine.leaving", "machine.gone"]


async def test_runners_fill_a_machine_before_another_is_bought_and_the_limit_is_told(tmp_path: Path) -> None:
    """A machine holds 16 runners on XS; three machines are allowed."""
    async with trading(tmp_path, a_seller(replace(SOON, most=2))) as trade:
        await trade.plane.deploy()
        await trade.plane.scale(min_concurrency=33, max_concurrency=33)
        world = trade.plane.controller.world
        await trade.until(lambda: len(world.runners) == 32)
        await trade.until(lambda: "max_machines" in trade.plane.controller.launching.held.get(ENDPOINT, ""))
        assert len(trade.alive()) == 2


async def test_without_capacity_a_deploy_fails_with_the_reason_of_each_pool(tmp_path: Path) -> None:
    async with trading(tmp_path, a_seller(capacity={"large": 0})) as trade:
        done = await trade.plane.deploy()
        assert done.status is OperationStatus.FAILED
        assert "east: ['large']" in str(done.outcome)
        assert trade.alive() == [] and not trade.rows(Life.WANTED, Life.STARTING, Life.READY)


async def test_a_machine_that_ends_by_itself_is_replaced_and_its_runner_is_gone(tmp_path: Path) -> None:
    async with trading(tmp_path, a_seller()) as trade:
        await trade.plane.deploy()
        world = trade.plane.controller.world
        [first] = list(world.runners)
        whose, made = trade.seller.made["fake-1"]
        trade.seller.made["fake-1"] = whose, replace(made, stage=Stage.ENDING, because="spot interruption")
        await trade.until(lambda: first not in world.runners and trade.plane.bundles() == {"one"})

        [row] = trade.rows(Life.READY)
        assert row.identity == "fake-2"
        ended = world.store.runner(first)
        assert ended is not None and ended.because == "its machine has ended: spot interruption"


async def test_a_control_plane_that_comes_back_goes_on_with_what_it_had_begun_to_buy(tmp_path: Path) -> None:
    seller, estate = a_seller(), Estate()
    async with trading(tmp_path, seller, estate) as trade:
        await trade.plane.begin("deploy", deploy_body("one"))
        await trade.until(lambda: bool(seller.made))
    async with trading(tmp_path, seller, estate) as trade:
        await trade.until(lambda: trade.plane.bundles() == {"one"})
        assert list(seller.made) == ["fake-1"]


async def test_a_region_that_is_closed_is_emptied_and_its_machines_are_gone(tmp_path: Path) -> None:
    async with trading(tmp_path, a_seller()) as trade:
        await trade.plane.deploy()
        trade.fleet.configure({})
        async with asyncio.timeout(20):
            await trade.fleet.until_closed("east")

        assert trade.alive() == [] and trade.estate.taken == {}
        assert len(trade.rows(Life.GONE)) == 1
        assert trade.events()[-1] == "machine.gone" and "machine.leaving" in trade.events()
        assert not trade.plane.controller.world.runners


async def test_machines_of_a_region_that_was_closed_are_ended_by_the_next_process_too(tmp_path: Path) -> None:
    """Its seller is found by what was recorded with each machine."""
    seller, estate = a_seller(), Estate()
    async with trading(tmp_path, seller, estate) as trade:
        await trade.plane.deploy()
    async with trading(tmp_path, seller, estate, open_=False) as trade:
        async with asyncio.timeout(20):
            await trade.fleet.until_closed("east")
        assert trade.alive() == [] and trade.fleet.markets == {"east": trade.fleet.markets["east"]}


async def test_machines_are_ended_with_a_control_plane_that_has_lost_its_memory(tmp_path: Path) -> None:
    async with trading(tmp_path, a_seller()) as trade:
        await trade.plane.deploy()
        await trade.fleet.abandon()
        [(_, made)] = trade.seller.made.values()
        assert made.stage in (Stage.ENDING, Stage.GONE)


async def test_a_kind_whose_machine_has_less_than_it_is_sold_with_is_not_bought_again(tmp_path: Path) -> None:
    """Seen red with a machine on which the runner did not fit: as many were bought as the region may have."""
    seller = a_seller(replace(SOON, idle=30.0))
    async with trading(tmp_path, seller, Estate(ram=1_000_000)) as trade:
        done = await trade.plane.deploy()

        assert done.status is OperationStatus.FAILED
        assert "large has less than it is sold with" in str(done.outcome)
        assert len(seller.made) == 1


async def test_a_machine_is_given_back_by_hand_and_its_runner_starts_on_another(tmp_path: Path) -> None:
    async with trading(tmp_path, a_seller()) as trade:
        await trade.plane.deploy()
        [row] = trade.rows(Life.READY)
        done = await trade.plane.ask("end_machine", {"machine": row.machine_id})

        assert done.status is OperationStatus.DONE and done.outcome == {"identity": "fake-1"}
        assert trade.fleet.rows[row.machine_id].life is Life.GONE
        await trade.until(lambda: bool(trade.plane.bundles()) and len(trade.alive()) == 1)
        assert trade.alive() == ["fake-2"]
        near = row.machine_id[:-1] + "x"
        refused = await trade.plane.ask("end_machine", {"machine": near})
        assert refused.status is OperationStatus.FAILED and "falplan machines list" in str(refused.outcome)


async def test_machines_of_another_control_plane_are_told_of_and_ended_once_somebody_says_that_it_is_gone(
    tmp_path: Path,
) -> None:
    seller = a_seller()
    seller.made["fake-0"] = (
        "lineage",
        Bought("fake-0", "m-0", "plane-0", Pool("large", ZONE, MARKET), Stage.UP, clock.now()),
    )
    async with trading(tmp_path, seller) as trade:
        await trade.plane.deploy()
        told = await Holdings(trade.plane.controller).everything()
        assert [(f["identity"], f["control_plane"], f["price"]) for f in as_any(told["foreign"])] == [
            ("fake-0", "plane-0", "1")
        ]
        assert [m["runners"] for m in as_any(told["machines"])] == [1]
        own = await trade.plane.ask("reap", {"control_plane": "plane-1"})
        assert own.status is OperationStatus.FAILED and "falplan destroy" in str(own.outcome)

        done = await trade.plane.ask("reap", {"control_plane": "plane-0"})
        assert done.outcome == {"machines": ["fake-0"]}
        assert trade.alive() == ["fake-2"]
        assert (await trade.plane.controller.world.store.identity({}))["retired"] == "plane-0"
        hours = as_any(Holdings(trade.plane.controller).cost(since=0.0)["hours"])
        assert [(h["kind"], h["machines"], h["alive"]) for h in hours] == [("large", 1, 1)]


def as_any(value: object) -> Any:
    return value


@dataclass(slots=True)
class Broken(MemorySeller):
    """Machines that end as soon as they are up."""

    mended: bool = False

    def ready(self) -> None:
        MemorySeller.ready(self)
        if self.mended:
            return
        self.made = {
            i: (o, replace(b, stage=Stage.GONE, because="its disk is broken") if b.stage is Stage.UP else b)
            for i, (o, b) in self.made.items()
        }


async def test_machines_that_come_to_nothing_are_not_bought_for_ever_until_the_region_is_changed(
    tmp_path: Path,
) -> None:
    seller = Broken("east", [an_offer("east")], SOON, now=clock.now())
    async with trading(tmp_path, seller) as trade:
        done = await trade.plane.deploy()
        assert done.status is OperationStatus.FAILED
        assert "2 machines in a row came to nothing, the last one as its disk is broken" in str(done.outcome)
        assert len(seller.made) == 2
        seller.mended = True
        trade.fleet.configure({"east": Market(seller, body={**BODY, "size": 4})})
        assert (await trade.plane.deploy("two")).status is OperationStatus.DONE


async def test_room_is_kept_free_beside_runners_and_given_up_once_nobody_asks_for_it(tmp_path: Path) -> None:
    """A machine holds 16 runners on XS: 16 are to be free, so that the first runner makes it a second machine."""
    async with trading(tmp_path, a_seller()) as trade:
        room = trade.plane.controller.room
        told = warm_to_json([Warm("east", BUILT_IN["XS"], 16)])
        await room.keep_free(told)  # type: ignore[arg-type]
        await trade.until(lambda: len(trade.rows(Life.READY)) == 1)
        await trade.plane.deploy()
        await trade.until(lambda: len(trade.rows(Life.READY)) == 2)
        await asyncio.sleep(1)
        assert len(trade.alive()) == 2, "what is kept free is not given back as idle"

        again = Room(room.world, room.host, lambda: "lineage", lambda: None)
        again.remember_spending(await trade.plane.controller.world.store.identity({}))
        assert again.warm == room.warm
        await room.keep_free({})
        await trade.until(lambda: len(trade.alive()) == 1)


async def test_why_room_can_not_be_kept_free_is_told(tmp_path: Path) -> None:
    async with trading(tmp_path, a_seller(capacity={"large": 0})) as trade:
        room = trade.plane.controller.room
        await room.keep_free(warm_to_json([Warm("east", BUILT_IN["XS"], 1)]))  # type: ignore[arg-type]
        who = "free room for 1 runner on XS in east"
        await trade.until(lambda: who in trade.fleet.decision.hopeless)
        told = await Holdings(trade.plane.controller).everything()
        assert "east: ['large']" in as_any(told["waiting"])[who]
