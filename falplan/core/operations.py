"""What the command line asks of a control plane, as values: operations and their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from falplan.core.values import JsonObject


class OperationKind(StrEnum):
    """The operations that change something."""

    CONFIGURE = "configure"
    ADD_HOST = "add_host"
    REMOVE_HOST = "remove_host"
    FORGET_HOST = "forget_host"
    CLOSE_REGION = "close_region"
    BUILD = "build"
    DEPLOY = "deploy"
    DELETE_APP = "delete_app"
    DELETE_BUILD = "delete_build"
    PUT_SECRET = "put_secret"  # noqa: S105 - a kind of operation
    DELETE_SECRET = "delete_secret"  # noqa: S105
    STOP_RUNNER = "stop_runner"
    END_MACHINE = "end_machine"
    REAP = "reap"
    OVERRIDE = "override"
    SET_REVISION = "set_revision"
    RESET = "reset"
    PUT_BUNDLE = "put_bundle"
    UNSET_SECRET = "unset_secret"  # noqa: S105
    CREATE_KEY = "create_key"
    REVOKE_KEY = "revoke_key"
    PRUNE = "prune"
    SETTLE = "settle"
    SHUT_DOWN = "shut_down"
    HAND_OVER = "hand_over"


class OperationStatus(StrEnum):
    """Where an operation stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked: the key that came with the call, and what it was made for. Both empty for what was asked before that was kept."""

    key_id: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.key_id})" if self.name and self.key_id else self.key_id


NOBODY = Asker()
"""Of what nobody is known to have asked for."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A recorded operation. `outcome` holds outputs when done, `{"summary", "detail", "log", "code"}` when failed.

    `subject` is the address of what it changes, or the id where there is no address; empty where it is the control plane itself.
    """

    operation: str
    kind: OperationKind
    body: JsonObject
    body_digest: str
    status: OperationStatus
    created_at: float
    outcome: JsonObject = field(default_factory=dict)
    ended_at: float | None = None
    asker: Asker = NOBODY
    subject: str = ""


CALLS = {
    ("POST", "keys"): OperationKind.CREATE_KEY,
    ("DELETE", "keys"): OperationKind.REVOKE_KEY,
    ("PUT", "secrets"): OperationKind.PUT_SECRET,
    ("DELETE", "secrets"): OperationKind.UNSET_SECRET,
    ("POST", "prune"): OperationKind.PRUNE,
    ("POST", "settled"): OperationKind.SETTLE,
    ("POST", "shutdown"): OperationKind.SHUT_DOWN,
    ("POST", "handover"): OperationKind.HAND_OVER,
}
"""Operations that have a route of their own below /admin/v1: its method and first part. They end before they are answered."""


def name_of_call(method: str, parts: Sequence[str]) -> str:
    """What a mutating call with a route of its own is called in failpoints; empty for everything else. `parts` are those of its path."""
    route = (method, parts[0] if parts else "")
    if route == ("PUT", "bundles"):
        return OperationKind.PUT_BUNDLE.value
    return CALLS[route].value if route in CALLS else ""
