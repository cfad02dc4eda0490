"""A region of AWS as a seller of machines: buys one, shows those that are there, and ends them."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from falplan.core.offers import Offered
from falplan.core.spec.resolved import MachineType
from falplan.core.values import JsonObject
from falplan.sdk.launches import Bought, Entry, Intent, Journal, Paused, Pool, Stage, Terms

from .account import Account
from .boot import cloud_config
from .entering import entry
from .facts import Facts, gather
from .kinds import asked_for, offered
from .launching import Clock, Launch
from .machines import bought, end, owned
from .pools import ALWAYS, ON_DEMAND, SPOT, Way, in_order, pause_of
from .prices import NOTHING_MORE, More, Prices
from .requests import Build, run_instances
from .tags import REGION
from .words import why

STALE = 3600.0
"""Seconds for which what AWS offers is taken as known. Prices of spot are as old as that at most."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a region buys. `subnets` are those that machines may stand in, by default the ones of the default network or of `vpc`.

    `spot`: spot machines are asked for first, and others if there are none. `substitutes`: machine type -> GPUs that may stand in for
    its own, as EC2 names them. `only` are patterns of instance types that may be bought, all if there is none. `public`: machines are
    reached at their public addresses. `base`: so many machines are on demand before any is asked for as spot.
    """

    vpc: str = ""
    subnets: tuple[str, ...] = ()
    spot: bool = False
    substitutes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    public: bool = True
    base: int = 0


@dataclass(slots=True)
class Seller:
    """`region` is its name in the spec. What AWS offers there is asked for again after `STALE` seconds."""

    region: str
    account: Account
    limits: Terms
    wishes: Wishes
    build: Callable[[str], Build]  #: of an owner
    prices: Prices
    clock: Clock
    orphan_after: float = 1800.0  #: seconds of silence after which a machine ends itself
    more: More = NOTHING_MORE  #: what a machine costs beside its type
    _facts: Facts = field(default_factory=Facts)
    _facts_at: float = 0.0
    _asked: frozenset[str] = frozenset()

    def terms(self) -> Terms:
        """See `Elastic.terms`."""
        return self.limits

    def offers(self, types: Iterable[MachineType]) -> Sequence[Offered]:
        """See `Elastic.offers`."""
        own, wishes, place = list(types), self.wishes, self.account.access.region
        names = [n for n in asked_for(own, wishes.substitutes) if not wishes.only or _is_one(n, wishes.only)]
        found = self._known(names).types
        kinds = [found[name] for name in names if name in found]
        sold = offered(self.region, place, kinds, own, wishes.substitutes, self.prices, self.more)
        return [replace(one, spot=self._spot_of(one.name)) for one in sold]

    def _spot_of(self, kind: str) -> dict[str, Decimal]:
        return {
            zone: price + self.more.cost for (name, zone), price in sorted(self._facts.spot.items()) if name == kind
        }

    def _known(self, kinds: Iterable[str]) -> Facts:
        """What AWS offers there of these types, and of those that were asked for before."""
        now, names = self.clock.now(), self._asked | set(kinds)
        if names != self._asked or now - self._facts_at > STALE:
            wishes = self.wishes
            spot_at = now if wishes.spot else None
            self._facts = gather(self.account, sorted(names), vpc=wishes.vpc, subnets=wishes.subnets, spot_at=spot_at)
            self._facts_at, self._asked = now, names
        return self._facts

    def ways(self, kinds: Sequence[str], *, spot: bool) -> list[Way]:
        """Every pool of these kinds, best first: spot or on demand before the other."""
        facts, place = self._known(kinds), self.account.access.region
        found: list[Way] = []
        for kind in kinds:
            for zone in sorted(facts.zones.get(kind, ())):
                subnet = facts.subnets.get(zone)
                if subnet is None:
                    continue
                own = Pool(kind, zone, ON_DEMAND)
                found.append(Way(own, subnet, self.prices.of(place, kind)))
                if (kind, zone) in facts.spot:
                    found.append(Way(Pool(kind, zone, SPOT), subnet, facts.spot[kind, zone]))
        return in_order(found, kinds, spot_first=spot)

    def _wants_spot(self, owner: str) -> bool:
        """Whether the next machine is to be spot: not before enough are on demand. Several bought at once may all be that."""
        if not self.wishes.spot or not self.wishes.base:
            return self.wishes.spot
        over = (Stage.ENDING, Stage.GONE)
        return sum(b.pool.market == ON_DEMAND and b.stage not in over for b in self.look(owner)) >= self.wishes.base

    def buy(self, kinds: Sequence[str], intent: Intent, journal: Journal) -> Bought:
        """See `Elastic.buy`."""

        @functools.cache
        def build() -> Build:
            made = self.build(intent.owner)
            return replace(made, boot=cloud_config(intent.access, self.orphan_after)) if intent.access else made

        def request(way: Way, number: int) -> JsonObject:
            return run_instances(build(), intent, way.pool, number, subnet=way.subnet, region=self.region)

        ways = self.ways(kinds, spot=self._wants_spot(intent.owner)) if kinds else []
        made = Launch(self.account, intent, journal, ways, request, self._vcpus, self.clock, self.region).run()
        return replace(made, price=self._price(made.pool))

    def _price(self, pool: Pool) -> Decimal | None:
        """Of a machine that is there, in USD an hour: what spot costs as far as it was asked for, what the list says otherwise."""
        spot = self._facts.spot.get((pool.offer, pool.zone)) if pool.market == SPOT else None
        price = spot if spot is not None else self.prices.of(self.account.access.region, pool.offer)
        return None if price is None else price + self.more.cost

    def paused(self, journal: Journal) -> Sequence[Paused]:
        """See `Elastic.paused`."""
        now, place = self.clock.now(), self.account.access.region
        attempts = journal.since(now - ALWAYS)
        found = {pool: pause_of(pool, attempts, now) for pool in sorted({a.pool for a in attempts})}
        return [
            Paused(
                pool,
                pause.verdict,
                why(pool, pause.verdict, now - pause.at, pause.because, place, self._vcpus_known),
                pause.until,
            )
            for pool, pause in found.items()
            if pause is not None
        ]

    def _vcpus(self, kind: str) -> int:
        return self._known((kind,)).types[kind].vcpus

    def _vcpus_known(self, kind: str) -> int:
        """0 for a type that nobody asked about: whoever wants to know why nothing is bought does not wait for AWS."""
        return self._facts.types[kind].vcpus if kind in self._facts.types else 0

    def look(self, owner: str) -> Sequence[Bought]:
        """See `Elastic.look`. Machines of other regions of the spec are left out."""
        seen = [bought(told) for told in owned(self.account, owner, {f"tag:{REGION}": self.region})]
        return [replace(one, price=self._price(one.pool)) for one in seen]

    def entry(self, machine: Bought) -> Entry | None:
        """See `Elastic.entry`."""
        return entry(self.account, machine, public=self.wishes.public)

    def end(self, owner: str, identities: Sequence[str]) -> None:
        """See `Elastic.end`."""
        end(self.account, owner, identities)


def _is_one(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
