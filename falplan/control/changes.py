"""The mutating calls of the admin interface, other than operations: keys, secrets, bundles, pruning, ending."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol, cast

from falplan import clock
from falplan.control.account import Account, key_to_json
from falplan.control.answers import Answer, Body, as_json, missing, read_object
from falplan.control.bundle_store import BundleStore
from falplan.control.controller import Controller
from falplan.control.once import Act, Call, Once, check_id
from falplan.control.operations import BadOperation
from falplan.core.operations import CALLS, Asker, Operation, OperationKind, OperationStatus
from falplan.core.pruning import limits_from_json
from falplan.core.resources import GATEWAY
from falplan.core.runtime import KEY_ID, Key, KeyScope
from falplan.core.secret import SecretValue, misfit
from falplan.core.values import Json, JsonObject, digest
from falplan.stores.runtime.interfaces import RequestStore
from falplan.stores.runtime.secrets import OperationTaken, SecretStore

SECRET_VERSION = re.compile(r"secret-[0-9a-f]{12}")


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


class Keys(Protocol):
    """Callers' keys, as the gateway's store keeps them."""

    async def record(self, key_id: str, hashed: bytes, scope: KeyScope, description: str) -> Key: ...
    async def revoke(self, key_id: str) -> bool: ...
    def all(self) -> list[Key]: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call as it came in. `parts` are those of its path below /admin/v1."""

    method: str
    parts: tuple[str, ...]
    query: Mapping[str, str]
    body: Body
    asker: Asker


class _Missing(Exception):
    """What a call names is not there."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Carries such calls out, each once. `tell` asks the control plane to end."""

    controller: Controller
    account: Account
    keys: Keys
    secrets: SecretStore
    bundles: BundleStore
    requests: RequestStore
    tell: Callable[[Ending], None]
    once: Once

    async def answer(
        self, method: str, parts: tuple[str, ...], query: Mapping[str, str], body: Body, asker: Asker
    ) -> Answer:
        """One call; 404 if there is no such route, or nothing that it names."""
        asked = _Asked(method, parts, query, body, asker)
        match (method, *parts):
            case ("PUT", "bundles", bundle):  # the digest of its content names the operation
                return await self._put_bundle(bundle, asked)
            case ("PUT", "secrets", environment, name):  # its outcome is recorded with the value, in one transaction
                return await self._put_secret(environment, name, asked)
            case ("DELETE", "secrets", _, _):
                return await self._once(asked, self._unset_secret)
            case ("POST", "keys"):
                return await self._once(asked, self._create_key, status=201)
            case ("DELETE", "keys", _):
                return await self._once(asked, self._revoke_key)
            case ("POST", "prune"):
                return await self._once(asked, self._prune)
            case ("POST", "settled"):
                return await self._once(asked, self._settle)
            case ("POST", "shutdown"):
                return await self._once(asked, self._shut_down, status=202)
            case ("POST", "handover"):
                return await self._once(asked, self._hand_over, status=202)
            case _:
                return missing("route")

    async def _once(self, asked: _Asked, act: Act, *, status: int = 200) -> Answer:
        kind, content = CALLS[asked.method, asked.parts[0]], await read_object(asked.body)
        call = Call(asked.query.get("operation", ""), kind, "/".join(asked.parts), content, asked.asker)
        try:
            return as_json(await self.once.outcome(call, act), status)
        except _Missing as exc:
            return missing(str(exc))

    async def _put_bundle(self, bundle: str, asked: _Asked) -> Answer:
        """Each upload that arrives whole is recorded; a second one of the same content changes nothing else."""
        await self.bundles.keep(bundle, asked.body.chunks())
        about, now = cast("JsonObject", {"digest": bundle}), clock.now()
        await self.once.note(
            Operation(
                clock.new_id("upload"),
                OperationKind.PUT_BUNDLE,
                about,
                digest(about),
                OperationStatus.DONE,
                now,
                about,
                now,
                asked.asker,
                GATEWAY,
            )
        )
        return as_json(about)

    async def _put_secret(self, environment: str, name: str, asked: _Asked) -> Answer:
        operation, proposed = asked.query.get("operation", ""), asked.query.get("version")
        check_id(operation)
        if proposed and not SECRET_VERSION.fullmatch(proposed):
            raise BadOperation("The version has another form", "secret-<12 hex digits>.")
        value = SecretValue(await asked.body.read())
        why = misfit(name, value)
        if why:
            raise BadOperation("A secret can't be delivered", f"{name}: {why}.")
        try:
            version = await self.secrets.put(operation, environment, name, value, proposed, asker=asked.asker)
        except OperationTaken as exc:
            raise BadOperation(exc.summary, exc.detail) from None
        return as_json({"version": version})

    async def _unset_secret(self, call: Call) -> JsonObject:
        _, environment, name = call.path.split("/")
        rows = {(r["environment"], r["name"]): r for r in self.account.secrets()}
        row = rows.get((environment, name))
        if row is None:
            raise _Missing("secret")
        if row["used_by"]:
            users = ", ".join(cast("list[str]", row["used_by"]))
            detail = f"{users} use it. Take it out of the spec and apply: that removes it."
            raise BadOperation("The secret is in use", detail)
        outcome: JsonObject = {"address": row["address"]}
        await self.secrets.remove(environment, name, call.ended(outcome))
        return outcome

    async def _create_key(self, call: Call) -> JsonObject:
        """The caller made id and secret, so that the secret is sent nowhere; only its hash comes here."""
        try:
            scope, key_id = KeyScope(str(call.body.get("scope", "API"))), str(call.body["key_id"])
            hashed = bytes.fromhex(str(call.body["hash"]))
        except (KeyError, ValueError) as exc:
            raise BadOperation("The key's id, hash or scope is missing or wrong", str(exc)) from exc
        if not KEY_ID.fullmatch(key_id) or len(hashed) != 32:
            raise BadOperation("The key's id or hash has another form", "key-<12 hex digits>, and a SHA-256 in hex.")
        return key_to_json(await self.keys.record(key_id, hashed, scope, str(call.body.get("description", ""))))

    async def _revoke_key(self, call: Call) -> JsonObject:
        key_id = call.path.partition("/")[2]
        if not await self.keys.revoke(key_id):
            raise _Missing("key")
        return {"key_id": key_id}

    async def _prune(self, call: Call) -> JsonObject:
        try:
            limits = limits_from_json(call.body)
        except ValueError as exc:
            raise BadOperation("The limits are wrong", str(exc)) from exc
        pruning = self.controller.pruning
        found = await pruning.measure(limits, self.requests)
        if call.body.get("dry_run") is not True:
            await pruning.prune(limits, self.requests)
        return {"pruned": [cast("JsonObject", asdict(p)) for p in found]}

    async def _settle(self, call: Call) -> JsonObject:
        def outcome(ended: list[str]) -> JsonObject:
            return {"ended": list[Json](ended)}

        return outcome(await self.controller.adoption.settle(lambda ended: call.ended(outcome(ended))))

    async def _shut_down(self, call: Call) -> JsonObject:
        outcome: JsonObject = {"stopping": True}
        await self.once.record(call, outcome)
        self.tell(Stop(bool(call.body.get("stop_runners", False)), bool(call.body.get("remove", False))))
        return outcome

    async def _hand_over(self, call: Call) -> JsonObject:
        successor, outcome = _successor(call.body), cast("JsonObject", {"handing_over": True})
        await self.once.record(call, outcome)
        self.tell(successor)
        return outcome


def _successor(body: JsonObject) -> HandOver:
    python, project = body.get("python"), body.get("project", "")
    if not isinstance(python, str) or not isinstance(project, str):
        raise BadOperation("The successor is missing", "python and project are text.")
    if not (os.path.isabs(python) and os.path.isfile(python) and os.access(python, os.X_OK)):  # noqa: PTH113, PTH117
        raise BadOperation("The successor can't be started", f"{python!r} is no interpreter's absolute path.")
    return HandOver(python, project)
