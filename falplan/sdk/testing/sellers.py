"""A seller of machines that are values in memory, for tests of what buys them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from falplan.core.offers import Offered
from falplan.core.placement import Slots
from falplan.core.spec.resolved import MachineType
from falplan.sdk.launches import (
    Attempt,
    Bought,
    Entry,
    Intent,
    Journal,
    NoCapacity,
    Paused,
    Pool,
    Stage,
    Terms,
    Verdict,
)
from falplan.sdk.resources import Failed

GIB = 1024**3
ZONE, MARKET = "zone-1", "on-demand"


@dataclass(slots=True)
class MemorySeller:
    """Machines in memory. `capacity` bounds how many of a kind are alive at once; `ready` brings up what starts and buries what ends.

    `made` has every machine that there ever was, with its owner, in order.
    """

    region: str = "fake"
    kinds: Sequence[Offered] = ()
    limits: Terms = field(default_factory=lambda: Terms(10, Decimal(100)))
    capacity: dict[str, int] = field(default_factory=dict)
    now: float = 1_000_000.0
    made: dict[str, tuple[str, Bought]] = field(default_factory=dict)

    def terms(self) -> Terms:
        return self.limits

    def offers(self, types: Iterable[MachineType]) -> Sequence[Offered]:
        return self.kinds or [an_offer(self.region)]

    def buy(self, kinds: Sequence[str], intent: Intent, journal: Journal) -> Bought:
        tried = journal.attempts(intent.operation)
        mine = [b for _, b in self.made.values() if b.launch == intent.operation]
        if mine:
            return self._known(mine[0], tried, journal)
        for number, kind in enumerate(kinds, len(tried) + 1):
            pool = Pool(kind, ZONE, MARKET)
            attempt = Attempt(intent.operation, number, pool, {"kind": kind}, self.now)
            journal.write(attempt)
            if self._alive(kind) >= self.capacity.get(kind, 1_000):
                none = replace(attempt, verdict=Verdict.CAPACITY, because="no capacity", told_at=self.now)
                journal.write(none)
                continue
            made = Bought(
                f"fake-{len(self.made) + 1}", intent.operation, intent.control_plane, pool, Stage.STARTING, self.now
            )
            self.made[made.identity] = intent.owner, made
            journal.write(replace(attempt, verdict=Verdict.MADE, identity=made.identity, told_at=self.now))
            return made
        raise NoCapacity("There is no machine to be had now", f"{self.region}: {list(kinds)}", again_at=self.now + 60)

    def _known(self, made: Bought, tried: Sequence[Attempt], journal: Journal) -> Bought:
        last = tried[-1] if tried else None
        if last is not None and last.verdict is Verdict.UNKNOWN:
            journal.write(replace(last, verdict=Verdict.MADE, identity=made.identity, told_at=self.now))
        if made.stage in (Stage.ENDING, Stage.GONE):
            raise Failed("The machine has ended", made.identity)
        return made

    def _alive(self, kind: str) -> int:
        return sum(b.pool.offer == kind and b.stage is not Stage.GONE for _, b in self.made.values())

    def paused(self, journal: Journal) -> Sequence[Paused]:
        last = {a.pool: a for a in sorted(journal.since(self.now - 60), key=lambda a: a.told_at)}
        return [
            Paused(pool, a.verdict, f"{pool}: {a.because}", a.told_at + 60)
            for pool, a in sorted(last.items())
            if a.verdict is Verdict.CAPACITY
        ]

    def look(self, owner: str) -> Sequence[Bought]:
        prices = {offer.name: offer.price for offer in self.offers(())}
        return [replace(b, price=prices.get(b.pool.offer)) for whose, b in self.made.values() if whose == owner]

    def entry(self, machine: Bought) -> Entry | None:
        return Entry("memory", {"address": machine.identity}) if machine.stage is Stage.UP else None

    def end(self, owner: str, identities: Sequence[str]) -> None:
        for identity in identities:
            whose, made = self.made.get(identity, ("", None))
            if made is not None and whose == owner and made.stage is not Stage.GONE:
                self.made[identity] = whose, replace(made, stage=Stage.ENDING, because="it was told to end")

    def ready(self) -> None:
        """Let time pass."""
        self.now += 60
        after = {Stage.STARTING: Stage.UP, Stage.ENDING: Stage.GONE}
        self.made = {i: (o, replace(b, stage=after.get(b.stage, b.stage))) for i, (o, b) in self.made.items()}


def an_offer(region: str = "fake", name: str = "large", *, gpus: int = 0, price: str = "1") -> Offered:
    """An offer with sane defaults; GPUs are H100."""
    room = Slots(
        name,
        region,
        8 * max(1, gpus),
        32 * GIB,
        8 * max(1, gpus),
        32 * GIB,
        gpus,
        tuple(range(gpus)),
        "H100" if gpus else "",
        80 * GIB if gpus else 0,
        strict=True,
    )
    return Offered(name, room, Decimal(price))
