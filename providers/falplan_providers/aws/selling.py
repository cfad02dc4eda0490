"""A region of AWS as a seller of machines: buys one, shows those that are there, and ends them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from falplan.core.values import JsonObject
from falplan.sdk.launches import Bought, Journal, Pool
from falplan.sdk.provider import Intent

from .account import Account
from .facts import Facts, gather
from .launching import Clock, Launch
from .machines import bought, end, owned
from .pools import ON_DEMAND, SPOT, Way, in_order
from .prices import Prices
from .requests import Build, run_instances
from .tags import REGION

STALE = 3600.0
"""Seconds for which what AWS offers is taken as known. Prices of spot are as old as that at most."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a region buys. `kinds` are the instance types that matter to it; `subnets` those that machines may stand in, by default the ones
    of the default network or of `vpc`. `spot`: spot machines are asked for first, and others if there are none.
    """

    kinds: tuple[str, ...]
    vpc: str = ""
    subnets: tuple[str, ...] = ()
    spot: bool = False


@dataclass(slots=True)
class Seller:
    """`region` is its name in the spec. What AWS offers there is asked for again after `STALE` seconds."""

    region: str
    account: Account
    terms: Terms
    build: Callable[[], Build]
    prices: Prices
    clock: Clock
    _facts: Facts | None = None
    _facts_at: float = field(default=0.0)

    def facts(self) -> Facts:
        """What AWS offers there."""
        now = self.clock.now()
        if self._facts is None or now - self._facts_at > STALE:
            terms = self.terms
            spot_at = now if terms.spot else None
            self._facts = gather(self.account, terms.kinds, vpc=terms.vpc, subnets=terms.subnets, spot_at=spot_at)
            self._facts_at = now
        return self._facts

    def ways(self, kinds: Sequence[str]) -> list[Way]:
        """Every pool of these kinds, best first."""
        facts, place = self.facts(), self.account.access.region
        found = []
        for kind in kinds:
            for zone in sorted(facts.zones.get(kind, ())):
                subnet = facts.subnets.get(zone)
                if subnet is None:
                    continue
                own = Pool(kind, zone, ON_DEMAND)
                found.append(Way(own, subnet, self.prices.of(place, kind)))
                if (kind, zone) in facts.spot:
                    found.append(Way(Pool(kind, zone, SPOT), subnet, facts.spot[kind, zone]))
        return in_order(found, kinds, spot_first=self.terms.spot)

    def buy(self, kinds: Sequence[str], intent: Intent, journal: Journal) -> Bought:
        """See `Elastic.buy`."""
        build = self.build()

        def request(way: Way, number: int) -> JsonObject:
            return run_instances(build, intent, way.pool, number, subnet=way.subnet, region=self.region)

        ways = self.ways(kinds) if kinds else []
        return Launch(self.account, intent, journal, ways, request, self._vcpus, self.clock, self.region).run()

    def _vcpus(self, kind: str) -> int:
        return self.facts().types[kind].vcpus

    def look(self, owner: str) -> Sequence[Bought]:
        """See `Elastic.look`. Machines of other regions of the spec are left out."""
        return [bought(told) for told in owned(self.account, owner, {f"tag:{REGION}": self.region})]

    def end(self, owner: str, identities: Sequence[str]) -> None:
        """See `Elastic.end`."""
        end(self.account, owner, identities)
