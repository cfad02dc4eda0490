"""What the control plane tells of the machines that it bought, as JSON. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from falplan import clock
from falplan.control.controller import Controller
from falplan.control.fleet import Fleet, Market
from falplan.core.fleet import Life
from falplan.core.machine_hours import Stay, hours_to_json, machine_hours
from falplan.core.spending import spelt
from falplan.core.values import Json, JsonObject
from falplan.sdk.launches import Paused, bought_to_json
from falplan.stores.runtime.fleet import MachineRow


@dataclass(frozen=True, slots=True)
class Holdings:
    """The machines of a controller, if it has any. Prices in USD an hour as text, times in seconds since 1970."""

    controller: Controller

    @property
    def fleet(self) -> Fleet | None:
        return self.controller.fleet

    def machines(self) -> list[Any]:
        """Those that cost money, oldest first."""
        rows = self.fleet.rows.values() if self.fleet is not None else ()
        return self._told(r for r in rows if r.life is not Life.GONE)

    async def everything(self, *, gone_since: float | None = None) -> JsonObject:
        """Machines, those that are another control plane's, and what is bought where; with `gone_since` what ended after that, too."""
        if self.fleet is None:
            return {"machines": [], "foreign": [], "regions": []}
        machines = (
            self.machines() if gone_since is None else self._told(self.fleet.store.machines(gone_since=gone_since))
        )
        return {"machines": machines, **await self.around()}

    async def around(self) -> JsonObject:
        """What there is beside the machines: `foreign` ones with the project's mark, and the `regions` where machines are bought."""
        if self.fleet is None:
            return {"foreign": [], "regions": []}
        foreign = [bought_to_json(name, one) for name, found in sorted(self.fleet.foreign.items()) for one in found]
        markets = sorted(self.fleet.markets.items())  # they may become others while they are asked
        regions = [await self._region(self.fleet, name, market) for name, market in markets]
        decision, warm = self.fleet.decision, self.controller.room.warm
        waiting: JsonObject = {w.who: "; ".join(decision.held[w.who]) for w in warm if w.who in decision.hopeless}
        return {"foreign": list[Json](foreign), "regions": list[Json](regions), "waiting": waiting}

    async def _region(self, fleet: Fleet, name: str, market: Market) -> JsonObject:
        return {
            "region": name,
            "most": market.elastic.terms().most,
            "budget": spelt(fleet.budget(name, market)),
            "open": market.open,
            "closed": fleet.closed(name),
            "short": dict(fleet.short(name)),
            "paused": [_paused(p) for p in await fleet.paused(name, market)],
        }

    def _told(self, rows: Iterable[MachineRow]) -> list[Any]:
        world = self.controller.world
        ordered = sorted(rows, key=lambda r: (r.made_at, r.machine_id))
        return [_machine(row, len(world.on_machine(row.machine_id))) for row in ordered]

    def cost(self, *, since: float) -> JsonObject:
        """What machines cost since a time, by region, kind and market."""
        now = clock.now()
        rows = self.fleet.store.machines(gone_since=since) if self.fleet is not None else []
        found = machine_hours([_stay(row) for row in rows if row.bought_at is not None], since=since, now=now)
        return {"since": since, "until": now, "hours": [hours_to_json(h) for h in found]}


def _stay(row: MachineRow) -> Stay:
    price = Decimal(row.price) if row.price else None
    return Stay(row.region, row.kind, row.market, row.bought_at or row.made_at, row.ended_at, price)


def _paused(paused: Paused) -> JsonObject:
    pool = paused.pool
    return {
        "zone": pool.zone,
        "kind": pool.offer,
        "market": pool.market,
        "verdict": paused.verdict.value,
        "because": paused.because,
        "until": paused.until,
    }


def _machine(row: MachineRow, runners: int) -> JsonObject:
    kind = row.kind or (row.kinds[0] if row.kinds else "")
    room: Any = row.rooms.get(kind) or {}
    return {
        "machine": row.machine_id,
        "region": row.region,
        "life": row.life.value,
        "kind": kind,
        "zone": row.zone,
        "market": row.market,
        "identity": row.identity,
        "price": row.price or str(room.get("price", "")),
        "room": room.get("slots"),
        "runners": runners,
        "made_at": row.made_at,
        "bought_at": row.bought_at,
        "since": row.since,
        "ended_at": row.ended_at,
        "because": row.because,
    }
