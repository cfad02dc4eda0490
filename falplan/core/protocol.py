"""fal's queue protocol as values: routes, bodies, headers, errors; parsed and rendered. Knows no HTTP library."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias

from falplan.core.runtime import LogEntry, Outcome, RequestStatus
from falplan.core.values import Json, JsonObject

REQUEST_ID = "x-fal-request-id"
ERROR_TYPE = "x-fal-error-type"
TIMEOUT_TYPE = "x-fal-request-timeout-type"
REQUEST_TIMEOUT = "x-fal-request-timeout"
RUNNER_HINT = "x-fal-runner-hint"
RUNNER_HINTS = "x-fal-runner-hints"
PRIORITY = "x-fal-queue-priority"
NO_RETRY = "x-fal-no-retry"
NEEDS_RETRY = "x-fal-needs-retry"
STOP_RUNNER = "x-fal-stop-runner"
ENDPOINT = "x-fal-endpoint"
IDEMPOTENCY_KEY = "idempotency-key"

LONGEST_IDEMPOTENCY_KEY = 255
SHORTEST_START_TIMEOUT = 0.1

# -- routes -------------------------------------------------------------------------------------------------------------


class Action(StrEnum):
    """What is asked of a queued request."""

    RESULT = "response"
    STATUS = "status"
    STREAM = "status/stream"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Run:
    """A direct call. `sub_path` is '' or begins with '/'."""

    endpoint: str
    sub_path: str = ""


@dataclass(frozen=True, slots=True)
class Submit:
    """A request for the queue. `sub_path` is '' or begins with '/'."""

    endpoint: str
    sub_path: str = ""


@dataclass(frozen=True, slots=True)
class OfRequest:
    """A queued request, by endpoint and id."""

    endpoint: str
    request_id: str
    action: Action


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin interface; `path` begins with '/'."""

    path: str


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the gateway itself is there."""


Route: TypeAlias = Run | Submit | OfRequest | Admin | Health

_NAMED = re.compile(r"/(run|queue)/([^/]+/[^/]+)(/.*)?")
_REQUEST = re.compile(r"/requests/([^/]+)(?:/(response|status/stream|status|cancel))?/?")
_METHODS = {Action.RESULT: "GET", Action.STATUS: "GET", Action.STREAM: "GET", Action.CANCEL: "PUT"}


def route(method: str, path: str) -> Route | None:
    """What a canonical path asks for; None if nothing is there. One trailing slash makes no difference to the queue."""
    if path.rstrip("/") == "/health":
        return Health()
    if path.startswith("/admin/v1/"):
        return Admin(path.removeprefix("/admin/v1"))
    named = _NAMED.fullmatch(path)
    if named is None:
        return None
    kind, endpoint, rest = named[1], named[2], named[3] or ""
    sub_path = "" if rest == "/" else rest
    if kind == "run":
        return Run(endpoint, sub_path)
    if method == "POST":
        return Submit(endpoint, sub_path)
    return _of_request(method, endpoint, rest)


def _of_request(method: str, endpoint: str, rest: str) -> OfRequest | None:
    found = _REQUEST.fullmatch(rest)
    if found is None:
        return None
    action = Action(found[2] or "response")
    return OfRequest(endpoint, found[1], action) if method == _METHODS[action] else None


def path_of(it: Route) -> str:
    """The path that `route` reads back."""
    match it:
        case Run():
            return f"/run/{it.endpoint}{it.sub_path}"
        case Submit():
            return f"/queue/{it.endpoint}{it.sub_path}"
        case OfRequest(action=Action.RESULT):
            return f"/queue/{it.endpoint}/requests/{it.request_id}"
        case OfRequest():
            return f"/queue/{it.endpoint}/requests/{it.request_id}/{it.action.value}"
        case Admin():
            return f"/admin/v1{it.path}"
        case Health():
            return "/health"


# -- errors -------------------------------------------------------------------------------------------------------------

ERRORS: dict[str, int] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "slow_request": 408,
    "payload_too_large": 413,
    "idempotency_mismatch": 422,
    "queue_full": 429,
    "client_cancelled": 499,
    "client_disconnected": 499,
    "internal_error": 500,
    "runner_server_error": 500,
    "not_implemented": 501,
    "runner_incomplete_response": 502,
    "unavailable": 503,
    "runner_scheduling_failure": 503,
    "runner_connection_timeout": 503,
    "runner_connection_refused": 503,
    "runner_connection_error": 503,
    "runner_disconnected": 503,
    "request_timeout": 504,
    "startup_timeout": 504,
}
"""error_type -> status code. fal's own, and those of the gateway's edge."""

JSON_TYPE = "application/json"


def error_body(error_type: str, detail: str) -> bytes:
    """fal's platform error: `{"detail", "error_type"}`."""
    return json.dumps({"detail": detail, "error_type": error_type}).encode()


def failed(error_type: str, detail: str, *, user_timeout: bool = False) -> Outcome:
    """The outcome of a request that the platform, not the app, ended."""
    headers = {"content-type": JSON_TYPE, ERROR_TYPE: error_type}
    if user_timeout:
        headers[TIMEOUT_TYPE] = "user"
    return Outcome(ERRORS[error_type], headers, error_body(error_type, detail), detail, error_type)


def error_of_answer(status_code: int) -> tuple[str | None, str | None]:
    """`error` and `error_type` of an app's own answer, both None below 400. Input errors carry no type, as on fal."""
    if status_code < 400:
        return None, None
    error = f"Invalid status code: {status_code}"
    return error, "runner_server_error" if status_code >= 500 else None


# -- bodies -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueUrls:
    """Where to ask about a request."""

    response_url: str
    status_url: str
    cancel_url: str


def urls_of(base: str, endpoint: str, request_id: str) -> QueueUrls:
    """`base` is scheme and authority, as https://127.0.0.1:8443."""

    def url(action: Action) -> str:
        return base + path_of(OfRequest(endpoint, request_id, action))

    return QueueUrls(url(Action.RESULT), url(Action.STATUS), url(Action.CANCEL))


@dataclass(frozen=True, slots=True)
class SubmitAnswer:
    """The answer to a submit."""

    request_id: str
    urls: QueueUrls
    queue_position: int

    def to_json(self) -> JsonObject:
        return {
            "status": RequestStatus.IN_QUEUE.value,
            "request_id": self.request_id,
            **_urls(self.urls),
            "queue_position": self.queue_position,
            "logs": None,
            "metrics": {},
        }


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """The answer to a status. `queue_position` is told while IN_QUEUE only; `logs` None when not asked for; times in seconds."""

    status: RequestStatus
    request_id: str
    urls: QueueUrls
    queue_position: int = 0
    logs: tuple[LogEntry, ...] | None = None
    inference_time: float | None = None
    error: str | None = None
    error_type: str | None = None

    def to_json(self) -> JsonObject:
        body: JsonObject = {"status": self.status.value, "request_id": self.request_id, **_urls(self.urls)}
        if self.status is RequestStatus.IN_QUEUE:
            body["queue_position"] = self.queue_position
        body["logs"] = None if self.logs is None else [log_to_json(e) for e in self.logs]
        body["metrics"] = {} if self.inference_time is None else {"inference_time": self.inference_time}
        if self.error is not None:
            body["error"] = self.error
        if self.error_type is not None:
            body["error_type"] = self.error_type
        return body


def parse_submit(body: Mapping[str, Any]) -> SubmitAnswer:
    """Read a submit's answer. Raises KeyError or ValueError when it is none."""
    return SubmitAnswer(str(body["request_id"]), _parse_urls(body), int(body["queue_position"]))


def parse_status(body: Mapping[str, Any]) -> StatusAnswer:
    """Read a status answer. Raises KeyError or ValueError when it is none."""
    logs: Sequence[Mapping[str, Any]] | None = body["logs"]
    seconds = body["metrics"].get("inference_time")
    return StatusAnswer(
        RequestStatus(body["status"]),
        str(body["request_id"]),
        _parse_urls(body),
        int(body.get("queue_position", 0)),
        None if logs is None else tuple(log_from_json(e) for e in logs),
        None if seconds is None else float(seconds),
        body.get("error"),
        body.get("error_type"),
    )


def _urls(urls: QueueUrls) -> dict[str, Json]:
    return {"response_url": urls.response_url, "status_url": urls.status_url, "cancel_url": urls.cancel_url}


def _parse_urls(body: Mapping[str, Any]) -> QueueUrls:
    return QueueUrls(str(body["response_url"]), str(body["status_url"]), str(body["cancel_url"]))


def log_to_json(entry: LogEntry) -> JsonObject:
    """A log line as clients read it; the time in RFC 3339, UTC, milliseconds."""
    at = datetime.fromtimestamp(entry.timestamp, UTC).isoformat(timespec="milliseconds")
    return {
        "message": entry.message,
        "level": entry.level,
        "source": "USER",
        "timestamp": at.replace("+00:00", "Z"),
    }


def log_from_json(body: Mapping[str, Any]) -> LogEntry:
    """Read a log line. The request's id is not part of it."""
    at = datetime.fromisoformat(str(body["timestamp"])).timestamp()
    return LogEntry(at, str(body["level"]), str(body["message"]))


class CancelAnswer(StrEnum):
    """The answers to a cancel, and the status code of each in `CANCEL_CODES`."""

    CANCELLED = "COMPLETED"  #: it had not begun, and never will
    REQUESTED = "CANCELLATION_REQUESTED"  #: it runs; the app was asked to stop
    ALREADY_COMPLETED = "ALREADY_COMPLETED"
    NOT_FOUND = "NOT_FOUND"


CANCEL_CODES: dict[CancelAnswer, int] = {
    CancelAnswer.CANCELLED: 200,
    CancelAnswer.REQUESTED: 202,
    CancelAnswer.ALREADY_COMPLETED: 400,
    CancelAnswer.NOT_FOUND: 404,
}

# -- request headers ----------------------------------------------------------------------------------------------------


class BadHeader(ValueError):
    """A request header does not hold what it must; the text says why."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a caller asks for in headers. `start_timeout` in seconds, from the moment of the call."""

    start_timeout: float | None = None
    low_priority: bool = False
    hint: str | None = None
    no_retry: bool = False
    idempotency_key: str | None = None


def call_options(headers: Mapping[str, str]) -> CallOptions:
    """Read the control headers; `headers` finds lower-case names.

    Raises:
        BadHeader: a value is malformed.
    """
    priority = headers.get(PRIORITY, "normal").strip().lower()
    if priority not in ("normal", "low"):
        raise BadHeader(f"{PRIORITY} must be normal or low")
    key = headers.get(IDEMPOTENCY_KEY)
    if key is not None and not 0 < len(key) <= LONGEST_IDEMPOTENCY_KEY:
        raise BadHeader(f"{IDEMPOTENCY_KEY} must have 1 to {LONGEST_IDEMPOTENCY_KEY} characters")
    return CallOptions(
        _start_timeout(headers.get(REQUEST_TIMEOUT)),
        priority == "low",
        headers.get(RUNNER_HINT) or None,
        headers.get(NO_RETRY, "").strip().lower() in ("1", "true", "yes"),
        key,
    )


def _start_timeout(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        raise BadHeader(f"{REQUEST_TIMEOUT} must be a number of seconds") from None
    if not math.isfinite(seconds) or seconds <= SHORTEST_START_TIMEOUT:
        raise BadHeader(f"{REQUEST_TIMEOUT} must be more than {SHORTEST_START_TIMEOUT} seconds")
    return seconds
