"""What a control plane's look at one app costs as the fleet grows: the work of a round is as many of them as there are apps."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from falplan.control.world import World
from falplan.core.runtime import RunnerState, RunnerTarget
from falplan.gateway.scheduling import Scheduler
from falplan.stores.runtime.control import RunnerRow

pytestmark = pytest.mark.bench
FEW, MANY = 250, 4000


def test_a_look_at_one_app_costs_the_same_however_many_there_are() -> None:
    """One runner an app. The ratio is 1 where nothing else is looked at, and 16 where every other runner is."""
    few, many = asyncio.run(_look(FEW)), asyncio.run(_look(MANY))
    for name, taken in few.items():
        print(
            f"\n{name}, an app of {FEW}: {taken * 1e6:.1f} us; of {MANY}: {many[name] * 1e6:.1f} us, {many[name] / taken:.2f} times as much"
        )


async def _look(count: int) -> dict[str, float]:
    world = World(cast(Any, None))
    scheduler = Scheduler(time.monotonic, lambda endpoint: None, lambda runner_id, reason: None)
    endpoints = [f"acme/app-{n}" for n in range(count)]
    for n, endpoint in enumerate(endpoints):
        world._keep(RunnerRow(f"r-{n}", endpoint, "rev-1", RunnerState.IDLE, "here", {}, float(n)))
        scheduler.set_targets(endpoint, [RunnerTarget(f"r-{n}", endpoint, "rev-1", f"/tmp/{n}.sock", 1)])
    return {
        "its runners": _each(lambda endpoint: world.runners_of(endpoint), endpoints),
        "what callers want of it": _each(lambda endpoint: scheduler.demand(endpoint), endpoints),
    }


def _each(work: Any, endpoints: list[str]) -> float:
    began = time.perf_counter()
    for endpoint in endpoints:
        work(endpoint)
    return (time.perf_counter() - began) / len(endpoints)
