"""Requests in SQLite: accepted, attempted, ended, forgotten. Decides nothing; the fence is in every statement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import apsw

from falplan.core.runtime import Outcome, RequestStatus
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.interfaces import Added, IdempotencyConflict, IdempotencyKey, NewRequest, StoredRequest

_COLUMNS = (
    "request_id, endpoint, sub_path, query, headers, priority, hint, no_retry, created_at, start_by, status, attempts, "
    "runners, error, error_type, inference_time"
)
_UNFINISHED = f"select {_COLUMNS} from requests where status <> 'COMPLETED' order by seq"  # noqa: S608 - our own names


class SqliteRequestStore:
    """The RequestStore of one control plane. The promises are those of the protocol."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, request: NewRequest) -> Added:
        def work(connection: apsw.Connection) -> Added:
            known = _known(connection, request.idempotency, request.created_at) if request.idempotency else None
            if known:
                return Added(known, is_new=False)
            _insert(connection, request)
            return Added(request.request_id, is_new=True)

        fp("request.add.before_commit")
        added = await self._database.write(work)
        fp("request.add.after_commit")
        return added

    async def start(self, request_id: str, *, token: str, runner_id: str, now: float) -> bool:
        sql = """update requests set status = 'IN_PROGRESS', attempts = attempts + 1, attempt_token = ?, started_at = ?,
                 runners = json_insert(runners, '$[#]', ?) where request_id = ? and status = 'IN_QUEUE'"""
        return await self._change(sql, (token, now, runner_id, request_id))

    async def requeue(self, request_id: str, *, token: str) -> bool:
        sql = """update requests set status = 'IN_QUEUE', attempt_token = null
                 where request_id = ? and attempt_token = ? and status = 'IN_PROGRESS'"""
        return await self._change(sql, (request_id, token))

    async def complete(self, request_id: str, *, token: str, outcome: Outcome, now: float, expires_at: float) -> bool:
        fence = "request_id = ? and attempt_token = ? and status = 'IN_PROGRESS'"
        return await self._end(fence, (request_id, token), outcome, now, expires_at)

    async def give_up(self, request_id: str, *, outcome: Outcome, now: float, expires_at: float) -> bool:
        return await self._end("request_id = ? and status = 'IN_QUEUE'", (request_id,), outcome, now, expires_at)

    async def cancel(
        self, endpoint: str, request_id: str, *, outcome: Outcome, now: float, expires_at: float
    ) -> RequestStatus | None:
        named = (request_id, endpoint)

        def work(connection: apsw.Connection) -> RequestStatus | None:
            rows = list(connection.execute("select status from requests where request_id = ? and endpoint = ?", named))
            if not rows:
                return None
            _finish(connection, "request_id = ? and status <> 'COMPLETED'", (request_id,), outcome, now, expires_at)
            return RequestStatus(rows[0][0])

        fp("request.cancel.before_commit")
        return await self._database.write(work)

    async def recover(self) -> list[StoredRequest]:
        def work(connection: apsw.Connection) -> list[StoredRequest]:
            connection.execute(
                "update requests set status = 'IN_QUEUE', attempt_token = null where status = 'IN_PROGRESS'"
            )
            return [_stored(r) for r in connection.execute(_UNFINISHED)]

        return await self._database.write(work)

    async def prune(self, *, now: float) -> int:
        def work(connection: apsw.Connection) -> int:
            connection.execute(
                "delete from requests where seq in (select seq from requests where status = 'COMPLETED' and expires_at < ? "
                "limit 1000)",  # a long backlog is forgotten in steps: each holds up the writer for milliseconds
                (now,),
            )
            pruned = connection.changes()
            connection.execute("delete from idempotency where expires_at < ?", (now,))
            return pruned

        total = 0
        while pruned := await self._database.write(work):
            total += pruned
        return total

    def finished(self, *, now: float, ended_before: float | None) -> tuple[int, int]:
        which, at = _finished(now, ended_before)
        sql = (
            f"select count(*), coalesce(sum(length(body)), 0) from requests left join results using (seq) where {which}"  # noqa: S608 - our own text
        )
        [(count, size)] = self._database.read(sql, (at,))
        return int(count), int(size)

    async def forget(self, *, now: float, ended_before: float | None) -> int:
        which, at = _finished(now, ended_before)
        sql = f"delete from requests where seq in (select seq from requests where {which} limit 1000)"  # noqa: S608 - our own text

        def work(connection: apsw.Connection) -> int:
            connection.execute(sql, (at,))
            return connection.changes()

        total = 0
        while forgotten := await self._database.write(work):
            fp("request.forget.after_commit")
            total += forgotten
        return total

    def unfinished(self) -> list[StoredRequest]:
        return [_stored(r) for r in self._database.read(_UNFINISHED)]

    def get(self, endpoint: str, request_id: str) -> StoredRequest | None:
        sql = f"select {_COLUMNS} from requests where request_id = ? and endpoint = ?"  # noqa: S608 - our own names
        rows = self._database.read(sql, (request_id, endpoint))
        return _stored(rows[0]) if rows else None

    def body(self, request_id: str) -> bytes:
        sql = "select body from request_bodies join requests using (seq) where request_id = ?"
        rows = self._database.read(sql, (request_id,))
        if not rows:
            raise LookupError(f"no request {request_id}")
        return bytes(rows[0][0])

    def result(self, endpoint: str, request_id: str) -> Outcome | None:
        sql = """select status_code, results.headers, body, error, error_type, inference_time
                 from requests join results using (seq) where request_id = ? and endpoint = ?"""
        rows = self._database.read(sql, (request_id, endpoint))
        if not rows:
            return None
        code, headers, body, error, error_type, seconds = rows[0]
        return Outcome(code, json.loads(headers), bytes(body), error, error_type, seconds)

    def queue_position(self, endpoint: str, request_id: str) -> int | None:
        sql = """select (select count(*) from requests as other where other.status = 'IN_QUEUE' and other.endpoint = it.endpoint
                 and (other.priority, other.seq) < (it.priority, it.seq))
                 from requests as it where it.request_id = ? and it.endpoint = ? and it.status = 'IN_QUEUE'"""
        rows = self._database.read(sql, (request_id, endpoint))
        return int(rows[0][0]) if rows else None

    async def _change(self, sql: str, params: tuple[Any, ...]) -> bool:
        def work(connection: apsw.Connection) -> bool:
            connection.execute(sql, params)
            return connection.changes() == 1

        fp("request.change.before_commit")
        changed = await self._database.write(work)
        fp("request.change.after_commit")
        return changed

    async def _end(self, fence: str, params: tuple[Any, ...], outcome: Outcome, now: float, expires_at: float) -> bool:
        def work(connection: apsw.Connection) -> bool:
            return _finish(connection, fence, params, outcome, now, expires_at)

        fp("request.end.before_commit")
        ended = await self._database.write(work)
        fp("request.end.after_commit")
        return ended


def _finished(now: float, ended_before: float | None) -> tuple[str, float]:
    """(which finished requests, as a condition; its parameter)."""
    if ended_before is None:
        return "status = 'COMPLETED' and expires_at < ?", now
    return "status = 'COMPLETED' and ended_at < ?", ended_before


def _known(connection: apsw.Connection, key: IdempotencyKey, now: float) -> str | None:
    sql = "select digest, request_id, expires_at from idempotency where caller = ? and name = ?"
    rows = list(connection.execute(sql, (key.caller, key.name)))
    if not rows or rows[0][2] < now:
        return None
    if rows[0][0] != key.digest:
        raise IdempotencyConflict(
            "This Idempotency-Key was used for another request",
            "Send the same request again to get the first answer, or use a new key.",
        )
    return str(rows[0][1])


def _insert(connection: apsw.Connection, r: NewRequest) -> None:
    connection.execute(
        "insert into requests (request_id, endpoint, sub_path, query, headers, priority, hint, no_retry, created_at, "
        "start_by, status) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'IN_QUEUE')",
        (
            *(r.request_id, r.endpoint, r.sub_path, r.query, _json(r.headers)),
            *(int(r.low_priority), r.hint, int(r.no_retry), r.created_at, r.start_by),
        ),
    )
    connection.execute("insert into request_bodies values (?, ?)", (connection.last_insert_rowid(), r.body))
    if key := r.idempotency:
        row = (key.caller, key.name, key.digest, r.request_id, key.expires_at)
        connection.execute("insert or replace into idempotency values (?, ?, ?, ?, ?)", row)


def _finish(
    connection: apsw.Connection,
    fence: str,
    params: tuple[Any, ...],
    outcome: Outcome,
    now: float,
    expires_at: float,
) -> bool:
    values = (outcome.status_code, outcome.error, outcome.error_type, outcome.inference_time, now, expires_at)
    sql = (
        "update requests set status = 'COMPLETED', attempt_token = null, status_code = ?, error = ?, error_type = ?, "  # noqa: S608 - the fence is our own text
        f"inference_time = ?, ended_at = ?, expires_at = ? where {fence} returning seq"
    )
    rows = list(connection.execute(sql, (*values, *params)))
    for (seq,) in rows:
        result = (seq, _json(outcome.headers), outcome.body)
        connection.execute("insert into results values (?, ?, ?)", result)
        connection.execute("delete from request_bodies where seq = ?", (seq,))  # nobody needs it any more
    return bool(rows)


def _json(headers: Mapping[str, str]) -> str:
    return json.dumps(dict(headers), separators=(",", ":"))


def _stored(r: tuple[Any, ...]) -> StoredRequest:
    return StoredRequest(
        request_id=r[0],
        endpoint=r[1],
        sub_path=r[2],
        query=r[3],
        headers=json.loads(r[4]),
        low_priority=bool(r[5]),
        hint=r[6],
        no_retry=bool(r[7]),
        created_at=r[8],
        start_by=r[9],
        status=RequestStatus(r[10]),
        attempts=r[11],
        runners=tuple(json.loads(r[12])),
        error=r[13],
        error_type=r[14],
        inference_time=r[15],
    )
