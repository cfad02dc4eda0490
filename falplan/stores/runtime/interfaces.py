"""What the gateway asks of a store of requests and keys, whatever database holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from falplan.core.errors import FalplanError
from falplan.core.runtime import Key, KeyScope, Outcome, RequestStatus


class IdempotencyConflict(FalplanError):
    """The same Idempotency-Key came with another request."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """`caller` is a key id, '' for callers without one. `digest` is of everything that was asked. `expires_at` in epoch seconds."""

    caller: str
    name: str
    digest: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request as it is accepted.

    `sub_path` is '' or begins with '/', canonical. `headers` are those for the runner. `start_by` in epoch seconds: no attempt
    begins later.
    """

    request_id: str
    endpoint: str
    sub_path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    created_at: float
    low_priority: bool = False
    hint: str | None = None
    no_retry: bool = False
    start_by: float | None = None
    idempotency: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request without its payloads. `attempts` counts those begun; `runners` are those tried, in order. Times in epoch seconds."""

    request_id: str
    endpoint: str
    sub_path: str
    query: str
    headers: Mapping[str, str]
    low_priority: bool
    hint: str | None
    no_retry: bool
    created_at: float
    start_by: float | None
    status: RequestStatus
    attempts: int
    runners: tuple[str, ...]
    error: str | None = None
    error_type: str | None = None
    inference_time: float | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """The id that the caller gets. `is_new` is False when an Idempotency-Key led to an earlier request."""

    request_id: str
    is_new: bool


class RequestStore(Protocol):
    """Durable requests. Each coroutine returns once its change is durable and raises StoreUnavailable if it is not.

    An attempt is named by its token. Only the attempt whose token is current may change a request, so that a late one
    can't overwrite what happened since.
    """

    async def add(self, request: NewRequest) -> Added:
        """Accept a request. Raises IdempotencyConflict."""
        ...

    async def start(self, request_id: str, *, token: str, runner_id: str, now: float) -> bool:
        """Begin an attempt and count it. False if the request does not wait any more."""
        ...

    async def requeue(self, request_id: str, *, token: str) -> bool:
        """Give the request back to the queue. False if the attempt is not the current one."""
        ...

    async def complete(self, request_id: str, *, token: str, outcome: Outcome, now: float, expires_at: float) -> bool:
        """End the request with the outcome. False if the attempt is not the current one; nothing changes then."""
        ...

    async def give_up(self, request_id: str, *, outcome: Outcome, now: float, expires_at: float) -> bool:
        """End a request that no attempt runs for. False if it does not wait."""
        ...

    async def cancel(
        self, endpoint: str, request_id: str, *, outcome: Outcome, now: float, expires_at: float
    ) -> RequestStatus | None:
        """End an unfinished request. Returns the status it had before; None if there is no such request of that endpoint."""
        ...

    async def recover(self) -> list[StoredRequest]:
        """At start: give requests in progress back to the queue; return all unfinished ones in order of acceptance."""
        ...

    async def prune(self, *, now: float) -> int:
        """Forget finished requests and idempotency keys whose time is over. Returns the number of requests. Never unfinished ones."""
        ...

    def finished(self, *, now: float, ended_before: float | None) -> tuple[int, int]:
        """Number and result bytes of finished requests that ended before then; None: of those whose time is over."""
        ...

    async def forget(self, *, now: float, ended_before: float | None) -> int:
        """Forget those. Returns their number. Idempotency keys stay until their own time is over."""
        ...

    def unfinished(self) -> list[StoredRequest]:
        """All unfinished requests in order of acceptance."""
        ...

    def get(self, endpoint: str, request_id: str) -> StoredRequest | None:
        """A request of that endpoint, None if there is none or it was forgotten."""
        ...

    def body(self, request_id: str) -> bytes:
        """What the caller sent. Raises LookupError for an unknown request."""
        ...

    def result(self, endpoint: str, request_id: str) -> Outcome | None:
        """How a finished request ended, None while it has not, or if there is none."""
        ...

    def queue_position(self, endpoint: str, request_id: str) -> int | None:
        """Requests of the endpoint that come first, 0 for the next one; None if it does not wait."""
        ...


class KeyStore(Protocol):
    """Callers' keys. Secrets are never stored, only hashes of them."""

    async def create(self, scope: KeyScope, description: str) -> tuple[Key, str]:
        """Make a key. The text `id:secret` is returned this once and can't be had again."""
        ...

    async def revoke(self, key_id: str) -> bool:
        """End a key at once. True also if it had ended before; False if there is none."""
        ...

    def verify(self, presented: str) -> Key | None:
        """The key that `id:secret` belongs to; None for anything else, however malformed."""
        ...

    def all(self) -> list[Key]:
        """Every key, ended ones included, in order of creation."""
        ...
