"""Bought machines and the attempts to buy them, in SQLite. Decides nothing, and knows no provider."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from falplan.core.fleet import Life
from falplan.core.runtime import Event
from falplan.core.values import JsonObject, canonical
from falplan.sdk.failpoints import fp
from falplan.sdk.launches import Attempt, Pool, Verdict
from falplan.stores.runtime.control import put_row
from falplan.stores.runtime.database import Database


@dataclass(frozen=True, slots=True)
class MachineRow:
    """A row of `machines`. Its id is that of the intent to buy it, which everything carries that is made for it.

    `kinds` are those that it may be of, best first, and what each has: `{name: {"slots": …, "price": …}}` in `rooms`. `kind`, `zone`,
    `market` and `identity` (its provider's name of it) are known once it is bought. Prices are text, in USD an hour. `since` is when it
    came into its `life`. `seller` is the region as it was when the machine was wanted, `{"provider": …}` with its options: it leads to who
    sells it once the region has left the spec. `bought_at` is since when it costs something, None before it is bought; `ready_at` when it
    took runners, None if it never did; `dud`: it came to its end, or was given up, by itself before that. Times in seconds since 1970.
    """

    machine_id: str
    region: str
    life: Life
    made_at: float
    since: float
    kinds: tuple[str, ...] = ()
    kind: str = ""
    zone: str = ""
    market: str = ""
    identity: str = ""
    price: str = ""
    rooms: JsonObject = field(default_factory=dict)
    ended_at: float | None = None
    because: str = ""
    seller: JsonObject = field(default_factory=dict)
    bought_at: float | None = None
    ready_at: float | None = None
    dud: bool = False


_COLUMNS = ("machine_id", "region", "life", "made_at", "ended_at")
_BODY = tuple(name for name in MachineRow.__dataclass_fields__ if name not in _COLUMNS)


class FleetStore:
    """Reads and writes machines. A row and the events that tell of it become durable together."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, *rows: MachineRow | Event) -> None:
        """Insert or replace machines, and add events, in one transaction."""

        def work(connection: apsw.Connection) -> None:
            for row in rows:
                if isinstance(row, MachineRow):
                    _put(connection, row)
                else:
                    put_row(connection, row)

        fp("fleet.save.before_commit")
        await self._database.write(work)
        fp("fleet.save.after_commit")

    def machines(self, *, gone_since: float | None = None) -> list[MachineRow]:
        """Those that are not GONE, and those that are since a time (None: none of them), oldest first."""
        since = float("inf") if gone_since is None else gone_since
        rows = self._database.read(
            f"select {', '.join(_COLUMNS)}, body from machines where life <> 'gone' or ended_at >= ? order by made_at, machine_id",  # noqa: S608
            (since,),
        )
        return [_row(row) for row in rows]

    def journal(self, region: str) -> StoredJournal:
        """The attempts of one region."""
        return StoredJournal(self._database, region)


class StoredJournal:
    """Attempts of a region; see `falplan.sdk.launches.Journal`. Its methods are called from threads."""

    def __init__(self, database: Database, region: str) -> None:
        self._database, self._region = database, region

    def attempts(self, launch: str) -> Sequence[Attempt]:
        return self._read("launch = ? order by number", (launch,))

    def since(self, seconds: float) -> Sequence[Attempt]:
        return self._read("region = ? and told_at >= ? and told_at > 0", (self._region, seconds))

    def write(self, attempt: Attempt) -> None:
        body = {name: getattr(attempt, name) for name in ("request", "at", "identity", "because")}
        pool = attempt.pool
        text = canonical(
            {**body, "pool": [pool.offer, pool.zone, pool.market], "verdict": attempt.verdict.value}
        ).decode()
        values = (attempt.launch, attempt.number, self._region, attempt.told_at, text)
        fp("fleet.attempt.before_commit")
        self._database.write_from_thread(
            lambda connection: (
                connection.execute("insert or replace into attempts values (?, ?, ?, ?, ?)", values) and None
            )
        )
        fp("fleet.attempt.after_commit")

    def _read(self, where: str, params: tuple[Any, ...]) -> list[Attempt]:
        rows = self._database.read(f"select launch, number, told_at, body from attempts where {where}", params)  # noqa: S608
        return [_attempt(*row) for row in rows]


def _put(connection: apsw.Connection, row: MachineRow) -> None:
    body = {name: getattr(row, name) for name in _BODY}
    values = (row.machine_id, row.region, row.life.value, row.made_at, row.ended_at)
    connection.execute(
        "insert or replace into machines (machine_id, region, life, made_at, ended_at, body) values (?, ?, ?, ?, ?, ?)",
        (*values, canonical({**body, "kinds": list(row.kinds)}).decode()),
    )


def _row(row: tuple[Any, ...]) -> MachineRow:
    *columns, text = row
    values: dict[str, Any] = {**dict(zip(_COLUMNS, columns, strict=True)), **json.loads(text)}
    known = {name: value for name, value in values.items() if name in MachineRow.__dataclass_fields__}
    return MachineRow(**{**known, "life": Life(known["life"]), "kinds": tuple(known["kinds"])})


def _attempt(launch: str, number: int, told_at: float, text: str) -> Attempt:
    body = json.loads(text)
    return Attempt(
        launch,
        number,
        Pool(*body["pool"]),
        body["request"],
        body["at"],
        Verdict(body["verdict"]),
        body["identity"],
        body["because"],
        told_at,
    )
