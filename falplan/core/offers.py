"""Which machine is bought for runners that have no room: the one whose GPUs cost least, counting those alone that they use.

Decides alone; what is for sale, and what it costs, comes in as arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from falplan.core.placement import Need, NoRoom, Placed, Slots, is_gpu, place, take
from falplan.core.plural import count
from falplan.core.spec.resolved import MachineType
from falplan.core.spending import dollars


@dataclass(frozen=True, slots=True)
class Offered:
    """A kind of machine that is for sale. `slots` is its room while it is empty; `price` in USD an hour, None if nobody knows it.

    `spot` is what it costs now by zone where it may be taken back at any time; empty where it is not bought like that. `remark` says what
    is in the price, or is not.
    """

    name: str
    slots: Slots
    price: Decimal | None = None
    spot: Mapping[str, Decimal] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Runners without room that ask for the same. `types` are the machine types that the need names, and their sizes."""

    need: Need
    count: int
    types: Mapping[str, MachineType]


@dataclass(frozen=True, slots=True)
class Choice:
    """A kind of machine that would do, and for how much of what has no room.

    `machine_type` is the one that the first runner would be on, `runners` how many of all those without room it would hold. `used` and
    `idle` are its GPUs with and without one of them. `unit_price` is what a GPU that is used costs in USD an hour, or a vCPU where there
    are no GPUs; None if nobody knows the price. `because` says it in words.
    """

    offer: Offered
    machine_type: str
    runners: int
    used: int
    idle: int
    unit_price: Decimal | None
    because: str


def as_sold(seen: Slots, sold: Slots) -> Slots:
    """A bought machine's room as it was seen there, and used as it was bought for.

    What does not fit in full is refused, for a larger one can be had. Its GPUs are called as whoever sold them calls them: drivers use
    other words for some.
    """
    name = sold.gpu_name if seen.total_gpus and sold.gpu_name else seen.gpu_name
    return replace(seen, strict=True, gpu_name=name, stands_in=sold.stands_in)


def disappoints(unplaced: Unplaced, seen: Slots, sold: Slots) -> str:
    """Why a machine that is empty has no room for a runner that it was to have room for; empty if it has, or never was to."""
    promised = place(unplaced.need, [sold], unplaced.types)
    if isinstance(promised, NoRoom):
        return ""
    found = place(unplaced.need, [seen], unplaced.types)
    return "; ".join(found.reasons) if isinstance(found, NoRoom) and not found.unknown else ""


def choices(unplaced: Sequence[Unplaced], offers: Iterable[Offered]) -> tuple[list[Choice], list[str]]:
    """The kinds that hold a runner of the first of these, best first, and why each other one does not.

    What that runner prefers comes first, then GPUs that need no stand-in, then the price for what is used, then the fewest GPUs without
    a runner. Kinds without a known price come last: a budget could not be kept with them.
    """
    found, refused = [], []
    first, types = unplaced[0].need, unplaced[0].types
    for offer in offers:
        best = _preferred(first, offer, types)
        if isinstance(best, str):
            refused.append(best)
        else:
            found.append(_choice(unplaced, offer, best))
    rank = {name: n for n, name in enumerate(first.machine_types)}

    def key(choice: Choice) -> tuple[int, bool, bool, Decimal, int, Decimal, str]:
        kind = types[choice.machine_type]
        stand_in = bool(kind.gpu) and not is_gpu(kind, choice.offer.slots)
        per, price = choice.unit_price, choice.offer.price
        known = per is not None and price is not None
        return (
            rank[choice.machine_type],
            stand_in,
            not known,
            per or Decimal(0),
            choice.idle,
            price or Decimal(0),
            choice.offer.name,
        )

    return sorted(found, key=key), refused


def _preferred(need: Need, offer: Offered, types: Mapping[str, MachineType]) -> Placed | str:
    """The first runner's place on an empty machine of this kind; why there is none otherwise."""
    placed = place(need, [offer.slots], types)
    if isinstance(placed, NoRoom):
        return placed.reasons[0] if placed.reasons else f"{offer.name}: it is in another region"
    return placed


def _choice(unplaced: Sequence[Unplaced], offer: Offered, first: Placed) -> Choice:
    machine, runners, vcpu = offer.slots, 0, 0.0
    for one in unplaced:
        # What the first runner was given is what its like are given: a mixture of types would hide what the kind is bought for.
        need = replace(one.need, machine_types=(first.machine_type,)) if one is unplaced[0] else one.need
        for _ in range(one.count):
            placed = place(need, [machine], one.types)
            if isinstance(placed, NoRoom):
                break
            machine = take(machine, placed)
            runners, vcpu = runners + 1, vcpu + placed.vcpu
    idle = len(machine.gpus)
    used = machine.total_gpus - idle
    share = Decimal(used) if used else Decimal(str(vcpu))
    per = None if offer.price is None else (offer.price / share).quantize(Decimal("0.000001"))
    because = _because(offer, unplaced[0].types[first.machine_type], runners, used, idle, per)
    return Choice(offer, first.machine_type, runners, used, idle, per, because)


def _because(offer: Offered, kind: MachineType, runners: int, used: int, idle: int, per: Decimal | None) -> str:
    said = [f"{offer.name} holds {count(runners, 'runner')} on {kind.name}"]
    if kind.gpu and not is_gpu(kind, offer.slots):
        said.append(f"{offer.slots.gpu_name} stands in for {kind.gpu}")
    if used:
        said.append(f"{used} of {count(used + idle, 'GPU')} used")
    if per is None or offer.price is None:
        return ", ".join([*said, "its price is not known"])
    said.append(f"{dollars(offer.price)}/h, {dollars(per)} for each {'GPU' if used else 'vCPU'} that is used")
    if idle:
        said.append(f"{dollars(offer.price * idle / (used + idle))} of that for {count(idle, 'GPU')} without a runner")
    return ", ".join(said)
