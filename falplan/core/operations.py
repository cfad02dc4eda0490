"""What the command line asks of a control plane, as values: operations and their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from falplan.core.values import JsonObject


class OperationKind(StrEnum):
    """The operations that change something."""

    CONFIGURE = "configure"
    BUILD = "build"
    DEPLOY = "deploy"
    DELETE_APP = "delete_app"
    DELETE_BUILD = "delete_build"
    PUT_SECRET = "put_secret"  # noqa: S105 - a kind of operation
    DELETE_SECRET = "delete_secret"  # noqa: S105
    STOP_RUNNER = "stop_runner"


class OperationStatus(StrEnum):
    """Where an operation stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Operation:
    """A recorded operation. `outcome` holds outputs when done, `{"summary", "detail", "log", "code"}` when failed."""

    operation: str
    kind: OperationKind
    body: JsonObject
    body_digest: str
    status: OperationStatus
    created_at: float
    outcome: JsonObject = field(default_factory=dict)
    ended_at: float | None = None


def name_of_call(method: str, parts: Sequence[str], kind: str = "") -> str:
    """What a mutating call below /admin/v1 is called in failpoints; empty if it changes nothing.

    `parts` are those of its path. An operation is called by its `kind`, and has no name without it.
    """
    if method == "GET" or not parts or tuple(parts) == ("operations", "known"):
        return ""
    if parts[0] == "operations":
        return kind
    return f"{method.lower()}_{parts[0]}"
