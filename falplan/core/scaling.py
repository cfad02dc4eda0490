"""How many runners an app needs, and which idle ones it can do without. fal's rule; source: fal's pages on scaling."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from falplan.core.runtime import Demand
from falplan.core.values import Json


@dataclass(frozen=True, slots=True)
class Scaling:
    """The settings that the number of runners depends on. Times in seconds."""

    min_concurrency: int = 0
    max_concurrency: int = 2
    concurrency_buffer: int = 0
    concurrency_buffer_perc: float = 0
    max_multiplexing: int = 1
    scaling_delay: float = 0
    keep_alive: float = 10


def scaling_of(settings: Mapping[str, Json]) -> Scaling:
    """The scaling settings of an app, out of all its settings."""
    names = Scaling.__dataclass_fields__
    return Scaling(**{name: cast("int", settings[name]) for name in names if settings.get(name) is not None})


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """How many runners there should be, and why. `floor` is the number below which idle runners are kept."""

    desired: int
    floor: int
    because: str


def decide_scale(scaling: Scaling, demand: Demand) -> ScaleDecision:
    """The number of runners for this demand, between min_concurrency and max_concurrency."""
    in_flight = sum(demand.in_flight.values())
    waiting = sum(age >= scaling.scaling_delay for age in demand.waiting)
    need = math.ceil((in_flight + waiting) / scaling.max_multiplexing)
    buffer = max(scaling.concurrency_buffer, math.ceil(need * scaling.concurrency_buffer_perc / 100))
    floor = min(scaling.max_concurrency, max(scaling.min_concurrency, buffer))
    wanted = max(scaling.min_concurrency, need + buffer)
    desired = min(scaling.max_concurrency, wanted)
    return ScaleDecision(desired, floor, _because(scaling, in_flight, waiting, need, buffer, wanted))


def _because(scaling: Scaling, in_flight: int, waiting: int, need: int, buffer: int, wanted: int) -> str:
    parts = [f"{in_flight} running and {waiting} waiting requests need {need}"]
    if buffer:
        parts.append(f"buffer {buffer}")
    if wanted == scaling.min_concurrency and wanted > need + buffer:
        parts.append(f"min_concurrency {scaling.min_concurrency}")
    if wanted > scaling.max_concurrency:
        parts.append(f"max_concurrency {scaling.max_concurrency}")
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class IdleRunner:
    """A ready runner without a request. `idle_for` counts seconds since its last request, or since it got ready."""

    runner_id: str
    idle_for: float


def surplus(
    scaling: Scaling, decision: ScaleDecision, running: int, idle: Iterable[IdleRunner]
) -> list[tuple[str, str]]:
    """(runner id, why) of idle runners to stop: longest idle first, only past keep_alive, never below the floor.

    `running` counts all runners of the app that are up or starting.
    """
    stoppable = running - max(decision.desired, decision.floor)
    over = max(0, running - scaling.max_concurrency)
    result: list[tuple[str, str]] = []
    for runner in sorted(idle, key=lambda r: (-r.idle_for, r.runner_id)):
        if len(result) >= stoppable:
            break
        if len(result) < over:
            result.append((runner.runner_id, f"max_concurrency is {scaling.max_concurrency}"))
        elif runner.idle_for > scaling.keep_alive:
            result.append(
                (runner.runner_id, f"idle for {runner.idle_for:.0f} s, keep_alive is {scaling.keep_alive:g} s")
            )
    return result


def backoff(failures: int, steps: tuple[float, ...] = (30, 60, 90)) -> float:
    """Seconds to wait after that many failed starts in a row: 30, 60, 90 … at most 600, as fal does."""
    if failures <= 0:
        return 0
    if failures <= len(steps):
        return steps[failures - 1]
    step = steps[-1] - steps[-2] if len(steps) > 1 else steps[-1]
    return min(600.0, steps[-1] + step * (failures - len(steps)))
