"""Operations as an audit log tells them: who asked for what, when, and what came of it. Tells no value of a secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from falplan.core.operations import Asker, Operation, OperationKind, OperationStatus
from falplan.core.resources import GATEWAY
from falplan.core.values import Json, JsonObject


@dataclass(frozen=True, slots=True)
class Entry:
    """One call that changed something, or tried to.

    `at` in seconds since the epoch. `resource` is an address, or an id where there is none; `outcome` is running, done or failed, with
    the reason in `because`.
    """

    at: float
    operation: str
    asker: Asker
    kind: OperationKind
    what: str
    resource: str
    outcome: OperationStatus
    because: str = ""


def audit_entry(operation: Operation) -> Entry:
    """The entry of a recorded operation."""
    tell = WORDS.get(operation.kind)
    because = str(operation.outcome.get("summary", "")) if operation.status is OperationStatus.FAILED else ""
    return Entry(
        operation.created_at,
        operation.operation,
        operation.asker,
        operation.kind,
        tell(operation) if tell else operation.kind.value.replace("_", " "),
        operation.subject,
        operation.status,
        because,
    )


def setting_word(value: Json) -> str:
    """A setting's value for people."""
    if value is None or value == []:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def subject_of_body(body: JsonObject) -> str:
    """What an operation changes, told by its body: an address; the gateway where there is none."""
    return str(body.get("address") or GATEWAY)


def subject_of_call(path: Sequence[str], outcome: JsonObject) -> str:
    """The same for a call with a route of its own: its path below /admin/v1, in parts, and what came of it."""
    if path[0] == "secrets":
        return ".".join(("secret", *path[1:]))
    if path[0] == "keys":
        return str(outcome.get("key_id") or path[-1])
    return GATEWAY


def _deploy(operation: Operation) -> str:
    revision = operation.outcome.get("revision")
    return f"deploy {revision}" if revision else "deploy"


def _override(operation: Operation) -> str:
    settings = cast("JsonObject", operation.body.get("settings", {}))
    return "set " + ", ".join(f"{name} {setting_word(value)}" for name, value in settings.items())


def _stop(operation: Operation) -> str:
    return f"{'replace' if operation.body.get('replace') else 'stop'} {operation.body.get('runner_id')}"


def _key(operation: Operation) -> str:
    scope, description = operation.outcome.get("scope", ""), operation.outcome.get("description")
    return f"create {scope} key" + (f' "{description}"' if description else "")


WORDS: dict[OperationKind, Callable[[Operation], str]] = {
    OperationKind.ADD_HOST: lambda operation: "take",
    OperationKind.REMOVE_HOST: lambda operation: "give up",
    OperationKind.FORGET_HOST: lambda operation: "forget",
    OperationKind.CLOSE_REGION: lambda operation: f"give up region {operation.body.get('region')}",
    OperationKind.DEPLOY: _deploy,
    OperationKind.OVERRIDE: _override,
    OperationKind.SET_REVISION: lambda operation: f"set revision {operation.body.get('revision')}",
    OperationKind.RESET: lambda operation: "reset to what was applied",
    OperationKind.STOP_RUNNER: _stop,
    OperationKind.END_MACHINE: lambda operation: f"end machine {operation.body.get('machine')}",
    OperationKind.REAP: lambda operation: f"end the machines of {operation.body.get('control_plane')}",
    OperationKind.CREATE_KEY: _key,
    OperationKind.PUT_SECRET: lambda operation: f"set {operation.outcome.get('version', '')}".strip(),
    OperationKind.DELETE_SECRET: lambda operation: "delete",
    OperationKind.UNSET_SECRET: lambda operation: "unset",
    OperationKind.DELETE_APP: lambda operation: "delete",
    OperationKind.DELETE_BUILD: lambda operation: "delete",
    OperationKind.PUT_BUNDLE: lambda operation: f"upload files {str(operation.body.get('digest', ''))[:12]}",
    OperationKind.SHUT_DOWN: lambda operation: "shut down",
    OperationKind.HAND_OVER: lambda operation: "hand over to a successor",
}
"""How each kind is told; the others by their names."""
