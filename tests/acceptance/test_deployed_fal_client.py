"""An unmodified fal.App, deployed by `apply`, called by the unmodified fal_client package through `falplan exec`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.sandbox import Sandbox

APPS = Path(__file__).parents[1] / "apps"
CLIENT = Path(__file__).with_name("deployed_client.py")
ANSWER = {"message": "hello you", "prompt": "a cat in the rain", "six": "six"}

pytestmark = pytest.mark.xdist_group("deployed")


@dataclass
class Deployment:
    """The project of tests/apps/deployed in a sandbox."""

    box: Sandbox

    def __post_init__(self) -> None:
        shutil.rmtree(self.box.project)
        shutil.copytree(APPS / "deployed", self.box.project)

    @property
    def trace(self) -> list[str]:
        """What the app wrote when it was set up and torn down, over all its runners."""
        path = self.box.folder / "trace.txt"
        return path.read_text().split() if path.exists() else []

    def falplan(self, *args: str, code: int = 0, key: str = "") -> tuple[str, str]:
        """Run a command; (stdout, stderr)."""
        ran = self.box.run(*args, **({"FALPLAN_KEY": key} if key else {}))
        assert ran.code == code, f"exit {ran.code}\n{ran.out}\n{ran.err}\n{self.box.serve_log()}"
        return ran.out, ran.err

    def client(self, scenario: str, *, key: str = "") -> Any:
        """What a use of fal_client came to."""
        out, _ = self.falplan("exec", "--", sys.executable, str(CLIENT), scenario, key=key)
        return json.loads(out)

    def runners(self) -> list[Any]:
        return list(json.loads(self.falplan("runners", "list", "--json")[0]))


@pytest.fixture(scope="module")
def live() -> Iterator[Deployment]:
    """The app, deployed once for all tests that leave it as it is."""
    yield from deployed()


@pytest.fixture
def own() -> Iterator[Deployment]:
    """The app, deployed for one test."""
    yield from deployed()


def deployed() -> Iterator[Deployment]:
    deployment = Deployment(Sandbox())
    try:
        spec = deployment.box.project / "falplan.yaml"
        trace = str(deployment.box.folder / "trace.txt")
        spec.write_text(spec.read_text().replace("{ type: str,", f'{{ type: str, default: "{trace}",'))
        deployment.falplan("apply", "--auto-approve")
        yield deployment
    finally:
        deployment.box.clean()


def test_run_answers_and_sibling_packages_app_files_and_requirements_are_there(live: Deployment) -> None:
    assert live.client("run") == ANSWER


def test_a_submitted_request_has_a_status_with_logs_and_a_result_that_stays(live: Deployment) -> None:
    seen = live.client("submit")

    assert seen["result"] == seen["again"] == ANSWER
    assert seen["status"] == {"is": "Completed", "logs": ["begin you", "end you"], "error_type": None, "timed": True}


@pytest.mark.parametrize("use", ["iter_events", "async_submit"])
def test_events_end_with_completed_and_carry_what_the_app_printed(live: Deployment, use: str) -> None:
    seen = live.client(use)
    events = seen["events"] if use == "async_submit" else seen

    assert {e["is"] for e in events[:-1]} <= {"Queued", "InProgress"}
    assert events[-1]["is"] == "Completed"
    assert set().union(*(e["logs"] for e in events)) == {"begin you", "end you"}


@pytest.mark.parametrize("use", ["subscribe", "async_subscribe"])
def test_subscribe_reports_its_way_through_the_queue(live: Deployment, use: str) -> None:
    seen = live.client(use)

    assert seen["result"] == ANSWER
    assert seen["updates"][-1]["is"] == "Completed"
    assert "begin you" in seen["updates"][-1]["logs"]
    assert len(seen.get("enqueued", ["one"])) == 1


@pytest.mark.parametrize("use", ["stream", "async_stream"])
def test_a_stream_arrives_event_by_event(live: Deployment, use: str) -> None:
    assert live.client(use) == [{"letter": "a"}, {"letter": "b"}, {"letter": "c"}]


def test_async_run_answers(live: Deployment) -> None:
    assert live.client("async_run") == ANSWER


def test_a_running_request_can_be_cancelled_and_the_runner_is_free_again(live: Deployment) -> None:
    """Seen red with a queue that did not tell the runner of a cancelled request: the app never heard of it."""
    before = live.trace.count("cancel")
    seen = live.client("cancel_running")

    assert seen["events"][-1]["is"] == "Completed"
    assert seen["events"][-1]["error_type"]
    assert seen["after"] == ANSWER
    assert live.trace.count("cancel") > before


def test_a_queued_request_can_be_cancelled_and_the_one_before_it_is_not_disturbed(live: Deployment) -> None:
    """Seen red with a queue that confirmed a cancel and did nothing: the second request was answered."""
    seen = live.client("cancel_queued")

    assert seen["position"] == 0
    assert seen["second"]["status"] >= 400
    assert "message': 'hello first'" in str(seen["first"])


def test_the_async_handle_cancels(live: Deployment) -> None:
    """Seen red with a queue that confirmed a cancel and did nothing: the request ended without an error."""
    assert live.client("async_cancel")[-1]["error_type"]


def test_arguments_that_the_model_refuses_are_422(live: Deployment) -> None:
    for error in live.client("invalid"):
        assert error["status"] == 422
        assert "name" in error["message"]


def test_an_exception_of_the_app_is_500(live: Deployment) -> None:
    """Seen red with a queue that stored every answer as 200: the caller saw a success."""
    assert [e["status"] for e in live.client("raises")] == [500, 500]


def test_a_status_that_the_app_chose_arrives(live: Deployment) -> None:
    for error in live.client("own_status"):
        assert (error["status"], error["message"]) == (418, "you wants coffee")


def test_an_unknown_app_is_404(live: Deployment) -> None:
    assert [e["status"] for e in live.client("unknown_app")] == [404, 404]


def test_a_wrong_key_is_401(live: Deployment) -> None:
    assert [e["status"] for e in live.client("wrong_key", key="not-a:key")] == [401, 401]


def test_a_client_that_gives_up_cancels_its_request_and_ends(live: Deployment) -> None:
    """Seen red with a queue that did not tell the runner of a cancelled request: it worked on for a minute."""
    before = live.trace.count("cancel")
    seen = live.client("client_timeout")

    assert seen["error"] == {"timed out": 1.5, "request_id": seen["enqueued"][0]}
    assert live.client("run") == ANSWER
    assert live.trace.count("cancel") > before


def test_a_call_to_an_app_at_zero_is_held_until_a_runner_is_up_and_the_stopped_one_was_torn_down(
    live: Deployment,
) -> None:
    """Seen red with a supervisor that sent SIGKILL at once: neither handle_exit nor teardown ran."""
    before = [r["runner_id"] for r in live.runners()]
    setups = live.trace.count("setup")
    for runner in before:
        live.falplan("runners", "stop", runner)
    logs = [live.falplan("runners", "logs", "--lines", "1000", runner)[0] for runner in before]
    answer = live.client("run")

    assert answer == ANSWER
    assert live.trace.count("setup") == setups + 1
    for text in logs:
        assert "setup runs" in text
        assert "handle_exit runs" in text
        assert "teardown runs" in text


def test_a_revision_that_fails_in_setup_leaves_the_old_one_serving_and_destroy_tears_down(own: Deployment) -> None:
    """Seen red with a rollout that moved the alias before its runner was healthy: apply succeeded."""
    app = own.box.project / "app.py"
    good = app.read_text()
    app.write_text(good.replace('trace("setup")', 'raise RuntimeError("the weights are missing")'))
    _, err = own.falplan("apply", "--auto-approve", code=7)
    still = json.loads(own.falplan("call", "--no-logs", "app", '{"name": "you"}')[0])
    app.write_text(good)
    repaired, _ = own.falplan("plan", "--detailed-exitcode")
    own.falplan("destroy", "--auto-approve")

    assert "RuntimeError: the weights are missing" in err
    assert "keeps serving" in err
    assert 'raise RuntimeError("the weights are missing")' in err  # of the runner's last lines
    assert still == ANSWER
    assert "No changes." in repaired
    assert own.trace == ["setup", "handle_exit", "teardown"]
    own.box.check_nothing_left()
