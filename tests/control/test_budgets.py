"""The real controller, its store and its decisions, over machines that are made up: what budgets keep it from launching."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from falplan import clock
from falplan.control.controller import Controller
from falplan.control.host import HERE, Observation, Sight
from falplan.control.parts import Timing
from falplan.control.room import SPENDING
from falplan.control.world import World
from falplan.core.definition import Definition, definition_to_json
from falplan.core.placement import GIB, Reserved, Slots
from falplan.core.rollout import Phase, Rollout, Strategy
from falplan.core.runtime import Demand, LiveApp, RunnerState, RunnerTarget
from falplan.core.spec.resolved import MachineType
from falplan.core.values import JsonObject
from falplan.stores.runtime.control import AppRow, ControlStore, RevisionRow, RolloutRow, RunnerRow
from falplan.stores.runtime.database import Database

PRICES = {"here": {"XS": "0.1"}}
ROOM = Slots("big", "here", 64, 256 * GIB, 64, 256 * GIB)


@dataclass(slots=True)
class MadeUpHost:
    """Machines on which every runner starts at once, is never ready, and stops only when it is let."""

    running: set[str] = field(default_factory=set)
    may_stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def machines(self) -> list[Slots]:
        return [ROOM]

    def away(self) -> dict[str, str]:
        return {}

    @property
    def has_hosts(self) -> bool:
        return False

    def is_elsewhere(self, machine_id: str) -> bool:
        return False

    async def reserved(self) -> dict[str, list[Reserved]]:
        return {HERE: []}

    async def observe(self) -> Sight:
        seen = {runner_id: Observation(runner_id, alive=True, ready=False) for runner_id in self.running}
        return Sight(seen, {HERE: clock.monotonic()})

    async def start(self, row: RunnerRow, definition: Definition, say: object) -> None:
        self.running.add(row.runner_id)

    async def stop(self, runner_id: str) -> None:
        await self.may_stop.wait()
        self.running.discard(runner_id)

    async def kill(self, runner_id: str) -> None:
        self.running.discard(runner_id)

    async def tail(self, runner_id: str, lines: int) -> list[str]:
        return []


@dataclass(slots=True)
class MadeUpTraffic:
    """Callers who want as many runners as `waiting` says, by endpoint."""

    waiting: dict[str, int] = field(default_factory=dict)

    def configure(self, app: LiveApp) -> None: ...
    def forget(self, endpoint: str) -> None: ...
    def set_targets(self, endpoint: str, targets: list[RunnerTarget]) -> None: ...
    def abandon(self, runner_id: str) -> None: ...

    def demand(self, endpoint: str) -> Demand:
        return Demand(endpoint, (1.0,) * self.waiting.get(endpoint, 0))

    async def drained(self, runner_id: str) -> None: ...


def a_definition(entry: str = "one") -> Definition:
    return Definition("command", entry, ("x",), {"machine_type": ["XS"]}, None, "", {"XS": MachineType("XS", 0.5, GIB)})


async def with_app(controller: Controller, endpoint: str, address: str, **settings: Any) -> None:
    """An app that serves, as if it had been deployed."""
    definition = a_definition(endpoint)
    values: JsonObject = {"min_concurrency": 0, "max_concurrency": 9, "regions": None, **settings}
    revision = RevisionRow(endpoint, definition.revision, definition_to_json(definition), 1.0)
    await controller.world.save(revision, AppRow(endpoint, address, definition.revision, {}, values))


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Controller]:
    database = Database.open(tmp_path / "control.db")
    made_up: Any = MadeUpHost()
    found = Controller(World(ControlStore(database)), cast("Any", MadeUpTraffic()), made_up, Timing())
    await with_app(found, "acme/one", "app.main.one")
    await with_app(found, "acme/two--staging", "app.staging.two")
    yield found
    made_up.may_stop.set()
    await found.parts.tasks.cancel_all(but="start ")
    database.close()


def traffic(controller: Controller) -> dict[str, int]:
    return cast("MadeUpTraffic", controller.traffic).waiting


async def look(controller: Controller, times: int = 2) -> dict[str, int]:
    """Look and act, and count the runners by app."""
    for _ in range(times):
        await controller.tick()
        await controller.finish_starts()
    return {e: len(controller.world.runners_of(e)) for e in sorted(controller.world.apps)}


def events(controller: Controller, kind: str) -> list[str]:
    return [e.message for e in controller.world.store.events(limit=100) if e.kind == kind]


@pytest.mark.parametrize(
    ("budgets", "one", "two"),
    [
        ({}, 5, 3),
        ({"project": "0.8"}, 5, 3),
        ({"project": "0.3"}, 3, 0),
        ({"project": "0.35"}, 3, 0),
        ({"environments": {"main": "0.2"}}, 2, 3),
        ({"environments": {"staging": "0"}}, 5, 0),
        ({"regions": {"here": "0.6"}}, 5, 1),
        ({"regions": {"elsewhere": "0"}}, 5, 3),
        ({"project": "0.7", "environments": {"main": "0.4", "staging": "0.2"}}, 4, 2),
    ],
)
async def test_no_runner_is_launched_beyond_a_budget(
    controller: Controller, budgets: dict[str, Any], one: int, two: int
) -> None:
    """Seen red without the look at budgets in `_launch`."""
    await controller.room.spend(PRICES, budgets)
    traffic(controller).update({"acme/one": 5, "acme/two--staging": 3})

    assert await look(controller) == {"acme/one": one, "acme/two--staging": two}


async def test_why_a_runner_is_not_launched_is_told_once_and_forgotten_when_nothing_needs_it(
    controller: Controller,
) -> None:
    """Seen red with a reason that stayed after the demand was gone."""
    await controller.room.spend(PRICES, {"project": "0.2"})
    traffic(controller)["acme/one"] = 3
    await look(controller, times=4)
    because = "the budget of the project is $0.20 an hour: 2 runners there cost $0.20, and one more on XS in here $0.10"

    assert controller.launching.held.get("acme/one", "") == because
    assert events(controller, "runner.over_budget") == [because]
    traffic(controller)["acme/one"] = 0
    await look(controller)
    assert controller.launching.held.get("acme/one", "") == ""


async def test_runners_that_stop_cost_money_until_they_are_gone(controller: Controller) -> None:
    """Seen red with runners counted only while they start or serve."""
    await controller.room.spend(PRICES, {"project": "0.2"})
    traffic(controller)["acme/one"] = 2
    await look(controller)
    [first, _] = controller.world.runners_of("acme/one")
    await controller.ending.drain(first.runner_id, "told to")
    traffic(controller)["acme/two--staging"] = 1
    await look(controller)

    assert controller.world.runners_of("acme/two--staging") == []
    assert controller.launching.held.get("acme/two--staging", "") == f"waits for the room of {first.runner_id}"
    traffic(controller)["acme/one"] = 1
    cast("MadeUpHost", controller.host).may_stop.set()
    await controller.parts.tasks.wait(f"end {first.runner_id}")
    assert (await look(controller))["acme/two--staging"] == 1


async def test_a_budget_that_was_lowered_stops_nothing_and_launches_nothing(controller: Controller) -> None:
    await controller.room.spend(PRICES, {"project": "0.3"})
    traffic(controller)["acme/one"] = 3
    await look(controller)
    await controller.room.spend(PRICES, {"project": "0.1"})
    traffic(controller)["acme/one"] = 4

    assert (await look(controller))["acme/one"] == 3
    await controller.room.spend({}, {})
    assert (await look(controller))["acme/one"] == 4


async def test_a_deploy_whose_runner_is_too_dear_fails_and_says_so(controller: Controller) -> None:
    """Seen red with a launch that waited: nothing would ever have ended the deploy."""
    await controller.room.spend(PRICES, {"project": "0.1"})
    traffic(controller)["acme/one"] = 1
    await look(controller)
    newer = replace(a_definition("newer"))
    app = controller.world.apps["acme/one"]
    rollout = Rollout("acme/one", newer.revision, app.revision, Strategy.ROLLING, Phase.VERIFYING, "operation")
    await controller.world.save(
        RevisionRow("acme/one", newer.revision, definition_to_json(newer), 2.0),
        RolloutRow(rollout, {}, app.settings),
    )
    await look(controller)
    ended = controller.world.rollouts["acme/one"].rollout

    assert ended.phase is Phase.FAILED
    assert "the budget of the project is $0.10 an hour" in ended.because
    assert [r.revision for r in controller.world.runners_of("acme/one")] == [app.revision]


async def test_prices_and_budgets_survive_a_restart(controller: Controller) -> None:
    """Seen red with budgets in memory alone: the first look after a restart launched what they forbid."""
    await controller.room.spend(PRICES, {"project": "0.1"})
    identity = await controller.world.store.identity({})
    again = Controller(controller.world, controller.traffic, controller.host)
    again.room.remember_spending(identity)
    traffic(controller)["acme/one"] = 2

    assert json.loads(identity[SPENDING])["budgets"] == {"project": "0.1"}
    assert again.room.spending == controller.room.spending
    assert (await look(again))["acme/one"] == 1
    await again.room.spend({}, {})
    assert SPENDING not in await again.world.store.identity({})


async def test_runners_in_every_state_but_the_last_are_counted(controller: Controller) -> None:
    await controller.room.spend(PRICES, {"project": "0.3"})
    revision = controller.world.apps["acme/one"].revision or ""
    place: JsonObject = {
        "region": "here",
        "machine_type": "XS",
        "vcpu": 0.5,
        "ram": GIB,
        "gpus": [],
        "because": "",
    }
    for number, state in enumerate((RunnerState.SETUP, RunnerState.DRAINING, RunnerState.TERMINATED)):
        row = RunnerRow(f"r{number}", "acme/one", revision, state, "big", place, 1.0)
        await controller.world.save(row)
        cast("MadeUpHost", controller.host).running.add(row.runner_id)
    traffic(controller)["acme/two--staging"] = 5

    assert (await look(controller))["acme/two--staging"] == 1
