"""A fleet that buys in the fake account, and apps that want runners: what a control plane would see, without one."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from falplan.control.fleet import Fleet, Market
from falplan.core.errors import FalplanError
from falplan.core.fleet import Life, Waiting
from falplan.core.offers import Unplaced
from falplan.core.placement import Need, NoRoom, Placed, Slots, place, slots_from_json, take
from falplan.core.runtime import Event
from falplan.core.spec.machine_types import BUILT_IN
from falplan.sdk.launches import Attempt, Bought, Entry, Terms
from falplan.sdk.testing.fakeec2 import FakeEc2
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.fleet import FleetStore, MachineRow, StoredJournal
from falplan_providers.aws.account import Account
from falplan_providers.aws.kinds import room
from falplan_providers.aws.launching import Clock
from falplan_providers.aws.prices import Prices
from falplan_providers.aws.requests import Build
from falplan_providers.aws.selling import Seller, Wishes

from .scene import AMI, OWNER, Killed, account_at

PLANE = "plane-1"


@dataclass
class Process:
    """Dies at the `at`-th thing that it does, and does nothing after that."""

    at: int = 0
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        if self.at and self.done >= self.at:
            raise Killed

    @property
    def dead(self) -> bool:
        return bool(self.at) and self.done >= self.at


class MortalStore(FleetStore):
    """A store whose process may die before and after each write."""

    def __init__(self, database: Database, process: Process) -> None:
        super().__init__(database)
        self._process = process

    async def save(self, *rows: MachineRow | Event) -> None:
        self._process()
        await super().save(*rows)
        self._process()

    def journal(self, region: str) -> StoredJournal:
        return MortalJournal(self._database, region, self._process)


class MortalJournal(StoredJournal):
    def __init__(self, database: Database, region: str, process: Process) -> None:
        super().__init__(database, region)
        self._process = process

    def write(self, attempt: Attempt) -> None:
        self._process()
        super().write(attempt)
        self._process()


class MortalSeller(Seller):
    """Its calls are those of a process that may die between them; a call that is under way is done all the same."""

    process: Process

    def look(self, owner: str) -> Sequence[Bought]:
        self.process()
        return super().look(owner)

    def entry(self, machine: Bought) -> Entry | None:
        return Entry("ssh", {"address": machine.address})

    def end(self, owner: str, identities: Sequence[str]) -> None:
        self.process()
        super().end(owner, identities)
        self.process()


@dataclass
class Places:
    """What machines do for a fleet. `hitch` raises FalplanError now and then."""

    hitch: Callable[[], None] = lambda: None
    joined: set[str] = field(default_factory=set)
    runners: dict[str, list[Placed]] = field(default_factory=dict)

    async def join(self, row: MachineRow, entry: Entry) -> None:
        self.hitch()
        self.joined.add(row.machine_id)

    def notice(self, machine_id: str) -> None:
        """No machine here says anything of itself."""

    async def give_way(self, machine_id: str) -> None: ...

    async def leave(self, machine_id: str, because: str) -> None:
        self.hitch()
        self.runners.pop(machine_id, None)
        self.joined.discard(machine_id)

    async def lost(self, machine_id: str, because: str) -> None:
        self.runners.pop(machine_id, None)
        self.joined.discard(machine_id)


@dataclass
class Town:
    """Apps that want runners, and a fleet for them. `wanted` is the number of runners by machine type."""

    fake: FakeEc2
    database: Database
    rng: random.Random
    plane: str = PLANE
    spot: bool = False
    most: int = 6
    budget: Decimal = Decimal(300)
    wanted: dict[str, int] = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    process: Process = field(default_factory=Process)
    fleet: Fleet = field(init=False)
    seller: Seller = field(init=False)

    def __post_init__(self) -> None:
        self.account: Account = account_at(self.fake.url)
        self.start(0)

    def start(self, at: int) -> None:
        """Another process, which dies at that moment; 0: it lives on."""
        self.process = Process(at)
        account = self.fake.account
        table = {"us-east-1": {t.name: t.price for t in account.catalog.types}}
        clock = Clock(lambda: account.now, account.advance, lambda least, most: most)
        wishes = Wishes(spot=self.spot, substitutes={"GPU-A6000": ("L40S",)})
        limits = Terms(self.most, self.budget)
        seller = MortalSeller(
            "us-east", self.account, limits, wishes, lambda owner: Build(AMI, ()), Prices(table), clock
        )
        self.seller = seller
        seller.process = self.process
        store = MortalStore(self.database, self.process)
        self.fleet = Fleet(store, self.places, OWNER, self.plane, now=lambda: account.now)
        self.fleet.load()
        self.fleet.configure({"us-east": Market(seller)})

    def room(self) -> dict[str, Slots]:
        """What is free on machines that take runners."""
        found = {}
        for row in self.fleet.rows.values():
            if row.life is Life.READY:
                known: Any = row.rooms.get(row.kind)
                if known is None:  # it was taken over: a control plane would look what it has
                    types = {t.name: t for t in self.seller._known((row.kind,)).types.values()}
                    slots = room("us-east", types[row.kind])
                else:
                    slots = slots_from_json(known["slots"])
                slots = replace(slots, machine_id=row.machine_id)
                for placed in self.places.runners.get(row.machine_id, ()):
                    slots = take(slots, placed)
                found[row.machine_id] = slots
        return found

    def settle_runners(self) -> list[Waiting]:
        """Runners end that nobody wants, others begin where there is room; those that find none."""
        waiting = []
        running = {p.machine_type for placed in self.places.runners.values() for p in placed}
        for kind in sorted(running | self.wanted.keys()):
            number = self.wanted.get(kind, 0)
            there = [(m, p) for m, ps in self.places.runners.items() for p in ps if p.machine_type == kind]
            for machine_id, placed in there[number:]:
                self.places.runners[machine_id].remove(placed)
            need = Need((kind,))
            left = number - len(there)
            while left > 0:
                found = place(need, list(self.room().values()), BUILT_IN)
                if isinstance(found, NoRoom):
                    waiting.append(Waiting(f"acme/{kind}", Unplaced(need, left, BUILT_IN)))
                    break
                self.places.runners.setdefault(found.machine_id, []).append(found)
                left -= 1
        return waiting

    async def tick(self) -> None:
        """One look of the control plane, and all that it began."""
        waiting = self.settle_runners()
        busy = {m for m, placed in self.places.runners.items() if placed}
        try:
            await self.fleet.tick(waiting, self.room(), busy)
        except (Killed, FalplanError):
            pass
        while self.fleet.tasks:
            await self.fleet.tasks.wait()

    def requests(self) -> list[Mapping[str, Any]]:
        """What RunInstances was asked."""
        return [c.parameters for c in self.fake.calls_of("RunInstances") if c.parameters]
