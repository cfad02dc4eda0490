"""The life of a request: its states, and whether a failed attempt is followed by another. Knows no clock and no store."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from falplan.core.runtime import Outcome, RequestStatus

MAX_ATTEMPTS = 10
"""fal's limit."""

LONGEST_DELAY = 30.0
"""Seconds between two attempts."""


class Event(StrEnum):
    """What may happen to a request."""

    STARTED = "started"  #: a runner got it
    REQUEUED = "requeued"  #: the attempt failed, or its gateway ended; another one follows
    ENDED = "ended"  #: the attempt's answer is final
    EXPIRED = "expired"  #: no runner got it in time
    CANCELLED = "cancelled"  #: the caller took it back


TRANSITIONS: dict[RequestStatus, dict[Event, RequestStatus]] = {
    RequestStatus.IN_QUEUE: {
        Event.STARTED: RequestStatus.IN_PROGRESS,
        Event.EXPIRED: RequestStatus.COMPLETED,
        Event.CANCELLED: RequestStatus.COMPLETED,
    },
    RequestStatus.IN_PROGRESS: {
        Event.REQUEUED: RequestStatus.IN_QUEUE,
        Event.ENDED: RequestStatus.COMPLETED,
        Event.CANCELLED: RequestStatus.COMPLETED,
    },
    RequestStatus.COMPLETED: {},
}
"""state -> event -> next state. What is not listed does not happen: a result, once there, never changes."""


class Failure(StrEnum):
    """Why an attempt brought no answer."""

    REFUSED = "refused"  #: the runner took no connection: it has seen nothing of the request
    LOST = "lost"  #: the connection broke before an answer began
    INCOMPLETE = "incomplete"  #: the connection broke within the answer
    TIMEOUT = "timeout"  #: the attempt ran longer than request_timeout


@dataclass(frozen=True, slots=True)
class _Rule:
    condition: str  # name in skip_retry_conditions, '' for "never tried again"
    suspect: bool  # whether the runner must be replaced
    because: str


FAILURES: dict[Failure, _Rule] = {
    Failure.REFUSED: _Rule("connection_error", True, "the runner refused the connection"),
    Failure.LOST: _Rule("connection_error", True, "the runner was lost"),
    Failure.INCOMPLETE: _Rule("connection_error", True, "the runner's answer was cut short"),
    Failure.TIMEOUT: _Rule("timeout", True, "the attempt ran longer than request_timeout"),
}

ANSWERS: dict[int, _Rule] = {
    503: _Rule("server_error", True, "the runner answered 503"),
    504: _Rule("server_error", False, "the runner answered 504"),
}
"""Answers that are tried again by themselves; all others are final unless the app says so."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt follows after `delay` seconds."""

    delay: float
    because: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The attempt's outcome is the request's."""

    because: str


def decide_retry(
    result: Outcome | Failure,
    *,
    attempt: int,
    no_retry: bool = False,
    skip_conditions: Collection[str] = (),
    needs_retry: str | None = None,
) -> Retry | Finish:
    """Whether the request is tried again after its `attempt`-th attempt (from 1).

    `needs_retry` is the app's X-Fal-Needs-Retry header, looked at on 5xx and 429 only; `skip_conditions` are the app's
    skip_retry_conditions. The caller's X-Fal-No-Retry beats everything.
    """
    rule = _rule(result, needs_retry)
    if rule is None or not rule.condition:
        return Finish("the runner's answer is final" if rule is None else rule.because)
    if no_retry:
        return Finish(f"{rule.because}; the caller asked for no retry")
    if rule.condition in skip_conditions:
        return Finish(f"{rule.because}; skip_retry_conditions holds {rule.condition}")
    if attempt >= MAX_ATTEMPTS:
        return Finish(f"{rule.because}; that was attempt {attempt} of {MAX_ATTEMPTS}")
    return Retry(min(LONGEST_DELAY, 0.1 * 2 ** (attempt - 1)), f"{rule.because} (attempt {attempt} of {MAX_ATTEMPTS})")


def why_suspect(result: Outcome | Failure) -> str | None:
    """Why the runner that gave this result must be replaced; None if it is well."""
    rule = FAILURES[result] if isinstance(result, Failure) else ANSWERS.get(result.status_code)
    return rule.because if rule and rule.suspect else None


def _rule(result: Outcome | Failure, needs_retry: str | None) -> _Rule | None:
    if isinstance(result, Failure):
        return FAILURES[result]
    code = result.status_code
    asked = (needs_retry or "").strip() if code >= 500 or code == 429 else ""
    if asked == "1":
        return _Rule("server_error", False, f"the app answered {code} and asked for a retry")
    if asked == "0":
        return _Rule("", False, f"the app answered {code} and asked for no retry")
    return ANSWERS.get(code)
