"""What the control plane works with, as values: live apps, runners, requests, demand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from falplan.core.secret import SecretValue
from falplan.core.values import JsonObject


class AuthMode(StrEnum):
    """Who may call an app."""

    PRIVATE = "private"  #: callers with a key of this control plane
    PUBLIC = "public"  #: anybody who reaches the gateway


@dataclass(frozen=True, slots=True)
class LiveApp:
    """What the gateway needs to know of an app, by its endpoint id.

    `endpoint` is `owner/name` in `main` and `owner/name--environment` elsewhere. Times in seconds; `request_start_timeout`
    None means no limit. `skip_retry_conditions` holds names out of timeout, server_error, connection_error.
    """

    endpoint: str
    auth: AuthMode = AuthMode.PRIVATE
    request_timeout: float = 3600
    request_start_timeout: float | None = None
    skip_retry_conditions: tuple[str, ...] = ()


class RunnerState(StrEnum):
    """A runner's life, in fal's words."""

    PENDING = "PENDING"  #: intent recorded, process not seen yet
    SETUP = "SETUP"  #: process started, not ready
    IDLE = "IDLE"  #: ready, no request
    RUNNING = "RUNNING"  #: ready, serving at least one request
    DRAINING = "DRAINING"  #: takes no new request; finishes those it has
    TERMINATING = "TERMINATING"  #: told to stop
    TERMINATED = "TERMINATED"  #: gone; its row is history


@dataclass(frozen=True, slots=True)
class RunnerAccess:
    """What connecting to a runner by TLS takes: the certificate that it shows (PEM), and the token that it wants to see (hexadecimal)."""

    certificate: str = field(repr=False)
    token: SecretValue = field(hash=False)


@dataclass(frozen=True, slots=True)
class RunnerTarget:
    """A ready runner that may be given requests.

    `address` is `unix:/path`, `tcp:127.0.0.1:PORT`, or `tls:HOST:PORT`, which takes an `access`. `max_multiplexing` is the number of
    requests that it serves at a time.
    """

    runner_id: str
    endpoint: str
    revision: str
    address: str
    max_multiplexing: int = 1
    access: RunnerAccess | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What callers want of one app at one moment.

    `waiting` holds the age in seconds of each request that has no runner yet, queued and direct alike. `in_flight` maps a
    runner id to its number of requests. `idle_for` maps a runner id to the seconds since its last request ended, for those
    that have served one and serve none now.
    """

    endpoint: str
    waiting: tuple[float, ...] = ()
    in_flight: Mapping[str, int] = field(default_factory=dict)
    idle_for: Mapping[str, float] = field(default_factory=dict)


class RequestStatus(StrEnum):
    """fal's three; failed and cancelled requests are COMPLETED with an error."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: the app's own answer, or falplan's error in the same form.

    `headers` are the app's, lower-case names. `error` and `error_type` are None for a 2xx answer. `runner_id` is the last one tried.
    """

    status_code: int
    headers: Mapping[str, str]
    body: bytes
    error: str | None = None
    error_type: str | None = None
    inference_time: float | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line that a runner printed. `timestamp` in seconds since the epoch; `level` STDOUT, STDERR or SYSTEM."""

    timestamp: float
    level: str
    message: str
    request_id: str | None = None


KEY_ID = re.compile(r"key-[0-9a-f]{12}")
"""The form of a key's id."""


class KeyScope(StrEnum):
    """What a key may do."""

    API = "API"  #: call apps
    ADMIN = "ADMIN"  #: everything, the admin interface included


@dataclass(frozen=True, slots=True)
class Key:
    """A caller's key, without its secret. Times in seconds since the epoch."""

    key_id: str
    scope: KeyScope
    description: str
    created_at: float
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in the control plane, and why. `subject` is an address, endpoint or runner id."""

    at: float
    kind: str
    subject: str
    message: str
    detail: JsonObject = field(default_factory=dict)
