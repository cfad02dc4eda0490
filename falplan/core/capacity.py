"""Which runner stands where once a plan is applied, which GPUs nobody can use then, and what does not fit.

Places runners by the controller's own rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import cast

from falplan.core.consequences import (
    Consequence,
    Effect,
    LiveRunner,
    NoPlace,
    alike,
    free,
    going,
    leaves_its_region,
    need_of,
    occupy,
    overtakes,
    place_all,
)
from falplan.core.placement import NoRoom, Placed, Slots, place, same_gpu
from falplan.core.plan import Action, Change, Plan
from falplan.core.plural import count
from falplan.core.report import Row, Section, Tone
from falplan.core.resources import ResourceType
from falplan.core.spec.resolved import MachineType
from falplan.core.spending import Prices, dollars, runner_price, spelt
from falplan.core.values import Json, JsonObject


@dataclass(frozen=True, slots=True)
class Spot:
    """A runner and its place. `because` says why it is there: it runs already, a change launches it, or min_concurrency asks for it."""

    address: str
    placed: Placed
    because: str


@dataclass(frozen=True, slots=True)
class Stranded:
    """Free GPUs, by index, of a machine on which no app's runner finds room. `price`: what they cost, USD an hour, None if not known."""

    machine_id: str
    region: str
    gpu: str
    gpus: tuple[int, ...]
    because: str
    price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """The machines once a plan is applied. `machines` are those with what is free then."""

    machines: tuple[Slots, ...] = ()
    spots: tuple[Spot, ...] = ()
    stranded: tuple[Stranded, ...] = ()
    missing: tuple[NoPlace, ...] = ()


def capacity_of(
    plan: Plan,
    runners: Iterable[LiveRunner],
    machines: Sequence[Slots],
    types: Mapping[str, MachineType],
    *,
    follow: Iterable[Consequence] = (),
    missing: Iterable[NoPlace] = (),
    prices: Prices,
    python: str = "",
) -> Capacity:
    """Where every runner stands that stays, is launched, or is needed by min_concurrency.

    `machines` have the room that all `runners` leave; `follow` and `missing` are the plan's consequences; `python` is as for `need_of`.
    """
    room, told = list(machines), list(follow)
    drained: Counter[str] = Counter()
    for consequence in told:
        drained[consequence.address] += consequence.count if consequence.effect is Effect.DRAIN else 0
    spots = _staying(plan, runners, drained, room)
    for consequence in told:
        for placed in consequence.placed:
            occupy(room, placed)
            spots.append(Spot(consequence.address, placed, consequence.because))
    apps = _apps(plan)
    without, there = list(missing), Counter(s.address for s in spots)
    told_of = {m.address for m in without}
    for address, change in apps.items():
        if address not in told_of:
            needed, refused = _needed(change, there[address], room, types, python)
            spots += needed
            without += refused
    spots.sort(key=lambda s: (s.placed.region, s.placed.machine_id, s.address, s.placed.gpus))
    return Capacity(
        tuple(room), tuple(spots), tuple(_stranded(list(apps.values()), room, types, prices)), tuple(without)
    )


def _apps(plan: Plan) -> dict[str, Change]:
    return {
        address: change
        for address, change in sorted(plan.changes.items())
        if change.type is ResourceType.APP and change.action is not Action.DELETE and change.after is not None
    }


def _staying(plan: Plan, runners: Iterable[LiveRunner], drained: Mapping[str, int], room: list[Slots]) -> list[Spot]:
    """Runners that are there and stay; those that end give their room back."""
    found: dict[str, list[LiveRunner]] = {}
    for runner in runners:
        if runner.leaving or (not runner.serving and overtakes(plan.changes.get(runner.address))):
            free(room, [runner])
        else:
            found.setdefault(runner.address, []).append(runner)
    spots, hosts = [], going(plan)
    for address, there in sorted(found.items()):
        change = plan.changes.get(address)
        there.sort(
            key=lambda r: leaves_its_region(change, r, room) or (r.placed is not None and r.placed.machine_id in hosts)
        )
        stay = max(0, len(there) - drained.get(address, 0))
        free(room, there[stay:])
        spots += [Spot(address, r.placed, "runs already") for r in there[:stay] if r.placed]
    return spots


def _needed(
    change: Change, there: int, room: list[Slots], types: Mapping[str, MachineType], python: str
) -> tuple[list[Spot], list[NoPlace]]:
    """Runners of an app that the plan leaves as it is, and that has fewer than it should."""
    settings = cast("JsonObject", (change.after or {})["settings"])
    least = int(cast("int", settings["min_concurrency"]))
    spots: list[Spot] = []
    for _ in range(max(0, least - there)):
        placed = place_all(need_of(change, python), 1, room, types)
        if isinstance(placed, NoRoom):
            advice = "Lower min_concurrency of an app, or add a machine."
            return spots, [NoPlace(change.address, placed.reasons, advice, placed.unknown, placed.lacking)]
        spots.append(Spot(change.address, placed[0], f"min_concurrency {least}"))
    return spots, []


def _stranded(
    apps: Sequence[Change], room: Iterable[Slots], types: Mapping[str, MachineType], prices: Prices
) -> Iterable[Stranded]:
    """Nothing is stranded while no app asks for a GPU at all."""
    needs = [need_of(c) for c in apps]
    wants = [replace(need, machine_types=(name,)) for need in needs for name in need.machine_types if types[name].gpu]
    for machine in room:
        if not machine.gpus or not wants:
            continue
        tried = [place(need, [machine], types) for need in wants]
        if any(isinstance(found, Placed) for found in tried):
            continue
        reasons = [r for found in tried if isinstance(found, NoRoom) for r in found.reasons]
        because = reasons[0].partition(": ")[2] if reasons else "no app may be put there"
        price = _price_of_gpus(machine, types, prices)
        yield Stranded(machine.machine_id, machine.region, machine.gpu_name, machine.gpus, because, price)


def _price_of_gpus(machine: Slots, types: Mapping[str, MachineType], prices: Prices) -> Decimal | None:
    """What the free GPUs cost: the cheapest machine type with such a GPU that has a price, once for each."""
    found = [
        runner_price(prices, machine.region, name, gpus=len(machine.gpus), own_gpus=kind.gpus)
        for name, kind in types.items()
        if kind.gpu and same_gpu(kind, machine)
    ]
    return min((p for p in found if p is not None), default=None)


def capacity_section(
    capacity: Capacity, types: Mapping[str, MachineType], prices: Prices, *, rows: bool = True
) -> Section:
    """The placement map, machine by machine; stranded GPUs and what does not fit are told in any case."""
    told = [*(_machines(capacity) if rows else ()), *_warnings(capacity)]
    return Section(
        "placement", "Runners and machines once this is applied", tuple(told), _body(capacity, types, prices)
    )


def _by_machine(spots: Iterable[Spot]) -> dict[str, list[Spot]]:
    found: dict[str, list[Spot]] = {}
    for spot in spots:
        found.setdefault(spot.placed.machine_id, []).append(spot)
    return found


def _machines(capacity: Capacity) -> Iterable[Row]:
    on = _by_machine(capacity.spots)
    for machine in capacity.machines:
        here = on.get(machine.machine_id, [])
        if here:
            gpus = f", {len(machine.gpus)} of {machine.total_gpus} GPUs free" if machine.total_gpus else ""
            text = f"{machine.machine_id} ({machine.region}): {count(len(here), 'runner')}{gpus}"
            runners = (f"{s.address} on {_on(s.placed)}: {s.because}" for s in here)
            yield Row(text, detail=(*runners, *(f"given to nobody: {why}" for why in machine.withheld)))


def _on(placed: Placed) -> str:
    gpus = f" gpu {', '.join(map(str, placed.gpus))}" if placed.gpus else ""
    return f"{placed.machine_type}{gpus}"


def _warnings(capacity: Capacity) -> Iterable[Row]:
    for s in capacity.stranded:
        cost = f"{dollars(s.price)}/h" if s.price is not None else "of unknown price"
        indices = ", ".join(map(str, s.gpus))
        text = f"stranded on {s.machine_id}: {count(len(s.gpus), 'GPU')} ({s.gpu} {indices}), {cost}"
        yield Row(text, Tone.WARNING, (s.because,))
    for who, m in alike(capacity.missing):
        if m.unknown:
            text = f"whether there is room for a runner of {who} will be seen: not every machine could be asked"
            yield Row(text, Tone.WARNING, m.reasons)
            continue
        yield Row(f"no room for a runner of {who}: {m.advice}", Tone.ERROR, m.reasons)


def _body(capacity: Capacity, types: Mapping[str, MachineType], prices: Prices) -> JsonObject:
    on = _by_machine(capacity.spots)
    return {
        "machines": [_machine(m, on.get(m.machine_id, []), types, prices) for m in capacity.machines],
        "stranded": [
            {
                "machine": s.machine_id,
                "region": s.region,
                "gpu": s.gpu,
                "gpus": list(s.gpus),
                "because": s.because,
                "price_per_hour": None if s.price is None else spelt(s.price),
            }
            for s in capacity.stranded
        ],
        "no_room": [{"address": m.address, "advice": m.advice, "rejected": list(m.reasons)} for m in capacity.missing],
    }


def _machine(machine: Slots, spots: Iterable[Spot], types: Mapping[str, MachineType], prices: Prices) -> JsonObject:
    return {
        "machine": machine.machine_id,
        "region": machine.region,
        "gpu": machine.gpu_name,
        "gpus": machine.total_gpus,
        "free_gpus": list(machine.gpus),
        "withheld": list(machine.withheld),
        "runners": [_spot(s, types, prices) for s in spots],
    }


def _spot(spot: Spot, types: Mapping[str, MachineType], prices: Prices) -> Json:
    placed, kind = spot.placed, types.get(spot.placed.machine_type)
    own = kind.gpus if kind else 0
    price = runner_price(prices, placed.region, placed.machine_type, gpus=len(placed.gpus), own_gpus=own)
    return {
        "address": spot.address,
        "machine_type": placed.machine_type,
        "gpus": list(placed.gpus),
        "because": spot.because,
        "price_per_hour": None if price is None else spelt(price),
    }
