"""Which room there is for runners, and which money: what recorded runners and other projects leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

from falplan.control.host import HERE, Host
from falplan.control.parts import LEAVING
from falplan.control.world import World, placed_of
from falplan.core.definition import Definition
from falplan.core.placement import Need, Placed, Reserved, Slots, candidates, lacks, take, without
from falplan.core.resources import environment_of
from falplan.core.spending import Running, Spending, over_budget, spending_from_json
from falplan.core.values import Json, JsonObject
from falplan.core.warm import Warm, warm_from_json
from falplan.stores.runtime.control import AppRow

SPENDING, WARM = "spending", "warm"
"""The marks under which prices and budgets are kept, and what is kept free."""


@dataclass(slots=True)
class Room:
    """Machines with what is free on them. `lineage` tells whose runners are our own, `wake` makes the controller look again."""

    world: World
    host: Host
    lineage: Callable[[], str]
    wake: Callable[..., None]
    spending: Spending = field(default_factory=Spending)
    warm: tuple[Warm, ...] = ()

    async def spend(self, prices: Mapping[str, Mapping[str, str]], budgets: Mapping[str, Json]) -> None:
        """Prices and budgets as the spec has them, durable before they hold. What runs beyond them goes on."""
        told = spending_from_json(prices, budgets)
        kept = json.dumps({"prices": prices, "budgets": budgets}, sort_keys=True)
        await self.world.store.mark(SPENDING, kept if prices or budgets else None)
        self.spending = told
        self.wake()

    async def keep_free(self, warm: Mapping[str, Mapping[str, JsonObject]]) -> None:
        """Room that regions keep free, as the spec has it; durable before it holds."""
        told = warm_from_json(warm)
        await self.world.store.mark(WARM, json.dumps(warm, sort_keys=True) if warm else None)
        self.warm = told
        self.wake()

    def remember_spending(self, identity: Mapping[str, str]) -> None:
        """At start: prices, budgets and room to keep free as an earlier process was told them."""
        if SPENDING in identity:
            kept = json.loads(identity[SPENDING])
            self.spending = spending_from_json(kept["prices"], kept["budgets"])
        if WARM in identity:
            self.warm = warm_from_json(json.loads(identity[WARM]))

    async def slots(self, *, leaving: bool = True) -> list[Slots]:
        """Machines with the room that recorded runners leave; with `leaving` False, once those that are ending are gone."""
        machines = list(await self.host.machines())
        places: dict[str, list[Placed]] = {}
        for row in self.world.runners.values():
            if leaving or row.state not in LEAVING:
                places.setdefault(row.machine_id, []).append(placed_of(row))
        left = [reduce(take, places.get(m.machine_id, ()), m) for m in machines]
        reserved = await self.host.reserved()
        return [without(m, self._of_others(reserved.get(m.machine_id, reserved[HERE]), leaving)) for m in left]

    def _of_others(self, reserved: Sequence[Reserved], leaving: bool) -> list[Reserved]:
        """What is taken beside our own recorded runners."""
        others = [r for r in reserved if r.runner_id not in self.world.runners]
        if leaving:
            return others
        # What is our own and has no runner any more is given back as soon as the ledger is looked at again.
        return [r for r in others if r.lineage != self.lineage()]

    def need(self, definition: Definition, settings: JsonObject) -> Need:
        """What a runner asks of a machine, with these runtime settings."""
        python = self.host.python_of(definition.lock) if definition.lock else ""
        return replace(definition.need(settings.get("regions")), python=python)

    async def may_run_here(self, definition: Definition, settings: JsonObject) -> bool:
        """Whether the control plane's own machine is one of those that a runner may be put on, with these runtime settings."""
        need = self.need(definition, settings)
        large = candidates(need, await self.host.machines(), definition.machine_types)
        return any(not self.host.is_elsewhere(m.machine_id) and not lacks(need, m) for m in large)

    def over_budget(self, app: AppRow, placed: Placed, definition: Definition, *, leaving: bool = True) -> str:
        """Why one more runner would cost too much. Those that start or end cost money, too; the latter not with `leaving` False."""
        if not self.spending.budgets:
            return ""
        rows = [r for r in self.world.runners.values() if leaving or r.state not in LEAVING]
        running = [
            _running(self.world.apps[r.endpoint].address, placed_of(r), self.world.definition(r.endpoint, r.revision))
            for r in rows
            if r.endpoint in self.world.apps
        ]
        return over_budget(self.spending, running, _running(app.address, placed, definition))


def _running(address: str, placed: Placed, definition: Definition) -> Running:
    """The runner as its price is counted. `address` is its app's."""
    kind = definition.machine_types.get(placed.machine_type)
    own = kind.gpus if kind else 0
    return Running(environment_of(address) or "", placed.region, placed.machine_type, len(placed.gpus), own)
