"""What the regions of a spec sell now, for a plan: asked once, and only if its runners may need it. Buys nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from falplan import registry
from falplan.core.consequences import Consequence
from falplan.core.errors import FalplanError
from falplan.core.fleet import Region
from falplan.core.placement import Slots, take
from falplan.core.plan import Action, Plan
from falplan.core.purchases import Shop, owned_of, unknown_of
from falplan.core.resources import ResourceType
from falplan.core.spec.resolved import MachineType, ResolvedSpec
from falplan.core.spending import ZERO
from falplan.core.values import JsonObject
from falplan.core.warm import warm_of
from falplan.engine.observe import Observed
from falplan.sdk.launches import Elastic


def sellers(spec: ResolvedSpec) -> dict[str, Elastic]:
    """Who sells machines in which region of the spec. Asks nobody.

    Raises:
        FalplanError: a provider refuses its options.
    """
    bodies: dict[str, JsonObject] = {n: {"provider": r.provider, **r.options} for n, r in spec.regions.items()}
    found = {name: registry.seller_of(name, body) for name, body in bodies.items()}
    return {name: seller for name, seller in found.items() if seller is not None}


def shop_for(spec: ResolvedSpec, plan: Plan, observed: Observed) -> Shop | None:
    """Where machines for the plan's runners are bought; None where nothing is for sale."""
    found = sellers(spec)
    if not found:
        return None
    asked = {t.name: t for t in (*_asked_for(plan, spec.machine_types), *(w.machine_type for w in warm_of(spec)))}
    types = [asked[name] for name in sorted(asked)]
    regions, silent = [], {}
    for name, seller in found.items():
        terms = seller.terms()
        budget = terms.budget if terms.budget is not None else spec.regions[name].budget or ZERO
        try:
            offers = tuple(seller.offers(types)) if types else ()
        except FalplanError as exc:
            silent[name] = f"{exc.summary}: {exc.detail}".rstrip(".")
            regions.append(Region(name, terms.most, budget, terms.idle, closed=silent[name], unsettled=True))
            continue
        limits = Region(
            name, terms.most, budget, terms.idle, offers, unpriced=terms.unpriced, otherwise=terms.otherwise
        )
        regions.append(replace(limits, ends_after=terms.ends_after))
    unknown = [one for shown in observed.shown_bought.values() for one in shown]
    return Shop(regions, [*owned_of(observed.fleet), *unknown_of(unknown)], spec.machine_types, silent)


def keep_free(shop: Shop | None, spec: ResolvedSpec, machines: Iterable[Slots], follow: Iterable[Consequence]) -> None:
    """Have the shop buy what regions keep free, beside what the plan's runners leave on machines and on what is bought for them."""
    warm = warm_of(spec)
    if shop is None or not warm:
        return
    room = {slots.machine_id: slots for slots in (*machines, *(p.slots for p in shop.bought))}
    for placed in (p for consequence in follow for p in consequence.placed):
        if placed.machine_id in room:
            room[placed.machine_id] = take(room[placed.machine_id], placed)
    shop.keep_free(warm, room.values())


def _asked_for(plan: Plan, types: Mapping[str, MachineType]) -> list[MachineType]:
    """The machine types of the apps that the plan has runners for."""
    names: set[str] = set()
    for change in plan.changes.values():
        if change.type is ResourceType.APP and change.action is not Action.DELETE and change.after:
            settings: Any = change.after.get("settings") or {}
            names.update(settings.get("machine_type") or ())
    return [types[name] for name in sorted(names) if name in types]
