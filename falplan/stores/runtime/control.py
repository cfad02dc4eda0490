"""The controller's tables: apps, revisions, runners, rollouts, operations, events. Decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import apsw

from falplan.core.operations import Asker, Operation, OperationKind, OperationStatus
from falplan.core.rollout import Phase, Rollout, Strategy
from falplan.core.runtime import Event, RunnerState
from falplan.core.values import JsonObject, canonical
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.database import Database


@dataclass(frozen=True, slots=True)
class AppRow:
    """A row of `apps`. `inputs` and `settings` are those that are live; `overrides` tells which of them were not applied."""

    endpoint: str
    address: str
    revision: str | None
    inputs: JsonObject
    settings: JsonObject
    deleting: str | None = None
    failures: int = 0
    launch_after: float = 0
    overrides: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RevisionRow:
    """A row of `revisions`: its definition is immutable once written.

    `inputs` is the app's resource as it was last applied with this revision, None if that is not known; `served_at` when the alias
    last moved to it.
    """

    endpoint: str
    revision: str
    definition: JsonObject
    created_at: float
    inputs: JsonObject | None = None
    served_at: float | None = None


@dataclass(frozen=True, slots=True)
class RunnerRow:
    """A row of `runners`."""

    runner_id: str
    endpoint: str
    revision: str
    state: RunnerState
    machine_id: str
    placement: JsonObject
    created_at: float
    ready_at: float | None = None
    ended_at: float | None = None
    because: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A row of `rollouts`: the state machine's value, and what the app becomes when it succeeds."""

    rollout: Rollout
    inputs: JsonObject
    settings: JsonObject
    overrides: JsonObject = field(default_factory=dict)


FORGET_ATTEMPTS = """delete from attempts where launch in (select machine_id from machines where life = 'gone' and ended_at < ?)
and told_at > 0 and told_at < ?"""


Write = AppRow | RevisionRow | RunnerRow | RolloutRow | Operation | Event


class ControlStore:
    """Reads and writes the controller's rows. Several rows given to `save` become durable together."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, *rows: Write, removed_apps: Iterable[str] = ()) -> None:
        """Insert or replace the rows, and remove apps with their revisions and rollouts, in one transaction."""

        def work(connection: apsw.Connection) -> None:
            for row in rows:
                put_row(connection, row)
            for endpoint in removed_apps:
                for table in ("apps", "revisions", "rollouts"):
                    connection.execute(f"delete from {table} where endpoint = ?", (endpoint,))  # noqa: S608 - a literal

        await self._database.write(work)

    async def begin(self, operation: Operation) -> Operation:
        """Record an operation before it acts. If its id is known, the recorded one is returned and nothing is written."""

        def work(connection: apsw.Connection) -> Operation:
            known = known_operation(connection, operation.operation)
            if known:
                return known
            put_row(connection, operation)
            return operation

        return await self._database.write(work)

    async def identity(self, wanted: dict[str, str]) -> dict[str, str]:
        """The stored identity; `wanted` is stored where a name has no value yet."""

        def work(connection: apsw.Connection) -> dict[str, str]:
            for name, value in wanted.items():
                connection.execute("insert into identity values (?, ?) on conflict do nothing", (name, value))
            rows = connection.execute("select name, value from identity")
            return {str(n): str(v) for n, v in rows}

        return await self._database.write(work)

    async def mark(self, name: str, value: str | None, *rows: Write) -> None:
        """Remember something of this control plane, or forget it, together with rows."""

        def work(connection: apsw.Connection) -> None:
            connection.execute("delete from identity where name = ?", (name,))
            if value is not None:
                connection.execute("insert into identity values (?, ?)", (name, value))
            for row in rows:
                put_row(connection, row)

        fp("identity.mark.before_commit")
        await self._database.write(work)
        fp("identity.mark.after_commit")

    async def keep_epoch(self, epoch: int) -> None:
        """Make the epoch of this start durable, before anything is done in its name."""

        def work(connection: apsw.Connection) -> None:
            connection.execute("update identity set value = ? where name = 'epoch'", (str(epoch),))

        fp("epoch.keep.before_commit")
        await self._database.write(work)
        fp("epoch.keep.after_commit")

    def known_operations(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that an operation has."""
        sql = "select operation from operations where operation in (select value from json_each(?))"
        return [str(row[0]) for row in self._database.read(sql, (json.dumps(list(ids)),))]

    def apps(self) -> list[AppRow]:
        return [_app(r) for r in self._database.read("select * from apps order by endpoint", ())]

    def revision(self, endpoint: str, revision: str) -> RevisionRow | None:
        rows = self._database.read("select * from revisions where endpoint = ? and revision = ?", (endpoint, revision))
        return _revision(rows[0]) if rows else None

    def revisions(self) -> list[RevisionRow]:
        return [_revision(r) for r in self._database.read("select * from revisions order by created_at", ())]

    def revisions_of(self, endpoint: str) -> list[RevisionRow]:
        """Those of one app, oldest first."""
        sql = "select * from revisions where endpoint = ? order by created_at, revision"
        return [_revision(r) for r in self._database.read(sql, (endpoint,))]

    def alive_runners(self) -> list[RunnerRow]:
        rows = self._database.read(
            "select * from runners where state <> 'TERMINATED' order by created_at, runner_id", ()
        )
        return [_runner(r) for r in rows]

    def ended_runners(self, limit: int = 50) -> list[RunnerRow]:
        """The newest ones first."""
        sql = "select * from runners where state = 'TERMINATED' order by ended_at desc, runner_id limit ?"
        return [_runner(r) for r in self._database.read(sql, (limit,))]

    def runner(self, runner_id: str) -> RunnerRow | None:
        rows = self._database.read("select * from runners where runner_id = ?", (runner_id,))
        return _runner(rows[0]) if rows else None

    def rollouts(self) -> list[RolloutRow]:
        return [_rollout(r) for r in self._database.read("select * from rollouts order by endpoint", ())]

    def operation(self, operation: str) -> Operation | None:
        rows = self._database.read("select * from operations where operation = ?", (operation,))
        return _operation(rows[0]) if rows else None

    def open_operations(self) -> list[Operation]:
        rows = self._database.read("select * from operations where status = 'running' order by created_at", ())
        return [_operation(r) for r in rows]

    def operations(self, *, subject: str = "", since: float = 0.0, limit: int = 100) -> list[Operation]:
        """The newest ones, oldest first; with a `subject` those that changed it alone."""
        sql = """select * from operations where created_at >= ? and (? = '' or subject = ?)
                 order by created_at desc, operation desc limit ?"""
        rows = self._database.read(sql, (since, subject, subject, limit))
        return [_operation(r) for r in reversed(rows)]

    def events(self, *, limit: int = 100) -> list[Event]:
        """The newest ones, oldest first."""
        sql = "select at, kind, subject, message, detail from events order by seq desc limit ?"
        rows = self._database.read(sql, (limit,))
        return [Event(r[0], r[1], r[2], r[3], json.loads(r[4])) for r in reversed(rows)]

    def history_before(self, at: float) -> tuple[int, int]:
        """Number and bytes of events and ended operations from before that time (seconds since the epoch)."""
        sql = """select count(*), coalesce(sum(n), 0) from (
                 select length(message) + length(detail) as n from events where at < ?
                 union all select length(body) + length(outcome) from operations where ended_at < ?)"""
        [(count, size)] = self._database.read(sql, (at, at))
        return int(count), int(size)

    async def prune(self, *, runner_ids: Iterable[str], older_than: float) -> None:
        """Forget these ended runners, and events, ended operations, and requests for machines that are gone, from before that time.

        `older_than` in seconds since the epoch. Whether a request made a machine has to be known as long as that may be there.
        """
        gone = [(runner_id,) for runner_id in runner_ids]

        def work(connection: apsw.Connection) -> None:
            connection.executemany("delete from runners where runner_id = ? and state = 'TERMINATED'", gone)
            connection.execute("delete from events where at < ?", (older_than,))
            connection.execute("delete from operations where ended_at < ?", (older_than,))
            connection.execute(FORGET_ATTEMPTS, (older_than, older_than))

        await self._database.write(work)


def known_operation(connection: apsw.Connection, operation: str) -> Operation | None:
    """A recorded operation, inside somebody's transaction."""
    known = list(connection.execute("select * from operations where operation = ?", (operation,)))
    return _operation(known[0]) if known else None


def _text(value: JsonObject) -> str:
    return canonical(value).decode()


def put_row(connection: apsw.Connection, row: Write) -> None:
    """Insert or replace one row, inside somebody's transaction."""
    table, values = _values(row)
    marks = ", ".join(f":{name}" for name in values)
    names = ", ".join(values)
    connection.execute(f"insert or replace into {table} ({names}) values ({marks})", values)  # noqa: S608 - our own names


def _values(row: Write) -> tuple[str, dict[str, Any]]:
    match row:
        case AppRow():
            return "apps", {
                "endpoint": row.endpoint,
                "address": row.address,
                "revision": row.revision,
                "inputs": _text(row.inputs),
                "settings": _text(row.settings),
                "deleting": row.deleting,
                "failures": row.failures,
                "launch_after": float(row.launch_after),
                "overrides": _text(row.overrides),
            }
        case RevisionRow():
            return "revisions", {
                "endpoint": row.endpoint,
                "revision": row.revision,
                "definition": _text(row.definition),
                "created_at": row.created_at,
                "inputs": None if row.inputs is None else _text(row.inputs),
                "served_at": row.served_at,
            }
        case RunnerRow():
            return "runners", {
                "runner_id": row.runner_id,
                "endpoint": row.endpoint,
                "revision": row.revision,
                "state": row.state.value,
                "machine_id": row.machine_id,
                "placement": _text(row.placement),
                "created_at": row.created_at,
                "ready_at": row.ready_at,
                "ended_at": row.ended_at,
                "because": row.because,
                "address": row.address,
            }
        case RolloutRow():
            rollout = row.rollout
            return "rollouts", {
                "endpoint": rollout.endpoint,
                "revision": rollout.revision,
                "before": rollout.before,
                "strategy": rollout.strategy.value,
                "phase": rollout.phase.value,
                "operation": rollout.operation,
                "runner_id": rollout.runner_id,
                "because": rollout.because,
                "inputs": _text(row.inputs),
                "settings": _text(row.settings),
                "overrides": _text(row.overrides),
            }
        case Operation():
            return "operations", {
                "operation": row.operation,
                "kind": row.kind.value,
                "body": _text(row.body),
                "body_digest": row.body_digest,
                "status": row.status.value,
                "outcome": _text(row.outcome),
                "created_at": row.created_at,
                "ended_at": row.ended_at,
                "key_id": row.asker.key_id,
                "key_name": row.asker.name,
                "subject": row.subject,
            }
        case Event():
            return "events", {
                "at": row.at,
                "kind": row.kind,
                "subject": row.subject,
                "message": row.message,
                "detail": _text(row.detail),
            }


def _app(r: tuple[Any, ...]) -> AppRow:
    return AppRow(r[0], r[1], r[2], json.loads(r[3]), json.loads(r[4]), r[5], r[6], r[7], json.loads(r[8]))


def _revision(r: tuple[Any, ...]) -> RevisionRow:
    inputs = None if r[4] is None else json.loads(r[4])
    return RevisionRow(r[0], r[1], json.loads(r[2]), r[3], inputs, r[5])


def _runner(r: tuple[Any, ...]) -> RunnerRow:
    return RunnerRow(r[0], r[1], r[2], RunnerState(r[3]), r[4], json.loads(r[5]), *r[6:])


def _rollout(r: tuple[Any, ...]) -> RolloutRow:
    rollout = Rollout(r[0], r[1], r[2], Strategy(r[3]), Phase(r[4]), r[5], r[6], r[7])
    return RolloutRow(rollout, json.loads(r[8]), json.loads(r[9]), json.loads(r[10]))


def _operation(r: tuple[Any, ...]) -> Operation:
    body, outcome = cast("JsonObject", json.loads(r[2])), cast("JsonObject", json.loads(r[5]))
    status, asker = OperationStatus(r[4]), Asker(r[8], r[9])
    return Operation(r[0], OperationKind(r[1]), body, r[3], status, r[6], outcome, r[7], asker, r[10])
