"""Machines of elastic regions: which are bought for runners without room, and which are given back. Decides alone.

Whoever acts on it records each machine before it is asked for, so that what is on its way is among `machines` when this is asked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum

from falplan.core.offers import Choice, Offered, Unplaced, choices
from falplan.core.placement import Need, NoRoom, Slots, place, take
from falplan.core.plural import count
from falplan.core.spending import ZERO, dollars


class Life(StrEnum):
    """Where a machine is in its life. It costs money in all of these but the last, as far as anybody knows."""

    WANTED = "wanted"  #: recorded, and asked for or about to be
    STARTING = "starting"  #: bought; it boots, or is made ready for runners
    READY = "ready"
    LEAVING = "leaving"  #: it gets no runners any more, and is given back
    GONE = "gone"  #: its end was seen, or it never was


@dataclass(frozen=True, slots=True)
class Owned:
    """A machine that is recorded and not GONE. `slots` is its room now, or, before it is ready, what it will have; `price` in USD an hour.

    `empty_since` is since when no runner is on it, in seconds since 1970; None: there is one, or it is not ready.
    """

    machine_id: str
    region: str
    kind: str
    life: Life
    slots: Slots
    price: Decimal | None = None
    empty_since: float | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """An elastic region and what is for sale there.

    `most` machines at once, for `budget` USD an hour at most; one without a runner is given back after `idle` seconds. `closed` says why
    nothing is bought there now, which may change by itself soon if it is `unsettled`; `missing` why some kinds are not. `unpriced` says
    what makes a price known that nobody knows, `otherwise` what may help where nothing is for sale that would do.
    A machine that hears nothing of its control plane for `ends_after` seconds ends itself; None: it does not.
    """

    name: str
    most: int
    budget: Decimal
    idle: float = 300.0
    offers: tuple[Offered, ...] = ()
    closed: str = ""
    unsettled: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    unpriced: str = ""
    otherwise: str = ""
    ends_after: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Runners without room. `who` waits: an app's endpoint, or the name of a warm pool, whose runners are never started."""

    who: str
    unplaced: Unplaced


@dataclass(frozen=True, slots=True)
class Buy:
    """Buy one machine, of the first of these kinds that can be had."""

    region: str
    choices: tuple[Choice, ...]
    because: str


@dataclass(frozen=True, slots=True)
class Release:
    """Give a machine back."""

    machine_id: str
    because: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done now. `held` tells for everybody who waits on which machines, or why none is bought; each reason once.

    `hopeless` are those for whom nothing comes and nothing is bought, as long as nothing else changes.
    """

    buys: tuple[Buy, ...] = ()
    releases: tuple[Release, ...] = ()
    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hopeless: frozenset[str] = frozenset()


def decide(waiting: Sequence[Waiting], machines: Iterable[Owned], regions: Iterable[Region], *, now: float) -> Decision:
    """Buy for those that find no room on what is there or comes; give back what has been empty for long enough.

    The first are served first. One whom nobody can serve keeps nobody else from a machine, and nothing is given back that somebody who
    waits will be put on.
    """
    fleet = _Fleet(list(machines), {r.name: r for r in regions})
    held: dict[str, tuple[str, ...]] = {}
    for position, one in enumerate(waiting):
        held[one.who] = tuple(dict.fromkeys(fleet.serve(one, waiting[position + 1 :])))
    return Decision(tuple(fleet.buys), tuple(fleet.releases(now)), held, frozenset(fleet.hopeless))


@dataclass(slots=True)
class _Fleet:
    """What there is, and what is decided so far. `room` holds what is free on machines that are there or come, and how that is said."""

    machines: list[Owned]
    regions: Mapping[str, Region]
    buys: list[Buy] = field(default_factory=list)
    room: dict[str, tuple[Slots, str]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)  #: machines that somebody who waits will be put on
    hopeless: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for machine in self.machines:
            # What is ready counts, too: runners there may have ended since those that wait were refused.
            if machine.life is not Life.LEAVING and machine.region in self.regions:
                said = f"waits for {machine.machine_id} ({machine.kind}, {machine.life.value})"
                self.room[machine.machine_id] = (machine.slots, said)

    def serve(self, one: Waiting, later: Sequence[Waiting]) -> Iterable[str]:
        """Find room for all of them, or say why there is none."""
        left = one.unplaced.count
        while left:
            said = self._seat(one.unplaced)
            if said:
                left -= 1
            else:
                rest = replace(one, unplaced=replace(one.unplaced, count=left))
                said = self._buy(rest, later)
                if said:
                    if left == one.unplaced.count and not self._unsettled(one.unplaced.need):
                        self.hopeless.add(one.who)
                    yield said
                    return
                continue
            yield said

    def _seat(self, unplaced: Unplaced) -> str:
        """Put one runner where there is room; what is said of that, empty if there is none."""
        placed = place(unplaced.need, [slots for slots, _ in self.room.values()], unplaced.types)
        if isinstance(placed, NoRoom):
            return ""
        slots, said = self.room[placed.machine_id]
        self.room[placed.machine_id] = take(slots, placed), said
        self.taken.add(placed.machine_id)
        return said

    def _buy(self, one: Waiting, later: Sequence[Waiting]) -> str:
        """Decide on one machine, whose room counts from now on; why there is none if there is none."""
        refused = []
        for region in self._regions_for(one.unplaced.need):
            found = self._affordable(region, one, later)
            if isinstance(found, str):
                refused.append(f"{region.name}: {found}")
                continue
            best = found[0]
            name = f"machine {len(self.buys) + 1} to be bought"
            self.room[name] = (replace(best.offer.slots, machine_id=name), f"buys a machine: {best.because}")
            because = f"{one.who} has no room for {count(one.unplaced.count, 'runner')}"
            self.buys.append(Buy(region.name, tuple(found), because))
            return ""
        return "; ".join(refused) or "none of its regions buys machines"

    def _unsettled(self, need: Need) -> bool:
        return any(region.closed and region.unsettled for region in self._regions_for(need))

    def _regions_for(self, need: Need) -> list[Region]:
        """In the order that the app names them, or that they have."""
        if need.regions is None:
            return list(self.regions.values())
        return [self.regions[name] for name in need.regions if name in self.regions]

    def _affordable(self, region: Region, one: Waiting, later: Sequence[Waiting]) -> list[Choice] | str:
        """What may be bought there, best first; why nothing may otherwise."""
        if region.closed:
            return region.closed
        there = sum(m.region == region.name for m in self.machines) + sum(b.region == region.name for b in self.buys)
        if there >= region.most:
            return f"{count(there, 'machine')} of {region.most} (max_machines) are there or on their way"
        others = [
            w.unplaced for w in later if w.unplaced.need.regions is None or region.name in w.unplaced.need.regions
        ]
        found, refused = choices([one.unplaced, *others], region.offers)
        if not found:
            return (
                "; ".join(refused)
                or f"nothing is for sale that would do{f' ({region.otherwise})' if region.otherwise else ''}"
            )
        there_now = [c for c in found if c.offer.name not in region.missing]
        if not there_now:
            return "; ".join(dict.fromkeys(region.missing[c.offer.name] for c in found))
        found = there_now
        left = region.budget - self._spent(region.name)
        within = [c for c in found if c.offer.price is not None and c.offer.price <= left]
        return within or self._too_dear(region, found)

    def _spent(self, region: str) -> Decimal:
        own = [m.price for m in self.machines if m.region == region]
        new = [b.choices[0].offer.price for b in self.buys if b.region == region]
        return sum((price for price in (*own, *new) if price is not None), ZERO)

    def _too_dear(self, region: Region, found: Sequence[Choice]) -> str:
        priced = [c.offer for c in found if c.offer.price is not None]
        if not priced:
            names = ", ".join(c.offer.name for c in found)
            more = f" ({region.unpriced})" if region.unpriced else ""
            return f"nobody knows what {names} costs, and no budget could be kept{more}"
        cheapest = min(priced, key=lambda o: (o.price or ZERO, o.name))
        spent = self._spent(region.name)
        return (
            f"the budget is {dollars(region.budget)} an hour, of which {dollars(spent)} are spent, and the cheapest that would do, "
            f"{cheapest.name}, costs {dollars(cheapest.price or ZERO)}"
        )

    def releases(self, now: float) -> Iterable[Release]:
        """What nobody waits for: what is not bought yet, what was empty for long enough, and what is beyond what there may be."""
        beyond = {
            r.name: sum(m.region == r.name and m.life is not Life.LEAVING for m in self.machines) - r.most
            for r in self.regions.values()
        }
        for machine in self.machines:
            if machine.region not in self.regions:
                if machine.life is not Life.LEAVING:
                    yield Release(machine.machine_id, f"the region {machine.region} is in the spec no more")
            elif machine.life is Life.WANTED and machine.machine_id not in self.taken:
                yield Release(machine.machine_id, "nobody waits for it any more")
        empty = [m for m in self.machines if m.life is Life.READY and m.empty_since is not None]
        for machine in sorted(empty, key=lambda m: (m.empty_since or 0.0, m.machine_id)):
            region = self.regions.get(machine.region)
            if region is None or machine.machine_id in self.taken:
                continue
            seconds = now - (machine.empty_since or 0.0)
            if seconds >= region.idle:
                because = f"no runner has been on it for {seconds:.0f} s (idle_timeout {region.idle:g})"
                yield Release(machine.machine_id, because)
            elif beyond[region.name] > 0:
                beyond[region.name] -= 1
                yield Release(machine.machine_id, f"there may be {region.most} (max_machines)")
