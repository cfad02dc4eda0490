"""The admin interface: what a command line reads of the control plane, and the door for operations. JSON in and out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import IO, cast

from falplan import __version__, clock
from falplan.control.account import Account, entry_to_json, key_to_json
from falplan.control.answers import Answer, Body, as_json, missing, read_object
from falplan.control.changes import Changes
from falplan.control.controller import Controller
from falplan.control.operations import BadOperation, Operations
from falplan.core.audit import audit_entry
from falplan.core.errors import FalplanError
from falplan.core.operations import Asker, Operation, name_of_call
from falplan.core.runtime import Key
from falplan.core.values import Json, JsonObject
from falplan.sdk.failpoints import fp

API_RANGE = (1, 1)
"""Oldest and newest admin interface that this control plane speaks."""

MOST_ENTRIES = 10_000  # of the audit log in one answer

PIECE = 256 << 10  # bytes of a backup in memory at a time


@dataclass(slots=True)
class Admin:
    """Routes requests below /admin/v1. The gateway has already checked that the key is an admin's."""

    controller: Controller
    operations: Operations
    account: Account
    changes: Changes
    identity: Mapping[str, str]
    unfinished: Callable[[str], list[tuple[str, str, float]]]
    about: Callable[[], JsonObject]

    async def handle(self, method: str, path: str, query: Mapping[str, str], body: Body, caller: Key) -> Answer:
        """One request. `path` begins behind /admin/v1."""
        parts, asker = tuple(p for p in path.split("/") if p), Asker(caller.key_id, caller.description)
        name = name_of_call(method, parts)
        try:
            if not name:
                return await self._route(method, parts, query, body, asker)
            fp(f"admin.{name}.before_act")
            answer = await self.changes.answer(method, parts, query, body, asker)
            fp(f"admin.{name}.before_answer")
            return answer
        except BadOperation as exc:
            return as_json({"summary": exc.summary, "detail": exc.detail}, 400)
        except FalplanError as exc:
            return as_json({"summary": exc.summary, "detail": exc.detail}, 422)

    async def _route(
        self, method: str, parts: tuple[str, ...], query: Mapping[str, str], body: Body, asker: Asker
    ) -> Answer:
        match (method, *parts):
            case ("GET", "status"):
                return as_json(self._status())
            case ("GET", "world"):
                return as_json(await self.account.world())
            case ("POST", "operations"):
                return await self._begin(await read_object(body), asker)
            case ("POST", "operations", "known"):
                return self._known(await read_object(body))
            case ("GET", "operations", operation):
                return await self._follow(operation, query)
            case ("GET", "bundles", digest):
                return as_json({"digest": digest}) if self.changes.bundles.has(digest) else missing("bundle")
            case ("GET", "secrets"):
                return as_json({"secrets": self.account.secrets()})
            case ("GET", "runners"):
                runners = self.account.runners(all_states=query.get("all") == "1")
                return as_json({"runners": runners, "held": self.account.held()})
            case ("GET", "machines"):
                return as_json(await self.account.holdings.everything(gone_since=_number(query, "gone_since")))
            case ("GET", "cost"):
                return as_json(self.account.holdings.cost(since=_number(query, "since") or 0.0))
            case ("GET", "runners", runner_id, "logs"):
                return await self._logs(runner_id, query)
            case ("GET", "unfinished"):
                return as_json(
                    {endpoint: self._unfinished(endpoint) for endpoint in sorted(self.controller.world.apps)}
                )
            case ("GET", "events"):
                events = self.controller.world.store.events(limit=int(query.get("limit", "100")))
                return as_json({"events": [asdict(e) for e in events]})
            case ("GET", "audit"):
                return as_json({"entries": self._audit(query)})
            case ("GET", "revisions"):
                return as_json({"revisions": self.account.revisions(query.get("endpoint", ""))})
            case ("GET", "keys"):
                return as_json({"keys": [key_to_json(k) for k in self.changes.keys.all()]})
            case ("GET", "backup"):
                return Answer(200, _pieces(await self.controller.host.backup()), "application/gzip")
            case _:
                return missing("route")

    def _status(self) -> JsonObject:
        return {
            "id": self.identity["control_plane_id"],
            "lineage": self.identity["lineage"],
            "epoch": int(self.identity["epoch"]),
            "version": __version__,
            "api": list(API_RANGE),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "rolled_back": self.controller.adoption.rolled_back,
            **self.about(),
            **({"fenced": self.controller.fenced} if self.controller.fenced else {}),
        }

    def _unfinished(self, endpoint: str, most: int = 20) -> JsonObject:
        found = self.unfinished(endpoint)
        named: list[Json] = [
            {"request_id": i, "status": s, "created_at": clock.timestamp(at)} for i, s, at in found[:most]
        ]
        return {"total": len(found), "oldest": named}

    async def _begin(self, body: JsonObject, asker: Asker) -> Answer:
        try:
            operation_id, kind = str(body["operation"]), str(body["kind"])
            inner = cast("JsonObject", body["body"])
        except KeyError as exc:
            raise BadOperation("The request lacks a key", str(exc)) from exc
        operation = await self.operations.begin(operation_id, kind, inner, asker)
        return as_json({**_operation(operation), "progress": []}, 202)

    def _audit(self, query: Mapping[str, str]) -> list[Json]:
        try:
            limit, since = int(query.get("limit", "100")), float(query.get("since", "0"))
        except ValueError as exc:
            raise BadOperation("The limits are wrong", f"limit and since are numbers: {exc}") from None
        store = self.controller.world.store
        found = store.operations(subject=query.get("address", ""), since=since, limit=min(max(0, limit), MOST_ENTRIES))
        return [entry_to_json(audit_entry(operation)) for operation in found]

    def _known(self, body: JsonObject) -> Answer:
        ids = body.get("ids")
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise BadOperation("The ids are missing", "They are a list of text.")
        return as_json({"known": list[Json](self.controller.world.store.known_operations(map(str, ids)))})

    async def _follow(self, operation_id: str, query: Mapping[str, str]) -> Answer:
        seen, wait = int(query.get("progress", "0")), min(30.0, float(query.get("wait", "0")))
        found = await self.operations.wait(operation_id, seen=seen, within=wait)
        if found is None:
            return missing("operation")
        return as_json({**_operation(found[0]), "progress": list(found[1])})

    async def _logs(self, runner_id: str, query: Mapping[str, str]) -> Answer:
        if self.controller.world.store.runner(runner_id) is None:
            return missing("runner")
        lines = int(query.get("lines", "100"))
        if query.get("follow") != "1":
            entries = await self.controller.host.tail_entries(runner_id, lines)
            return as_json({"entries": [asdict(e) for e in entries]})
        return Answer(200, self._follow_logs(runner_id, lines), "application/x-ndjson")

    async def _follow_logs(self, runner_id: str, lines: int) -> AsyncIterator[bytes]:
        async def more(position: int | None) -> tuple[list[bytes], int]:
            entries, after = await self.controller.host.entries_since(runner_id, position, lines)
            return [json.dumps(asdict(e)).encode() + b"\n" for e in entries], after

        position: int | None = None
        while True:
            ended = runner_id not in self.controller.world.runners
            chunk, position = await more(position)
            for line in chunk:
                yield line
            if ended:
                return
            await asyncio.sleep(0.2)


def _number(query: Mapping[str, str], name: str) -> float | None:
    """A time in seconds since 1970 that a query names; None if it does not."""
    if name not in query:
        return None
    try:
        return float(query[name])
    except ValueError:
        raise BadOperation("The time is wrong", f"{name} is a number of seconds: {query[name]!r}") from None


def _operation(operation: Operation) -> JsonObject:
    return {
        "operation": operation.operation,
        "kind": operation.kind.value,
        "status": operation.status.value,
        "outcome": operation.outcome,
    }


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    """What a file holds, a piece at a time. Closes it."""
    loop = asyncio.get_running_loop()
    with file:
        while piece := await loop.run_in_executor(None, file.read, PIECE):
            yield piece
