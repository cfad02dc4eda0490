"""Holds what apps will cost against the budgets of project, environments and regions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal

from falplan.core.consequences import VERIFIES, Consequence, Effect, LiveRunner
from falplan.core.cost import AppCost, Cost, Costs, shown
from falplan.core.errors import Position
from falplan.core.findings import Finding, Source
from falplan.core.placement import Placed
from falplan.core.plural import count
from falplan.core.resources import environment_of
from falplan.core.spec.resolved import MachineType
from falplan.core.spending import Budgets, Running, Spending, dollars, over_budget

KEY = "budget_per_hour"


def judge_budgets(costs: Costs, budgets: Budgets, positions: Mapping[str, Position] = {}) -> list[Finding]:
    """A refusal for each budget that the fewest runners exceed, a warning for each that the most do, or that can't be judged.

    `positions` are those of the spec, as `environments.main.budget_per_hour`.
    """
    found: list[Finding] = []
    for path, what, limit, cost, parts in _limits(costs, budgets):
        found += _judge(what, limit, cost, parts, positions.get(path))
    return found


def _limits(costs: Costs, budgets: Budgets) -> Iterable[tuple[str, str, Decimal, Cost, list[tuple[AppCost, Cost]]]]:
    apps = list(costs.apps.values())
    if budgets.project is not None:
        yield KEY, "the project", budgets.project, costs.total, [(a, a.cost) for a in apps]
    sums = costs.environments()
    for name, limit in sorted(budgets.environments.items()):
        inside = [(a, a.cost) for a in apps if a.environment == name]
        yield f"environments.{name}.{KEY}", f"environment {name}", limit, sums.get(name, Cost()), inside
    sums = costs.regions()
    for name, limit in sorted(budgets.regions.items()):
        there = [(a, a.regions[name]) for a in apps if name in a.regions]
        yield f"regions.{name}.{KEY}", f"region {name}", limit, sums.get(name, Cost()), there


def _judge(
    what: str, limit: Decimal, cost: Cost, parts: list[tuple[AppCost, Cost]], place: Position | None
) -> Iterable[Finding]:
    allowed = f"the budget of {what} is {dollars(limit)} an hour"
    if cost.least > limit:
        message = f"{allowed}, and min_concurrency alone costs {dollars(cost.least)}"
        ordered = sorted((p for p in parts if p[1].least), key=lambda p: (-p[1].least, p[0].address))
        lines = tuple(f"{app.address}: {dollars(part.least)} an hour" for app, part in ordered)
        way_out = "Lower min_concurrency, choose cheaper machine types, or raise the budget."
        yield Finding(Source.BUDGET, what, message, refuses=True, position=place, detail=(*lines, way_out))
    elif cost.most > limit:
        message = (
            f"{allowed}, and all runners together would cost {dollars(cost.most)}: no more are launched than it allows"
        )
        ordered = sorted((p for p in parts if p[1].most), key=lambda p: (-p[1].most, p[0].address))
        lines = tuple(f"{app.address}: {shown(part)}" for app, part in ordered)
        yield Finding(Source.BUDGET, what, message, refuses=False, position=place, detail=lines)
    if cost.unpriced:
        apps = f"{count(len(cost.unpriced), 'app')} without a price {'is' if len(cost.unpriced) == 1 else 'are'}"
        message = f"{allowed}, and {apps} not held by it"
        lines = tuple(f"{app.address}: {app.because}" for app, part in parts if part.unpriced and app.because)
        way_out = "Say `price_per_hour` in machine_types or in the region; 0 is a price, too."
        yield Finding(Source.BUDGET, what, message, refuses=False, position=place, detail=(*lines, way_out))


def judge_launches(
    follow: Iterable[Consequence],
    runners: Iterable[LiveRunner],
    spending: Spending,
    types: Mapping[str, MachineType],
    *,
    recreated: Collection[str] = (),
) -> list[Finding]:
    """A refusal for each deploy whose first runner the controller would not launch beside those that serve: it could only fail.

    `recreated` are addresses of apps whose old runners stop first.
    """
    running = [
        _running(r.address, r.placed, types)
        for r in runners
        if r.placed and not r.leaving and r.address not in recreated
    ]
    found = []
    for launch in follow:
        for placed in launch.placed if launch.effect is Effect.LAUNCH else ():
            new = _running(launch.address, placed, types)
            reason = over_budget(spending, running, new)
            if reason and launch.because.startswith(VERIFIES):
                message = f"{launch.address}: the runner that verifies its new revision can't be launched: {reason}"
                way_out = (
                    "`strategy: recreate` stops the old runners first; or raise the budget, or stop other runners."
                )
                found.append(Finding(Source.BUDGET, launch.address, message, True, launch.address, detail=(way_out,)))
            if not reason:
                running.append(new)
    return found


def _running(address: str, placed: Placed, types: Mapping[str, MachineType]) -> Running:
    own = types[placed.machine_type].gpus if placed.machine_type in types else 0
    return Running(environment_of(address) or "", placed.region, placed.machine_type, len(placed.gpus), own)
