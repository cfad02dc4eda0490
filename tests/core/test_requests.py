"""Which attempts are followed by another one: fal's table, line by line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.requests import (
    LONGEST_DELAY,
    MAX_ATTEMPTS,
    TRANSITIONS,
    Event,
    Failure,
    Finish,
    Retry,
    decide_retry,
    why_suspect,
)
from falplan.core.runtime import Outcome, RequestStatus


def answer(code: int) -> Outcome:
    return Outcome(code, {}, b"")


RESULTS = st.one_of(st.sampled_from(Failure), st.integers(200, 599).map(answer))


@pytest.mark.parametrize(
    ("result", "retried", "suspect"),
    [
        (answer(200), False, False),
        (answer(302), False, False),
        (answer(404), False, False),
        (answer(422), False, False),
        (answer(429), False, False),
        (answer(500), False, False),
        (answer(502), False, False),
        (answer(503), True, True),
        (answer(504), True, False),
        (Failure.REFUSED, True, True),
        (Failure.LOST, True, True),
        (Failure.INCOMPLETE, True, True),
        (Failure.TIMEOUT, True, True),
    ],
)
def test_fals_table(result: Outcome | Failure, retried: bool, suspect: bool) -> None:
    assert isinstance(decide_retry(result, attempt=1), Retry) == retried
    assert (why_suspect(result) is not None) == suspect


@pytest.mark.parametrize(
    ("code", "needs_retry", "retried"),
    [(500, "1", True), (429, "1", True), (400, "1", False), (200, "1", False), (503, "0", False), (500, "x", False)],
)
def test_the_app_has_a_say_on_5xx_and_429_only(code: int, needs_retry: str, retried: bool) -> None:
    assert isinstance(decide_retry(answer(code), attempt=1, needs_retry=needs_retry), Retry) == retried


@pytest.mark.parametrize(
    ("result", "condition"),
    [
        (Failure.TIMEOUT, "timeout"),
        (answer(503), "server_error"),
        (answer(504), "server_error"),
        (Failure.LOST, "connection_error"),
        (Failure.REFUSED, "connection_error"),
    ],
)
def test_a_skipped_condition_is_not_tried_again(result: Outcome | Failure, condition: str) -> None:
    others = {"timeout", "server_error", "connection_error"} - {condition}

    assert isinstance(decide_retry(result, attempt=1, skip_conditions=[condition]), Finish)
    assert isinstance(decide_retry(result, attempt=1, skip_conditions=others), Retry)


@given(RESULTS, st.integers(1, 20), st.sampled_from([None, "0", "1"]))
def test_no_retry_beats_everything_and_attempts_are_limited(
    result: Outcome | Failure, attempt: int, needs_retry: str | None
) -> None:
    assert isinstance(decide_retry(result, attempt=attempt, no_retry=True, needs_retry=needs_retry), Finish)
    decision = decide_retry(result, attempt=attempt, needs_retry=needs_retry)
    assert decision.because
    if isinstance(decision, Retry):
        assert attempt < MAX_ATTEMPTS
        assert 0 < decision.delay <= LONGEST_DELAY


def test_delays_grow() -> None:
    decisions = [decide_retry(Failure.LOST, attempt=n) for n in range(1, MAX_ATTEMPTS)]
    delays = [d.delay for d in decisions if isinstance(d, Retry)]

    assert delays == sorted(delays)
    assert len(delays) == MAX_ATTEMPTS - 1


def test_nothing_leads_out_of_completed() -> None:
    assert TRANSITIONS[RequestStatus.COMPLETED] == {}
    assert set(TRANSITIONS) == set(RequestStatus)
    for status in (RequestStatus.IN_QUEUE, RequestStatus.IN_PROGRESS):
        assert TRANSITIONS[status][Event.CANCELLED] is RequestStatus.COMPLETED
