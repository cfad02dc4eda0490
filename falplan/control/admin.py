"""The admin interface: what a command line reads of the control plane, and the door for operations. JSON in and out."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol, cast

from falplan import __version__, clock
from falplan.control.account import Account, key_to_json
from falplan.control.bundle_store import BundleStore
from falplan.control.controller import Controller
from falplan.control.operations import BadOperation, Operations
from falplan.core.errors import FalplanError
from falplan.core.operations import Operation, name_of_call
from falplan.core.pruning import limits_from_json
from falplan.core.runtime import Key, KeyScope
from falplan.core.secret import SecretValue, misfit
from falplan.core.values import Json, JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.interfaces import RequestStore
from falplan.stores.runtime.secrets import OperationTaken

SECRET_VERSION = re.compile(r"secret-[0-9a-f]{12}")
API_RANGE = (1, 1)
"""Oldest and newest admin interface that this control plane speaks."""

PIECE = 256 << 10  # bytes of a backup in memory at a time


@dataclass(frozen=True, slots=True)
class Stop:
    """The control plane is to end, perhaps with its runners, perhaps with its data."""

    runners: bool = False
    remove: bool = False


@dataclass(frozen=True, slots=True)
class HandOver:
    """Another control plane is to take over: the falplan of that interpreter. `project` is the project's name, for messages."""

    python: str
    project: str = ""


Ending = Stop | HandOver


class Body(Protocol):
    """A request's body, read at most once."""

    async def read(self) -> bytes: ...
    def chunks(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. A body of chunks is sent as it comes."""

    status: int
    body: bytes | AsyncIterator[bytes]
    content_type: str = "application/json"


class Keys(Protocol):
    """Callers' keys, as the gateway's store keeps them."""

    async def record(self, key_id: str, hashed: bytes, scope: KeyScope, description: str) -> Key: ...
    async def revoke(self, key_id: str) -> bool: ...
    def all(self) -> list[Key]: ...


@dataclass(slots=True)
class Admin:
    """Routes requests below /admin/v1. The gateway has already checked that the key is an admin's."""

    controller: Controller
    operations: Operations
    account: Account
    keys: Keys
    bundles: BundleStore
    identity: Mapping[str, str]
    tell: Callable[[Ending], None]
    unfinished: Callable[[str], list[tuple[str, str, float]]]
    about: Callable[[], JsonObject]
    requests: RequestStore

    async def handle(self, method: str, path: str, query: Mapping[str, str], body: Body) -> Answer:
        """One request. `path` begins behind /admin/v1."""
        parts = tuple(p for p in path.split("/") if p)
        name = name_of_call(method, parts)
        try:
            if name:
                fp(f"admin.{name}.before_act")
            answer = await self._route(method, parts, query, body)
            if name:
                fp(f"admin.{name}.before_answer")
            return answer
        except BadOperation as exc:
            return _json({"summary": exc.summary, "detail": exc.detail}, 400)
        except FalplanError as exc:
            return _json({"summary": exc.summary, "detail": exc.detail}, 422)

    async def _route(self, method: str, parts: tuple[str, ...], query: Mapping[str, str], body: Body) -> Answer:
        match (method, *parts):
            case ("GET", "status"):
                return _json(self._status())
            case ("GET", "world"):
                return _json(await self.account.world())
            case ("POST", "operations"):
                return await self._begin(await _object(body))
            case ("POST", "operations", "known"):
                return self._known(await _object(body))
            case ("GET", "operations", operation):
                return await self._follow(operation, query)
            case ("GET", "bundles", digest):
                return _json({"digest": digest}) if self.bundles.has(digest) else _missing("bundle")
            case ("PUT", "bundles", digest):
                await self.bundles.keep(digest, body.chunks())
                return _json({"digest": digest})
            case ("GET", "secrets"):
                return _json({"secrets": self.account.secrets()})
            case ("PUT", "secrets", environment, name):
                return await self._put_secret(environment, name, query, body)
            case ("DELETE", "secrets", environment, name):
                return await self._unset_secret(environment, name)
            case ("GET", "runners"):
                return _json({"runners": self.account.runners(all_states=query.get("all") == "1")})
            case ("GET", "runners", runner_id, "logs"):
                return await self._logs(runner_id, query)
            case ("GET", "unfinished"):
                return _json({endpoint: self._unfinished(endpoint) for endpoint in sorted(self.controller.world.apps)})
            case ("GET", "events"):
                events = self.controller.world.store.events(limit=int(query.get("limit", "100")))
                return _json({"events": [asdict(e) for e in events]})
            case ("GET", "keys"):
                return _json({"keys": [key_to_json(k) for k in self.keys.all()]})
            case ("POST", "keys"):
                return await self._create_key(await _object(body))
            case ("DELETE", "keys", key_id):
                revoked = await self.keys.revoke(key_id)
                return _json({"key_id": key_id}) if revoked else _missing("key")
            case ("GET", "backup"):
                return Answer(200, _pieces(await self.controller.host.backup()), "application/gzip")
            case ("POST", "prune"):
                return await self._prune(await _object(body))
            case ("POST", "shutdown"):
                return self._shutdown(await _object(body))
            case ("POST", "settled"):
                return _json({"ended": list[Json](await self.controller.adoption.settle())})
            case ("POST", "handover"):
                return self._hand_over(await _object(body))
            case _:
                return _missing("route")

    def _status(self) -> JsonObject:
        return {
            "id": self.identity["control_plane_id"],
            "lineage": self.identity["lineage"],
            "epoch": int(self.identity["epoch"]),
            "version": __version__,
            "api": list(API_RANGE),
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

    async def _begin(self, body: JsonObject) -> Answer:
        try:
            operation_id, kind = str(body["operation"]), str(body["kind"])
            inner = cast("JsonObject", body["body"])
        except KeyError as exc:
            raise BadOperation("The request lacks a key", str(exc)) from exc
        operation = await self.operations.begin(operation_id, kind, inner)
        return _json({**_operation(operation), "progress": []}, 202)

    def _known(self, body: JsonObject) -> Answer:
        ids = body.get("ids")
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise BadOperation("The ids are missing", "They are a list of text.")
        return _json({"known": list[Json](self.controller.world.store.known_operations(map(str, ids)))})

    async def _follow(self, operation_id: str, query: Mapping[str, str]) -> Answer:
        seen, wait = int(query.get("progress", "0")), min(30.0, float(query.get("wait", "0")))
        found = await self.operations.wait(operation_id, seen=seen, within=wait)
        if found is None:
            return _missing("operation")
        return _json({**_operation(found[0]), "progress": list(found[1])})

    async def _logs(self, runner_id: str, query: Mapping[str, str]) -> Answer:
        if self.controller.world.store.runner(runner_id) is None:
            return _missing("runner")
        lines = int(query.get("lines", "100"))
        if query.get("follow") != "1":
            entries = await self.controller.host.tail_entries(runner_id, lines)
            return _json({"entries": [asdict(e) for e in entries]})
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

    async def _put_secret(self, environment: str, name: str, query: Mapping[str, str], body: Body) -> Answer:
        proposed = query.get("version")
        if not query.get("operation") or (proposed and not SECRET_VERSION.fullmatch(proposed)):
            raise BadOperation("The request lacks a key", "operation, or version is none")
        value = SecretValue(await body.read())
        why = misfit(name, value)
        if why:
            raise BadOperation("A secret can't be delivered", f"{name}: {why}.")
        try:
            version = await self.operations.secrets.put(query["operation"], environment, name, value, proposed)
        except OperationTaken as exc:
            raise BadOperation(exc.summary, exc.detail) from None
        return _json({"version": version})

    async def _unset_secret(self, environment: str, name: str) -> Answer:
        rows = {(r["environment"], r["name"]): r for r in self.account.secrets()}
        row = rows.get((environment, name))
        if row is None:
            return _missing("secret")
        if row["used_by"]:
            users = ", ".join(cast("list[str]", row["used_by"]))
            detail = f"{users} use it. Take it out of the spec and apply: that removes it."
            raise BadOperation("The secret is in use", detail)
        await self.operations.secrets.remove(environment, name)
        return _json({"address": row["address"]})

    async def _create_key(self, body: JsonObject) -> Answer:
        """The caller made id and secret, so that asking again makes no second key; only the secret's hash comes here."""
        try:
            scope, key_id = KeyScope(str(body.get("scope", "API"))), str(body["key_id"])
            hashed = bytes.fromhex(str(body["hash"]))
        except (KeyError, ValueError) as exc:
            raise BadOperation("The key's id, hash or scope is missing or wrong", str(exc)) from exc
        if not re.fullmatch(r"key-[0-9a-f]{12}", key_id) or len(hashed) != 32:
            raise BadOperation("The key's id or hash has another form", "key-<12 hex digits>, and a SHA-256 in hex.")
        key = await self.keys.record(key_id, hashed, scope, str(body.get("description", "")))
        return _json(key_to_json(key), 201)

    async def _prune(self, body: JsonObject) -> Answer:
        try:
            limits = limits_from_json(body)
        except ValueError as exc:
            raise BadOperation("The limits are wrong", str(exc)) from exc
        pruning = self.controller.pruning
        found = await pruning.measure(limits, self.requests)
        if body.get("dry_run") is not True:
            await pruning.prune(limits, self.requests)
        return _json({"pruned": [asdict(p) for p in found]})

    def _shutdown(self, body: JsonObject) -> Answer:
        self.tell(Stop(bool(body.get("stop_runners", False)), bool(body.get("remove", False))))
        return _json({"stopping": True}, 202)

    def _hand_over(self, body: JsonObject) -> Answer:
        python, project = body.get("python"), body.get("project", "")
        if not isinstance(python, str) or not isinstance(project, str):
            raise BadOperation("The successor is missing", "python and project are text.")
        if not (os.path.isabs(python) and os.path.isfile(python) and os.access(python, os.X_OK)):  # noqa: PTH113, PTH117
            raise BadOperation("The successor can't be started", f"{python!r} is no interpreter's absolute path.")
        self.tell(HandOver(python, project))
        return _json({"handing_over": True}, 202)


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


async def _object(body: Body) -> JsonObject:
    try:
        value = json.loads(await body.read())
    except ValueError as exc:
        raise BadOperation("The body is not JSON", str(exc)) from exc
    if not isinstance(value, dict):
        raise BadOperation("The body is not an object")
    return cast("JsonObject", value)


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode())


def _missing(what: str) -> Answer:
    return _json({"summary": f"No such {what}", "detail": ""}, 404)
