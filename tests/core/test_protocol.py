"""fal's protocol: what is rendered is parsed back, and bodies hold the keys that fal's clients need."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core import protocol
from falplan.core.protocol import (
    Action,
    Admin,
    BadHeader,
    CallOptions,
    Health,
    OfRequest,
    QueueUrls,
    Route,
    Run,
    StatusAnswer,
    Submit,
    SubmitAnswer,
    call_options,
    error_of_answer,
    failed,
    parse_status,
    parse_submit,
    path_of,
    route,
    urls_of,
)
from falplan.core.runtime import LogEntry, RequestStatus

NAME = st.from_regex(r"[a-z0-9][a-z0-9-]{0,8}", fullmatch=True)
ENDPOINT = st.builds("{}/{}".format, NAME, NAME)
SUB_PATH = st.one_of(st.just(""), st.builds("/{}".format, NAME), st.builds("/{}/{}".format, NAME, NAME))
URLS = st.builds(QueueUrls, st.text(), st.text(), st.text())
ROUTES: st.SearchStrategy[Route] = st.one_of(
    st.builds(Run, ENDPOINT, SUB_PATH),
    st.builds(Submit, ENDPOINT, SUB_PATH),
    st.builds(OfRequest, ENDPOINT, NAME, st.sampled_from(Action)),
    st.builds(Admin, st.builds("/{}".format, NAME)),
    st.just(Health()),
)
LOGS = st.builds(
    LogEntry,
    st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000),
    st.sampled_from(["STDOUT", "STDERR", "SYSTEM"]),
    st.text(),
)


def method_of(it: Route) -> str:
    match it:
        case Submit():
            return "POST"
        case OfRequest(action=Action.CANCEL):
            return "PUT"
        case _:
            return "GET"


@given(ROUTES)
def test_a_route_is_read_back_from_its_path(it: Route) -> None:
    assert route(method_of(it), path_of(it)) == it


@given(st.text(min_size=1), URLS, st.integers(0, 10**6))
def test_a_submit_answer_is_read_back(request_id: str, urls: QueueUrls, position: int) -> None:
    answer = SubmitAnswer(request_id, urls, position)

    assert parse_submit(json.loads(json.dumps(answer.to_json()))) == answer


@given(
    st.builds(
        StatusAnswer,
        st.sampled_from(RequestStatus),
        st.text(),
        URLS,
        st.just(0),
        st.one_of(st.none(), st.lists(LOGS).map(tuple)),
        st.one_of(st.none(), st.floats(0, 1e6)),
        st.one_of(st.none(), st.text()),
        st.one_of(st.none(), st.sampled_from(sorted(protocol.ERRORS))),
    )
)
def test_a_status_answer_is_read_back(answer: StatusAnswer) -> None:
    assert parse_status(json.loads(json.dumps(answer.to_json()))) == answer


@pytest.mark.parametrize(
    ("status", "needed"),
    [
        (RequestStatus.IN_QUEUE, {"queue_position"}),
        (RequestStatus.IN_PROGRESS, {"logs"}),
        (RequestStatus.COMPLETED, {"logs", "metrics"}),
    ],
)
def test_a_status_holds_what_clients_read(status: RequestStatus, needed: set[str]) -> None:
    body = StatusAnswer(status, "id", urls_of("https://x", "a/b", "id")).to_json()

    assert needed | {"status", "request_id", "response_url", "status_url", "cancel_url"} <= set(body)
    assert "error" not in body


@pytest.mark.parametrize(
    ("method", "path", "it"),
    [
        ("POST", "/run/acme/app", Run("acme/app")),
        ("GET", "/run/acme/app/", Run("acme/app")),
        ("DELETE", "/run/acme/app/sub/x", Run("acme/app", "/sub/x")),
        ("POST", "/queue/acme/app--staging/sub", Submit("acme/app--staging", "/sub")),
        ("GET", "/queue/acme/app/requests/i", OfRequest("acme/app", "i", Action.RESULT)),
        ("GET", "/queue/acme/app/requests/i/", OfRequest("acme/app", "i", Action.RESULT)),
        ("GET", "/queue/acme/app/requests/i/response", OfRequest("acme/app", "i", Action.RESULT)),
        ("GET", "/queue/acme/app/requests/i/status/", OfRequest("acme/app", "i", Action.STATUS)),
        ("GET", "/queue/acme/app/requests/i/status/stream", OfRequest("acme/app", "i", Action.STREAM)),
        ("PUT", "/queue/acme/app/requests/i/cancel", OfRequest("acme/app", "i", Action.CANCEL)),
        ("GET", "/queue/acme/app/requests/i/cancel", None),
        ("DELETE", "/queue/acme/app/requests/i", None),
        ("GET", "/queue/acme/app", None),
        ("GET", "/queue/acme", None),
        ("GET", "/run/acme", None),
        ("GET", "/runs/acme/app", None),
        ("GET", "/admin/v2/x", None),
        ("GET", "/admin/v1", None),
        ("GET", "/", None),
        ("GET", "/health/", Health()),
    ],
)
def test_paths_lead_to_routes(method: str, path: str, it: Route | None) -> None:
    assert route(method, path) == it


@pytest.mark.parametrize("error_type", sorted(protocol.ERRORS))
def test_every_platform_error_has_its_code_and_form(error_type: str) -> None:
    outcome = failed(error_type, "why")

    assert outcome.status_code == protocol.ERRORS[error_type] >= 400
    assert json.loads(outcome.body) == {"detail": "why", "error_type": error_type}
    assert outcome.headers[protocol.ERROR_TYPE] == error_type


def test_an_answer_below_400_is_no_error() -> None:
    assert error_of_answer(204) == (None, None)
    assert error_of_answer(422) == ("Invalid status code: 422", None)
    assert error_of_answer(500) == ("Invalid status code: 500", "runner_server_error")


def test_control_headers_are_read() -> None:
    headers = {
        protocol.REQUEST_TIMEOUT: "30.0",
        protocol.PRIORITY: "LOW",
        protocol.RUNNER_HINT: "lora-7",
        protocol.NO_RETRY: "yes",
        protocol.IDEMPOTENCY_KEY: "k",
    }

    assert call_options(headers) == CallOptions(30.0, True, "lora-7", True, "k")
    assert call_options({}) == CallOptions()


@pytest.mark.parametrize(
    "headers",
    [{protocol.REQUEST_TIMEOUT: t} for t in ("x", "nan", "inf", "-1", "0", "0.1", "")]
    + [{protocol.PRIORITY: "high"}, {protocol.IDEMPOTENCY_KEY: ""}, {protocol.IDEMPOTENCY_KEY: "k" * 256}],
)
def test_a_malformed_control_header_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadHeader):
        call_options(headers)
