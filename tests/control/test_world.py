"""The controller's memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from falplan.control.world import World
from falplan.core.runtime import RunnerState
from falplan.stores.runtime.control import ControlStore, RunnerRow
from falplan.stores.runtime.database import Database


async def test_time_before_a_restart_does_not_count_as_idle(tmp_path: Path) -> None:
    """Seen red with views that gave the time at which a runner was ready: one that had waited long was stopped at once."""
    database = Database.open(tmp_path / "control.db")
    world = World(ControlStore(database), since=1000.0)
    await world.save(
        RunnerRow("r1", "acme/one", "r-1", RunnerState.IDLE, "here", {}, 1.0, ready_at=2.0),
        RunnerRow("r2", "acme/one", "r-1", RunnerState.IDLE, "here", {}, 1001.0, ready_at=1002.0),
        RunnerRow("r3", "acme/one", "r-1", RunnerState.SETUP, "here", {}, 1003.0),
    )
    views = {v.runner_id: v.ready_at for v in world.runner_views("acme/one")}
    database.close()

    assert views == {"r1": 1000.0, "r2": 1002.0, "r3": None}


async def test_what_hosts_hold_up_is_waited_for_as_long_as_one_may_come_back(tmp_path: Path) -> None:
    """Seen red with a removal that failed at once because a host that had just come back was not heard yet."""
    database = Database.open(tmp_path / "control.db")
    world = World(ControlStore(database), patience=30.0)
    row = RunnerRow("r1", "acme/one", "r-1", RunnerState.IDLE, "dc1/one", {}, 1.0)
    await world.save(row)
    await world.count_away(["dc1/one"])
    waiting = asyncio.create_task(
        world.until_held_up(lambda: "r1" not in world.runners, lambda: bool(world.out_of_reach("acme/one")))
    )
    await world.count_away([])
    early = waiting.done()
    await world.save(replace(row, state=RunnerState.TERMINATED))
    await waiting
    database.close()

    assert (early, world.runners) == (False, {})


async def test_what_hosts_hold_up_for_good_is_given_up(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "control.db")
    world = World(ControlStore(database), patience=0.01)
    await world.save(RunnerRow("r1", "acme/one", "r-1", RunnerState.IDLE, "dc1/one", {}, 1.0))
    await world.count_away(["dc1/one"])
    await world.until_held_up(lambda: "r1" not in world.runners, lambda: bool(world.out_of_reach("acme/one")))
    database.close()

    assert list(world.runners) == ["r1"]
