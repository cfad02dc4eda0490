"""The machines that a plan leads to: what the controller will buy for runners without room, by the controller's own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from falplan.core.ages import in_words
from falplan.core.consequences import Consequence
from falplan.core.fleet import Life, Owned, Region, Waiting, decide
from falplan.core.offers import Unplaced
from falplan.core.placement import Need, Slots, slots_from_json
from falplan.core.plural import count
from falplan.core.report import Row, Section, Tone
from falplan.core.spec.resolved import MachineType
from falplan.core.spending import ZERO, dollars, spelt
from falplan.core.values import Json, JsonObject
from falplan.core.warm import Warm, unmet

NOTHING = Slots("", "", 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Purchase:
    """A machine that will be bought, of the first of `kinds` that can be had. `slots` is its room while it is empty; `price` of the first
    kind, in USD an hour, and `spot` what it costs by zone where it may be taken back. `who` found no room."""

    machine_id: str
    region: str
    kinds: tuple[str, ...]
    slots: Slots
    price: Decimal | None
    because: str
    spot: Mapping[str, Decimal] = field(default_factory=dict)
    remark: str = ""
    who: str = ""


@dataclass(slots=True)
class Shop:
    """Buys on paper. `owned` are the machines that count against the regions' limits; their room is known to whoever asks.

    `silent` tells why regions could not be asked what they sell.
    """

    regions: Sequence[Region]
    owned: list[Owned]
    types: Mapping[str, MachineType]
    silent: Mapping[str, str] = field(default_factory=dict)
    bought: list[Purchase] = field(default_factory=list)
    lacking: dict[str, tuple[str, ...]] = field(default_factory=dict)  #: room that can't be kept free, and why

    def keep_free(self, warm: Iterable[Warm], room: Iterable[Slots]) -> None:
        """Buy what is to be kept free, beside the `room` that runners leave."""
        wanted, left = list(warm), list(room)
        while found := [(one, missing) for one, missing in unmet(wanted, left) if one.who not in self.lacking]:
            one, missing = found[0]
            got = self.room_for(one.who, one.need, missing)
            if isinstance(got, Slots):
                left.append(got)
            else:
                self.lacking[one.who] = got

    def room_for(self, who: str, need: Need, missing: int) -> Slots | tuple[str, ...]:
        """The room of one more machine for so many runners; why there is none otherwise. Nothing at all is said where none is sold."""
        mine = [r.name for r in self.regions if need.regions is None or r.name in need.regions]
        if not mine:
            return ()
        waiting = Waiting(who, Unplaced(need, missing, self.types))
        decision = decide([waiting], self.owned, self.regions, now=0.0)
        if not decision.buys:
            return tuple(f"nothing is bought: {said}" for said in decision.held[who])
        buy = decision.buys[0]
        best = buy.choices[0].offer
        number = 1 + sum(p.region == buy.region for p in self.bought)
        machine_id = f"{buy.region}/new-{number}"
        slots = replace(best.slots, machine_id=machine_id)
        kinds = tuple(c.offer.name for c in buy.choices)
        because = buy.choices[0].because
        self.bought.append(
            Purchase(machine_id, buy.region, kinds, slots, best.price, because, best.spot, best.remark, who)
        )
        self.owned.append(Owned(machine_id, buy.region, best.name, Life.WANTED, NOTHING, best.price))
        return slots

    def is_unsure(self, need: Need) -> bool:
        """Whether a region that the runner may be in was not to be asked."""
        return any(need.regions is None or name in need.regions for name in self.silent)


def owned_of(rows: Iterable[Any]) -> list[Owned]:
    """Machines as the control plane tells of them (`fleet` in GET /world), without room: that is told elsewhere, or comes."""
    found = []
    for row in rows:
        price = Decimal(row["price"]) if row.get("price") else None
        found.append(Owned(row["machine"], row["region"], row["kind"], Life(row["life"]), NOTHING, price))
    return found


def unknown_of(shown: Iterable[Any]) -> list[Owned]:
    """Machines as their provider shows them, of which no control plane tells: they count against the regions' limits."""
    return [
        Owned(
            one["identity"],
            one["region"],
            one["kind"],
            Life.READY,
            NOTHING,
            Decimal(one["price"]) if one["price"] else None,
        )
        for one in shown
    ]


def coming(rows: Iterable[Any]) -> list[Slots]:
    """The room of machines that were bought and take no runners yet."""
    return [
        replace(slots_from_json(row["room"]), machine_id=row["machine"])
        for row in rows
        if row["life"] in (Life.WANTED, Life.STARTING) and row.get("room")
    ]


def purchases_section(
    purchases: Sequence[Purchase],
    follow: Iterable[Consequence],
    owned: Iterable[Owned],
    regions: Iterable[Region],
    *,
    sleeps: bool = False,
    lacking: Mapping[str, Sequence[str]] = {},
) -> Section:
    """What is bought, for whom, and what the machines of each region cost an hour before and after that. `lacking` is what is not, and why.

    `sleeps`: the control plane is on a computer that somebody works at, and that is off now and then.
    """
    new_ones = {p.machine_id for p in purchases}
    there = [o for o in owned if o.machine_id not in new_ones]
    told = list(follow)
    users = _users(told)
    used = Counter(p.machine_id for c in told for p in c.placed for _ in p.gpus)
    rows = [_row(p, users.get(p.machine_id, []), used[p.machine_id]) for p in purchases]
    limits = {r.name: r for r in regions}
    for name in sorted({p.region for p in purchases}):
        before = sum((o.price or ZERO for o in there if o.region == name), ZERO)
        after = before + sum((p.price or ZERO for p in purchases if p.region == name), ZERO)
        own = sum(o.region == name for o in there)
        new = own + sum(p.region == name for p in purchases)
        limit = limits[name]
        text = f"{name}: {count(new, 'machine')} of {limit.most}, {dollars(before)} -> {dollars(after)} an hour of {dollars(limit.budget)}"
        rows.append(Row(text, label=name))
        if limit.ends_after is not None:
            rows.append(_end(name, limit.ends_after, sleeps=sleeps))
    rows += [Row(f"{who}: {'; '.join(reasons)}", Tone.WARNING) for who, reasons in lacking.items()]
    return Section("purchases", "Machines that are bought for them", tuple(rows), _body(purchases, users, used))


def _end(region: str, seconds: float, *, sleeps: bool) -> Row:
    text = f"{region}: a machine that hears nothing of its control plane for {in_words(seconds)} ends itself"
    if not sleeps:
        return Row(text)
    return Row(f"{text}, and the control plane is on this computer: it must not sleep for that long", Tone.WARNING)


def _users(follow: Iterable[Consequence]) -> dict[str, list[str]]:
    """Apps by the machine that their new runners are put on."""
    found: dict[str, list[str]] = {}
    for consequence in follow:
        for placed in consequence.placed:
            users = found.setdefault(placed.machine_id, [])
            if consequence.address not in users:
                users.append(consequence.address)
    return found


def _row(purchase: Purchase, users: Sequence[str], used: int) -> Row:
    price = f"{dollars(purchase.price)} an hour" if purchase.price is not None else "of unknown price"
    others = f"if there is none: {', '.join(purchase.kinds[1:])}" if purchase.kinds[1:] else ""
    detail = [
        purchase.because,
        purchase.remark,
        _spot(purchase),
        f"for {', '.join(users) or purchase.who}",
        _unused(purchase, used),
        others,
    ]
    tone = Tone.PLAIN if purchase.price is not None else Tone.WARNING
    return Row(f"{purchase.machine_id}: {purchase.kinds[0]}, {price}", tone, tuple(d for d in detail if d))


def _spot(purchase: Purchase) -> str:
    """What it costs as spot, from the zone where it is cheapest to the one where it is dearest."""
    if not purchase.spot:
        return ""
    least, first = min((price, zone) for zone, price in purchase.spot.items())
    most, last = max((price, zone) for zone, price in purchase.spot.items())
    if least == most:
        return f"as spot {dollars(least)} an hour now ({', '.join(sorted(purchase.spot))})"
    return f"as spot {dollars(least)} ({first}) to {dollars(most)} ({last}) an hour now"


def _unused(purchase: Purchase, used: int) -> str:
    """What is paid for GPUs that get no runner."""
    every = purchase.slots.total_gpus
    if used >= every:
        return ""
    cost = f": {dollars(_idle_cost(purchase, used))} an hour" if purchase.price is not None else ""
    return f"{every - used} of {count(every, 'GPU')} without a runner{cost}"


def _idle_cost(purchase: Purchase, used: int) -> Decimal:
    every = purchase.slots.total_gpus
    part = (purchase.price or ZERO) * (every - used) / every if every else ZERO
    return part.quantize(Decimal("0.000001"))


def _body(purchases: Sequence[Purchase], users: Mapping[str, Sequence[str]], used: Mapping[str, int]) -> JsonObject:
    return {
        "machines": [
            {
                "machine": p.machine_id,
                "region": p.region,
                "kinds": list[Json](p.kinds),
                "price_per_hour": None if p.price is None else spelt(p.price),
                "because": p.because,
                "spot_per_hour": {zone: spelt(price) for zone, price in sorted(p.spot.items())},
                "apps": list[Json](users.get(p.machine_id, ())),
                "idle_gpus": p.slots.total_gpus - used[p.machine_id],
                "idle_per_hour": None if p.price is None else spelt(_idle_cost(p, used[p.machine_id])),
            }
            for p in purchases
        ]
    }
