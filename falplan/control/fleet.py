"""Buys machines of elastic regions, follows them, and gives them back. Each is recorded before it is asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from falplan import clock
from falplan.control.tasks import Tasks
from falplan.core.brake import Dud, brake
from falplan.core.errors import FalplanError
from falplan.core.fleet import Buy, Decision, Life, Owned, Region, Waiting, decide
from falplan.core.notices import Notice
from falplan.core.offers import Offered, disappoints
from falplan.core.placement import Slots, slots_from_json, slots_to_json
from falplan.core.runtime import Event
from falplan.core.spec.resolved import MachineType
from falplan.core.spending import ZERO, dollars, spelt
from falplan.core.tenure import Shown, Step, Strays, Tenant, Verb, follow, strays
from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp
from falplan.sdk.launches import Bought, Elastic, Entry, Intent, NoCapacity, Paused, Stage
from falplan.sdk.resources import Denied, Failed
from falplan.stores.runtime.fleet import FleetStore, MachineRow

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

AGAIN = 10.0
"""Seconds after which a provider that did not answer is asked again."""
REFUSED_AGAIN = 300.0
"""Seconds after which a request that was refused is made again: somebody may have put its cause right."""
SHORT_AGAIN = 3600.0
"""Seconds for which a kind is not bought whose machine turned out to have less than it is sold with."""
MOVING, QUIET = 5.0, 30.0
"""Seconds between looks at a region while machines come or go, and while none does: each look is a call that providers count."""
REMEMBERED = 7 * 86_400.0
"""Seconds for which a machine that is gone is known, should its provider show it alive."""


class Tenancy(Protocol):
    """What is done on machines. Each may be asked again, and raises FalplanError as long as it is not done."""

    async def join(self, row: MachineRow, entry: Entry) -> None:
        """Make a machine that is up one that takes runners."""
        ...

    def notice(self, machine_id: str) -> Notice | None:
        """That a machine is taken back, if it says so."""
        ...

    async def give_way(self, machine_id: str) -> None:
        """Put no runner there any more, and replace those that are there: they serve until others do."""
        ...

    async def leave(self, machine_id: str, because: str) -> None:
        """Put no runner there any more, and drain those that are there."""
        ...

    async def lost(self, machine_id: str, because: str) -> None:
        """Take what ran there for gone."""
        ...


@dataclass(slots=True)
class Market:
    """An elastic region and who sells there. `open` is False once the spec does not have it any more; `body` is the region as the spec has
    it, or had it last."""

    elastic: Elastic
    open: bool = True
    body: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Shut:
    """Why nothing is asked of a region before a time. `unsettled`: nobody answered."""

    until: float = 0.0
    because: str = ""
    unsettled: bool = False


@dataclass(slots=True)
class Fleet:
    """The machines that one control plane bought. `owner` is the lineage, `control_plane` its id, `retired` ids whose machines are its own.

    `decision` is the last one; `foreign` tells which machines carry the project's mark and are another control plane's, `retired` or not.
    """

    store: FleetStore
    tenancy: Tenancy
    owner: str
    control_plane: str
    wake: Callable[[], None] = lambda: None
    now: Callable[[], float] = clock.now
    retired: Collection[str] = ()
    pace: tuple[float, float] = (MOVING, QUIET)
    access: str = ""  #: the public key that the control plane logs in with
    budgets: Callable[[], Mapping[str, Decimal]] = dict  #: USD an hour by region, as the spec says
    seller_of: Callable[[str, JsonObject], Elastic | None] = lambda region, body: None
    markets: dict[str, Market] = field(default_factory=dict)
    rows: dict[str, MachineRow] = field(default_factory=dict)
    decision: Decision = field(default_factory=Decision)
    foreign: dict[str, tuple[Bought, ...]] = field(default_factory=dict)
    tasks: Tasks = field(init=False)
    _looked: dict[str, float] = field(default_factory=dict)  #: when regions were looked at last
    _empty: dict[str, float] = field(default_factory=dict)  #: since when machines that are ready have no runner
    _shut: dict[str, _Shut] = field(default_factory=dict)  #: regions where nothing is asked now
    _missing: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)  #: the same for kinds of a region
    _warned: set[str] = field(
        default_factory=set
    )  #: machines that are taken back, and whose runners are being replaced
    _said: dict[str, str] = field(default_factory=dict)  #: what was told last of a machine
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16, thread_name_prefix="fleet"))

    def __post_init__(self) -> None:
        self.tasks = Tasks(self.wake)

    def load(self) -> None:
        """Read what is recorded, at start."""
        self.rows = {r.machine_id: r for r in self.store.machines(gone_since=self.now() - REMEMBERED)}

    def configure(self, markets: Mapping[str, Market]) -> None:
        """Regions as the spec has them. Those that it has no more stay until their machines are gone."""
        left = {r.region: r.seller for r in self.rows.values() if r.life is not Life.GONE and r.region not in markets}
        kept = {name: self._closed(name, seller) for name, seller in left.items()}
        self.markets = {**{name: market for name, market in kept.items() if market}, **markets}
        self.wake()

    def _closed(self, name: str, seller: JsonObject) -> Market | None:
        """A region that was given up and has machines still."""
        if name in self.markets:
            return replace(self.markets[name], open=False)
        elastic = self.seller_of(name, seller) if seller else None
        return None if elastic is None else Market(elastic, open=False, body=seller)

    async def give_back(self, machine_id: str, because: str) -> None:
        """Empty a machine and end it, whatever is on it. May be called again."""
        row = self.rows[machine_id]
        if row.life not in (Life.LEAVING, Life.GONE):
            await self._become(row, Life.LEAVING, because, "machine.leaving")

    def told(self, machine_id: str) -> str:
        """What was said last of a machine; empty if nothing was."""
        return self._said.get(machine_id, "")

    def left_of(self, control_plane: str) -> list[Bought]:
        """The machines of another control plane that were there when they were looked for last."""
        return [one for found in self.foreign.values() for one in found if one.control_plane == control_plane]

    def look_again(self) -> None:
        """Look at every region at the next opportunity, however short ago that was done."""
        self._looked.clear()
        self.wake()

    async def until_closed(self, region: str) -> None:
        """Wait until no machine of a region is left that was given up."""
        while self.alive(region):
            self.wake()
            await asyncio.sleep(self.pace[0] / 5)

    async def abandon(self) -> None:
        """End every machine at once: there is no control plane any more. What can't be asked is left to itself, and ends by itself."""
        for name, market in self.markets.items():
            alive = [r.identity for r in self.alive(name) if r.identity]
            try:
                await self._run(market.elastic.end, self.owner, alive)
            except FalplanError as exc:
                log.error("the machines %s of %s were not ended: %s", ", ".join(alive), name, exc)

    def sells_to(self, regions: Sequence[str] | None) -> bool:
        """Whether machines are bought in one of these regions of the spec; None: any."""
        return any(market.open and (regions is None or name in regions) for name, market in self.markets.items())

    def alive(self, region: str) -> list[MachineRow]:
        """The machines of a region that cost money, or may."""
        return [r for r in self.rows.values() if r.region == region and r.life is not Life.GONE]

    def closed(self, region: str) -> str:
        """Why nothing is bought in a region now; empty if it is."""
        shut, now = self._shut.get(region, _Shut()), self.now()
        return shut.because if shut.until > now else brake(self._duds(region), now=now)

    def _duds(self, region: str) -> list[Dud]:
        """Machines that came to nothing since the last one that did not, the newest first, as the region is now."""
        market, found = self.markets.get(region), []
        mine = [r for r in self.rows.values() if r.region == region and market is not None and r.seller == market.body]
        for row in sorted(mine, key=lambda r: r.made_at, reverse=True):
            if row.ready_at is not None:
                break
            if row.dud:
                found.append(Dud(row.since, row.because))
        return found

    def short(self, region: str) -> dict[str, str]:
        """Kinds of machines that are not bought there now: why."""
        now = self.now()
        return {kind: said for (name, kind), (until, said) in self._missing.items() if name == region and until > now}

    async def paused(self, region: str, market: Market) -> list[Paused]:
        """The pools of a region that are left alone now. Waits for nobody who waits for a provider."""
        return list(await asyncio.to_thread(market.elastic.paused, self.store.journal(region)))

    def budget(self, region: str, market: Market) -> Decimal:
        """What machines of a region may cost an hour together, in USD. Where nobody says it, nothing is bought."""
        budget = market.elastic.terms().budget
        return budget if budget is not None else self.budgets().get(region, ZERO)

    # -- one look -----------------------------------------------------------------------------------------------------

    async def tick(self, waiting: Sequence[Waiting], room: Mapping[str, Slots], busy: Collection[str]) -> None:
        """Look at all machines and do what follows. `room` is what is free on those that take runners, `busy` those with a runner."""
        await asyncio.gather(*(self._look(name) for name in sorted(self.markets)))
        await self._heed(busy)
        self._note_empty(busy)
        self._note_short(waiting, room, busy)
        types = {name: kind for one in waiting for name, kind in one.unplaced.types.items()}
        asked = {name for one in waiting for name in one.unplaced.need.machine_types}
        wanted = [types[n] for n in sorted(asked)]
        regions = [await self._region(name, market, wanted) for name, market in self._open()]
        await self._decide(waiting, room, regions)

    async def _look(self, name: str) -> None:
        market = self.markets[name]
        for row in self.alive(name):
            if row.life is Life.WANTED:
                self._begin_buying(row)
        moving, quiet = self.pace
        settled = all(row.life is Life.READY for row in self.alive(name))
        if self.now() < self._looked.get(name, float("-inf")) + (quiet if settled else moving):
            return
        self._looked[name] = self.now()
        try:
            seen = await self._run(market.elastic.look, self.owner)
        except FalplanError as exc:
            self._shut_down(name, exc, AGAIN)
            return
        await self._follow_all(name, {b.identity: b for b in seen})

    async def _follow_all(self, name: str, seen: Mapping[str, Bought]) -> None:
        now = self.now()
        shown = {identity: _shown(bought) for identity, bought in seen.items()}
        for row in self.alive(name):
            if self.rows[row.machine_id] is not row:
                continue  # it came further while others were followed
            step = follow(_tenant(row), shown.get(row.identity), now=now)
            await self._act(row, step, seen.get(row.identity))
        tenants = {r.machine_id: _tenant(r) for r in self.rows.values()}
        found = strays(shown.values(), tenants, control_plane=self.control_plane, retired=self.retired)
        others = {one.identity for one in found.foreign} | {
            b.identity for b in seen.values() if b.control_plane in self.retired
        }
        self.foreign[name] = tuple(b for b in seen.values() if b.identity in others and b.stage is not Stage.GONE)
        await self._settle(name, found, seen)

    async def _heed(self, busy: Collection[str]) -> None:
        """Replace what runs on machines that are taken back, then give them up: before their end, or as soon as nothing runs there."""
        for row in [r for r in self.rows.values() if r.life is Life.READY]:
            notice = self.tenancy.notice(row.machine_id)
            if notice is None:
                continue
            if row.machine_id not in self._warned:
                told = replace(row, because=str(notice))
                await self._save(told, Event(self.now(), "machine.warned", row.machine_id, told.because))
                await self.tenancy.give_way(row.machine_id)
                self._warned.add(row.machine_id)
            elif row.machine_id not in busy or notice.is_pressing(self.now()):
                await self._become(row, Life.LEAVING, str(notice), "machine.leaving")

    async def _act(self, row: MachineRow, step: Step, bought: Bought | None) -> None:
        match step.verb:
            case Verb.JOIN if bought is not None:
                if f"join {row.machine_id}" not in self.tasks:
                    self.tasks.spawn(f"join {row.machine_id}", self._join(row, bought))
            case Verb.LOST | Verb.LEAVE if row.life is Life.STARTING and not row.dud:
                await self._act(replace(row, dud=True), step, bought)
            case Verb.LOST:
                await self.tenancy.lost(row.machine_id, step.because)
                await self._become(row, Life.LEAVING, step.because, "machine.lost")
            case Verb.LEAVE:
                await self._become(row, Life.LEAVING, step.because, "machine.leaving")
            case Verb.END:
                if f"end {row.machine_id}" not in self.tasks:
                    self.tasks.spawn(f"end {row.machine_id}", self._end(row))
            case Verb.FORGET:
                await self._become(row, Life.GONE, row.because or step.because, "machine.gone")

    async def _settle(self, name: str, found: Strays, seen: Mapping[str, Bought]) -> None:
        """Take over machines whose record was lost, and end those that were bought beside another one."""
        for one in found.adopted:
            await self._adopt(name, seen[one.identity])
        if not found.ended:
            return
        for one, because in found.ended:
            await self.store.save(Event(self.now(), "machine.reaped", one.identity, because))
        try:
            await self._run(self.markets[name].elastic.end, self.owner, [one.identity for one, _ in found.ended])
        except FalplanError as exc:
            self._shut_down(name, exc, AGAIN)

    async def _adopt(self, name: str, bought: Bought) -> None:
        because = "nobody had recorded it: it is taken over"
        row = MachineRow(
            self._new_id(name),
            name,
            Life.STARTING,
            bought.made_at,
            self.now(),
            (bought.pool.offer,),
            seller=self.markets[name].body,
        )
        await self._save(_with(row, bought, self.now()), Event(self.now(), "machine.adopted", row.machine_id, because))

    # -- one machine --------------------------------------------------------------------------------------------------

    def _begin_buying(self, row: MachineRow) -> None:
        if self.now() >= self._shut.get(row.region, _Shut()).until and f"buy {row.machine_id}" not in self.tasks:
            self.tasks.spawn(f"buy {row.machine_id}", self._buy(row))

    async def _buy(self, row: MachineRow) -> None:
        """Have the machine of a recorded intent."""
        bought = await self._bought(row, row.kinds)
        if bought is None:
            return
        fp("fleet.buy.after_answer")
        pool, now = bought.pool, self.now()
        text = f"{pool.offer} in {pool.zone} ({pool.market}): {bought.identity}"
        current = _with(self.rows[row.machine_id], bought, now)
        if current.life is Life.WANTED:  # else nobody waits for it any more
            current = replace(current, life=Life.STARTING, since=now)
        await self._save(current, Event(now, "machine.bought", row.machine_id, text))
        self.wake()

    async def _bought(self, row: MachineRow, kinds: Sequence[str]) -> Bought | None:
        """The machine of an intent; with no `kinds`, only if it was bought before. None if there is none, or it is not known yet.

        The record of an intent that has no machine, and will have none, is closed.
        """
        intent = Intent(row.machine_id, self.owner, self.control_plane, self.access)
        journal = self.store.journal(row.region)
        try:
            return await self._run(self.markets[row.region].elastic.buy, kinds, intent, journal)
        except NoCapacity as exc:
            for kind in kinds:
                self._missing[row.region, kind] = max(exc.again_at, self.now() + AGAIN), exc.detail
            await self._become(row, Life.GONE, exc.detail if kinds else row.because, "machine.none")
        except Failed as exc:
            if kinds:
                self._shut_down(row.region, exc, REFUSED_AGAIN)
            await self._become(row, Life.GONE, str(exc), "machine.failed")
        except Denied as exc:
            self._shut_down(row.region, exc, REFUSED_AGAIN)
            await self._say(row.machine_id, "machine.denied", str(exc))
        except FalplanError as exc:
            self._shut_down(row.region, exc, AGAIN)
            await self._say(row.machine_id, "machine.unknown", str(exc))
        return None

    async def _join(self, row: MachineRow, bought: Bought) -> None:
        try:
            entry = await self._run(self.markets[row.region].elastic.entry, bought)
            if entry is None:
                await self._say(
                    row.machine_id, "machine.not_ready", "it is up, and does not say yet how to get onto it"
                )
                return
            await self.tenancy.join(row, entry)
        except FalplanError as exc:
            await self._say(row.machine_id, "machine.not_ready", str(exc))
            return
        if self.rows[row.machine_id].life is Life.STARTING:
            text = f"it took {self.now() - row.made_at:.0f} s from the decision to buy it"
            row = replace(self.rows[row.machine_id], ready_at=self.now())
            await self._become(row, Life.READY, text, "machine.ready")

    async def _end(self, row: MachineRow) -> None:
        """Empty a machine and have it ended. Whether it is gone is seen later."""
        await self.tasks.wait(f"buy {row.machine_id}")  # a purchase under way can't be called back
        row = self.rows[row.machine_id]
        if not row.identity:
            bought = await self._bought(row, ())
            if bought is None:
                return
            row = _with(row, bought, self.now())
            await self._save(row)
        try:
            await self.tenancy.leave(row.machine_id, row.because)
            fp("fleet.end.before_call")
            await self._run(self.markets[row.region].elastic.end, self.owner, [row.identity])
        except FalplanError as exc:
            await self._say(row.machine_id, "machine.not_ended", str(exc))

    async def _become(self, row: MachineRow, life: Life, because: str, kind: str) -> None:
        now = self.now()
        ended = now if life is Life.GONE else None
        changed = replace(row, life=life, since=now, ended_at=ended, because=because)
        await self._save(changed, Event(now, kind, row.machine_id, because))
        self.wake()

    async def _save(self, row: MachineRow, *events: Event) -> None:
        """Durable first, then known."""
        await self.store.save(row, *events)
        self.rows[row.machine_id] = row
        if row.life is Life.GONE:
            self._said.pop(row.machine_id, None)
            self._warned.discard(row.machine_id)

    async def _say(self, machine_id: str, kind: str, text: str) -> None:
        """Tell of what goes on, once as long as it is the same."""
        if self._said.get(machine_id) != text:
            self._said[machine_id] = text
            await self.store.save(Event(self.now(), kind, machine_id, text))

    # -- what is decided ----------------------------------------------------------------------------------------------

    def _note_empty(self, busy: Collection[str]) -> None:
        idle = {r.machine_id for r in self.rows.values() if r.life is Life.READY and r.machine_id not in busy}
        self._empty = {m: self._empty.get(m, self.now()) for m in idle}

    def _note_short(self, waiting: Sequence[Waiting], room: Mapping[str, Slots], busy: Collection[str]) -> None:
        """Kinds of which a machine has less than was promised are not bought again for a while: the next one would have no more."""
        for row in self.rows.values():
            known: Any = row.rooms.get(row.kind)
            if row.life is not Life.READY or row.machine_id in busy or row.machine_id not in room or not known:
                continue
            sold, seen = slots_from_json(known["slots"]), room[row.machine_id]
            for one in waiting:
                because = disappoints(one.unplaced, seen, replace(sold, machine_id=row.machine_id))
                if because:
                    text = f"{row.kind} has less than it is sold with: {because}"
                    self._missing[row.region, row.kind] = self.now() + SHORT_AGAIN, text

    async def _decide(self, waiting: Sequence[Waiting], room: Mapping[str, Slots], regions: Sequence[Region]) -> None:
        offers = {(region.name, offer.name): offer for region in regions for offer in region.offers}
        alive = [r for r in self.rows.values() if r.life is not Life.GONE]
        owned = [self._owned(r, room, offers.get((r.region, r.kind))) for r in alive]
        self.decision = decision = decide(waiting, owned, regions, now=self.now())
        for release in decision.releases:
            await self._become(self.rows[release.machine_id], Life.LEAVING, release.because, "machine.leaving")
        for buy in decision.buys:
            await self._want(buy)

    def _owned(self, row: MachineRow, room: Mapping[str, Slots], offered: Offered | None) -> Owned:
        """`offered` is what machines of its kind have: all that is known of one that was taken over and takes no runners yet."""
        kind = row.kind or row.kinds[0]
        known: Any = row.rooms.get(kind)
        slots = Slots("", row.region, 0, 0, 0, 0) if offered is None else offered.slots
        if row.life is Life.READY and row.machine_id in room:
            slots = room[row.machine_id]
        elif known:
            slots = slots_from_json(known["slots"])
        price = Decimal(row.price) if row.price else offered.price if offered else None
        empty_since = self._empty.get(row.machine_id)
        return Owned(
            row.machine_id, row.region, kind, row.life, replace(slots, machine_id=row.machine_id), price, empty_since
        )

    def _open(self) -> list[tuple[str, Market]]:
        return [(name, market) for name, market in self.markets.items() if market.open]

    async def _region(self, name: str, market: Market, types: Sequence[MachineType]) -> Region:
        """A region as it may be bought in now. Nothing is asked for where nobody waits."""
        elastic, now = market.elastic, self.now()
        terms = elastic.terms()
        offers: tuple[Offered, ...] = ()
        if types and now >= self._shut.get(name, _Shut()).until:
            try:
                offers = tuple(await self._run(elastic.offers, types))
            except FalplanError as exc:
                self._shut_down(name, exc, AGAIN)
        shut = self._shut.get(name, _Shut())
        self._missing = {key: value for key, value in self._missing.items() if value[0] > now}
        return Region(
            name,
            terms.most,
            self.budget(name, market),
            terms.idle,
            offers,
            self.closed(name),
            unsettled=shut.unsettled and shut.until > now,
            unpriced=terms.unpriced,
            otherwise=terms.otherwise,
            missing=self.short(name),
        )

    async def _want(self, buy: Buy) -> None:
        """Record a machine that is to be bought, then begin."""
        best = buy.choices[0].offer
        now = self.now()
        row = MachineRow(
            self._new_id(buy.region),
            buy.region,
            Life.WANTED,
            now,
            now,
            tuple(c.offer.name for c in buy.choices),
            rooms={c.offer.name: _room(c.offer) for c in buy.choices},
            price=spelt(best.price) if best.price is not None else "",
            because=buy.because,
            seller=self.markets[buy.region].body,
        )
        cost = f"{dollars(best.price)} an hour" if best.price is not None else "of unknown price"
        await self._save(row, Event(now, "machine.wanted", row.machine_id, f"{best.name}, {cost}: {buy.because}"))
        fp("fleet.want.after_intent")
        self._begin_buying(row)

    # -- means --------------------------------------------------------------------------------------------------------

    def _new_id(self, region: str) -> str:
        return f"{region}/{clock.new_id('m')}"

    def _shut_down(self, region: str, exc: FalplanError, seconds: float) -> None:
        self._shut[region] = _Shut(self.now() + seconds, str(exc), unsettled=not isinstance(exc, Denied | Failed))

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Give up threads; what they do ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _room(offer: Offered) -> JsonObject:
    return {"slots": slots_to_json(offer.slots), "price": "" if offer.price is None else spelt(offer.price)}


def _with(row: MachineRow, bought: Bought, now: float) -> MachineRow:
    """The row with what is known once a machine is bought: it may be of another kind than the one that was hoped for.

    It costs from when its provider says that it was made; a clock of theirs that is ahead counts for nothing.
    """
    pool = bought.pool
    known: Any = row.rooms.get(pool.offer)
    price = spelt(bought.price) if bought.price is not None else known["price"] if known else row.price
    return replace(
        row,
        kind=pool.offer,
        zone=pool.zone,
        market=pool.market,
        identity=bought.identity,
        price=str(price),
        bought_at=row.bought_at or min(bought.made_at, now),
    )


def _shown(bought: Bought) -> Shown:
    return Shown(bought.identity, bought.launch, bought.control_plane, bought.stage, bought.because)


def _tenant(row: MachineRow) -> Tenant:
    return Tenant(row.machine_id, row.life, row.since, row.identity)
