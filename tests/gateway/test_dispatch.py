"""Requests and runners: who is served when, what happens when a runner is lost, what a cancel does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from falplan.core.runtime import AuthMode, LiveApp, RequestStatus, RunnerTarget
from falplan.gateway.queueing import Timing
from tests.gateway.plane import APP, Plane, a_plane, a_runner, until


def running(plane: Plane, request_id: str) -> bool:
    progress = plane.dispatcher.progress(APP, request_id)
    return progress is not None and progress.status is RequestStatus.IN_PROGRESS


async def test_a_queued_request_is_answered_by_a_runner(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        request_id = await plane.submit("/sub?x=1", {"prompt": "a"})
        body = await plane.completed(request_id)
        status, result, headers = await plane.result(request_id)

    assert body["metrics"]["inference_time"] > 0
    assert status == 200
    assert (result["method"], result["path"], json.loads(result["body"])) == ("POST", "/sub?x=1", {"prompt": "a"})
    assert result["headers"]["x-fal-request-id"] == request_id == headers["x-fal-request-id"]
    assert result["headers"]["x-fal-endpoint"] == APP
    assert "authorization" not in result["headers"]
    assert headers["x-app"] == "yes"


async def test_requests_hold_through_a_cold_start(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane:
        queued = [await plane.submit() for _ in range(5)]
        direct = [asyncio.create_task(plane.call("POST", f"/run/{APP}")) for _ in range(5)]
        await until(lambda: plane.dispatcher.queue_length(APP) == 10)
        assert plane.demands
        assert len(plane.dispatcher.demand(APP).waiting) == 10
        assert [(await plane.status(r))["queue_position"] for r in queued] == [0, 1, 2, 3, 4]
        async with a_runner(tmp_path) as runner:
            plane.serve(runner)
            answers = await asyncio.gather(*direct)
            for request_id in queued:
                await plane.completed(request_id)

        assert {status for status, _, _ in answers} == {200}
        assert plane.dispatcher.demand(APP).waiting == ()


async def test_a_runner_gets_no_more_than_its_slots_and_the_least_loaded_one_is_next(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path, "a", slots=2) as a, a_runner(tmp_path, "b", slots=2) as b:
        plane.serve(a, b)
        requests = [await plane.submit("/hold") for _ in range(5)]
        await until(lambda: sum(running(plane, r) for r in requests) == 4)

        demand = plane.dispatcher.demand(APP)
        assert demand.in_flight == {"a": 2, "b": 2}
        assert len(demand.waiting) == 1
        await a.ask("/release")
        await b.ask("/release")
        for request_id in requests:
            await plane.completed(request_id)
        assert set(plane.dispatcher.demand(APP).idle_for) == {"a", "b"}


async def test_low_priority_is_served_after_normal(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane:
        low = await plane.submit(headers={"x-fal-queue-priority": "low"})
        normal = await plane.submit()

        assert (await plane.status(normal))["queue_position"] == 0
        assert (await plane.status(low))["queue_position"] == 1


async def test_a_hint_prefers_the_runner_that_advertises_it(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path, "a", slots=9) as a, a_runner(tmp_path, "b", slots=9) as b:
        plane.serve(b)
        await plane.call("POST", f"/run/{APP}/status/200?set-x-fal-runner-hints=lora-1,lora-2")
        plane.serve(a, b)
        pids = {
            (await plane.call("POST", f"/run/{APP}", headers={"x-fal-runner-hint": "lora-2"}))[1]["pid"]
            for _ in range(6)
        }

        assert pids == {b.process.pid}


async def test_a_runner_killed_in_mid_request_is_replaced_and_the_request_tried_again(tmp_path: Path) -> None:
    """Seen red with a lost runner whose request was ended instead of tried again."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path, "a") as a, a_runner(tmp_path, "b") as b:
        plane.serve(a)
        request_id = await plane.submit("/hold")
        await until(lambda: running(plane, request_id))
        a.process.kill()
        await until(lambda: plane.suspects)
        await until(lambda: plane.dispatcher.queue_length(APP) == 1)
        assert (await plane.status(request_id))["status"] == "IN_QUEUE"
        await b.ask("/release")
        plane.serve(b)
        await plane.completed(request_id)

        assert [s[0] for s in plane.suspects] == ["a"]
        progress = plane.dispatcher.progress(APP, request_id)
        assert progress is not None
        assert progress.runners == ("a", "b")


async def test_an_abandoned_runner_fails_its_requests_at_once(tmp_path: Path) -> None:
    """Seen red with an abandoned runner whose exchanges under way were not ended: the direct caller hung."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path, "a", slots=2) as a, a_runner(tmp_path, "b") as b:
        plane.serve(a)
        request_id = await plane.submit("/hold")
        direct = asyncio.create_task(plane.call("POST", f"/run/{APP}/hold"))
        await until(lambda: plane.dispatcher.demand(APP).in_flight == {"a": 2})
        await until(lambda: running(plane, request_id))
        await a.ask("/echo")
        plane.dispatcher.abandon("a")
        status, body, _ = await direct
        await b.ask("/release")
        plane.serve(b)
        await plane.completed(request_id)

        assert (status, body["error_type"]) == (503, "runner_disconnected")
        plane.dispatcher.abandon("a")


@pytest.mark.parametrize(
    ("path", "status", "error_type"),
    [
        ("/cut", 503, "runner_disconnected"),
        ("/half", 502, "runner_incomplete_response"),
        ("/status/503", 503, "runner_server_error"),
    ],
)
async def test_a_broken_attempt_is_final_when_the_caller_wants_no_retry(
    tmp_path: Path, path: str, status: int, error_type: str
) -> None:
    """Seen red with retries that did not look at the caller's X-Fal-No-Retry."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        request_id = await plane.submit(path, headers={"x-fal-no-retry": "1"})
        body = await plane.completed(request_id)
        code, _, headers = await plane.result(request_id)

        assert (code, body["error_type"]) == (status, error_type)
        assert headers["x-fal-request-id"] == request_id
        assert [s[0] for s in plane.suspects] == ["runner-1"]


@pytest.mark.parametrize("code", [200, 201, 302, 400, 404, 409, 422, 429, 500, 502])
async def test_the_apps_own_answer_is_passed_on_and_final(tmp_path: Path, code: int) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        request_id = await plane.submit(f"/status/{code}")
        body = await plane.completed(request_id)
        queued, queued_body, _ = await plane.result(request_id)
        direct, direct_body, _ = await plane.call("POST", f"/run/{APP}/status/{code}", allow_redirects=False)

        assert queued == direct == code
        assert queued_body == direct_body == {"detail": "as asked"}
        assert ("error" in body) == (code >= 400)
        assert plane.suspects == []


async def test_a_503_is_tried_again_on_another_runner(tmp_path: Path) -> None:
    """Seen red with a runner's 503 that was passed on as the final answer."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path, "a") as a, a_runner(tmp_path, "b") as b:
        plane.serve(a, b)
        request_id = await plane.submit("/status/503")
        await until(lambda: len(plane.suspects) == 2)
        await until(lambda: plane.dispatcher.queue_length(APP) == 1)

        assert (await plane.status(request_id))["status"] == "IN_QUEUE"
        assert {s[0] for s in plane.suspects} == {"a", "b"}
        assert len(plane.dispatcher.demand(APP).waiting) == 1


async def test_an_attempt_over_request_timeout_is_ended_and_its_runner_suspect(tmp_path: Path) -> None:
    """Seen red with a queue that gave each attempt an hour, whatever request_timeout says."""
    app = LiveApp(APP, request_timeout=0.2, skip_retry_conditions=("timeout",))
    async with a_plane(tmp_path, apps=[app]) as plane, a_runner(tmp_path, slots=2) as runner:
        plane.serve(runner)
        request_id = await plane.submit("/hold")
        body = await plane.completed(request_id)

        assert body["error_type"] == "request_timeout"
        assert (await plane.result(request_id))[0] == 504
        assert "request_timeout" in plane.suspects[0][1]


async def test_a_direct_call_over_request_timeout_is_ended(tmp_path: Path) -> None:
    """Seen red with direct calls that were given an hour, whatever request_timeout says: the caller hung."""
    app = LiveApp(APP, request_timeout=0.2)
    async with a_plane(tmp_path, apps=[app]) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        status, body, _ = await plane.call("POST", f"/run/{APP}/hold")

        assert (status, body["error_type"]) == (504, "request_timeout")


@pytest.mark.parametrize("by_app", [True, False])
async def test_a_start_timeout_ends_queued_and_direct_requests(tmp_path: Path, by_app: bool) -> None:
    """Seen red with a queue that set no timer, and with direct calls that waited in line without a deadline."""
    app = LiveApp(APP, request_start_timeout=0.15 if by_app else None)
    headers = {} if by_app else {"x-fal-request-timeout": "0.15"}
    async with a_plane(tmp_path, apps=[app]) as plane:
        direct = asyncio.create_task(plane.call("POST", f"/run/{APP}", headers=headers))
        request_id = await plane.submit(headers=headers)
        await plane.completed(request_id)
        for status, body, answer in (await direct, await plane.result(request_id)):
            assert (status, body["error_type"]) == (504, "request_timeout")
            assert answer["x-fal-request-timeout-type"] == "user"
        assert plane.dispatcher.demand(APP).waiting == ()


async def test_a_start_timeout_does_not_end_work_that_has_begun(tmp_path: Path) -> None:
    """Seen red with an expiry that looked at no status, neither in memory nor in the store; either look is enough."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        request_id = await plane.submit("/hold", headers={"x-fal-request-timeout": "0.3"})
        await until(lambda: running(plane, request_id))
        await asyncio.sleep(0.4)  # the timeout itself
        await runner.ask("/release")
        await plane.completed(request_id)

        assert (await plane.result(request_id))[0] == 200


async def test_a_queued_request_is_cancelled_at_once(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane:
        request_id = await plane.submit()
        first = await plane.call("PUT", f"/queue/{APP}/requests/{request_id}/cancel")
        body = await plane.status(request_id)
        again = await plane.call("PUT", f"/queue/{APP}/requests/{request_id}/cancel")
        status, result, _ = await plane.result(request_id)

        assert first[0] == 200
        assert (body["status"], body["error_type"]) == ("COMPLETED", "client_cancelled")
        assert (again[0], again[1]["status"]) == (400, "ALREADY_COMPLETED")
        assert (status, result["error_type"]) == (499, "client_cancelled")
        assert plane.dispatcher.demand(APP).waiting == ()


async def test_a_running_request_is_cancelled_and_its_slot_kept_until_the_runner_answers(tmp_path: Path) -> None:
    """Seen red with a cancel of which the runner was not told: its slot stayed taken."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        request_id = await plane.submit("/hold")
        await until(lambda: running(plane, request_id))
        status, body, _ = await plane.call("PUT", f"/queue/{APP}/requests/{request_id}/cancel")

        assert (status, body["status"]) == (202, "CANCELLATION_REQUESTED")
        assert (await plane.status(request_id))["error_type"] == "client_cancelled"
        await until(lambda: not plane.dispatcher.demand(APP).in_flight)
        assert (await runner.seen())["cancelled"] == [request_id]
        assert (await plane.result(request_id))[0] == 499
        assert plane.suspects == []


async def test_a_runner_that_ignores_a_cancel_keeps_its_slot(tmp_path: Path) -> None:
    """Seen red with a cancel that ended the exchange with the runner, which freed the slot of a busy runner."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        request_id = await plane.submit("/stream?step=1")
        await until(lambda: running(plane, request_id))
        await plane.call("PUT", f"/queue/{APP}/requests/{request_id}/cancel")
        later = await plane.submit()

        assert plane.dispatcher.demand(APP).in_flight == {"runner-1": 1}
        await runner.ask("/release")
        await plane.completed(later)
        assert (await plane.result(request_id))[0] == 499


async def test_a_direct_caller_that_goes_away_frees_the_slot(tmp_path: Path) -> None:
    """Seen red with a caller that stayed in line, and with one whose slot was not given back."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        holding = asyncio.create_task(plane.call("POST", f"/run/{APP}/hold"))
        await until(lambda: plane.dispatcher.demand(APP).in_flight)
        waiting = asyncio.create_task(plane.call("POST", f"/run/{APP}/hold"))
        await until(lambda: plane.dispatcher.queue_length(APP) == 1)
        waiting.cancel()
        await until(lambda: plane.dispatcher.queue_length(APP) == 0)
        holding.cancel()
        await until(lambda: not plane.dispatcher.demand(APP).in_flight)

        assert (await plane.call("POST", f"/run/{APP}"))[0] == 200
        assert (await runner.seen())["disconnects"] == 1
        assert plane.suspects == []


async def test_a_direct_call_that_no_runner_took_goes_back_in_line(tmp_path: Path) -> None:
    """Seen red with a refused connection that was answered with 503 instead of tried again."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path, "b") as b:
        nobody = RunnerTarget("a", APP, "v1", f"unix:{tmp_path / 'nobody.sock'}")
        plane.dispatcher.set_targets(APP, [nobody])
        call = asyncio.create_task(plane.call("POST", f"/run/{APP}", data=b"kept"))
        await until(lambda: plane.suspects)
        plane.serve(b)
        status, body, _ = await call

        assert (status, body.get("body")) == (200, "kept")


async def test_replacing_runners_under_load_loses_nothing(tmp_path: Path) -> None:
    """Seen red with a drain that did not wait for requests in flight."""
    async with a_plane(tmp_path) as plane:
        statuses: list[int] = []
        done = False

        async def caller(n: int) -> None:
            while not done:
                if n % 2:
                    statuses.append((await plane.call("POST", f"/run/{APP}"))[0])
                else:
                    request_id = await plane.submit()
                    await plane.completed(request_id)
                    statuses.append((await plane.result(request_id))[0])

        callers = [asyncio.create_task(caller(n)) for n in range(8)]
        for generation in range(4):
            async with a_runner(tmp_path, f"g{generation}", slots=4) as runner:
                plane.serve(runner)
                before = len(statuses)
                await until(lambda before=before: len(statuses) > before + 40)  # type: ignore[misc]
                plane.dispatcher.set_targets(APP, [])
                await plane.dispatcher.drained(f"g{generation}")
        done = True
        async with a_runner(tmp_path, "last", slots=8) as runner:
            plane.serve(runner)
            await asyncio.gather(*callers)

        assert set(statuses) == {200}
        assert plane.suspects == []


async def test_requests_in_flight_go_on_when_their_runner_takes_no_more(tmp_path: Path) -> None:
    """Seen red with requests in flight that failed as soon as their runner was taken off the list."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        request_id = await plane.submit("/hold")
        await until(lambda: running(plane, request_id))
        plane.dispatcher.set_targets(APP, [])
        draining = asyncio.create_task(plane.dispatcher.drained("runner-1"))
        await plane.submit()
        assert plane.dispatcher.demand(APP).in_flight == {"runner-1": 1}
        assert not draining.done()
        await runner.ask("/release")
        await plane.completed(request_id)
        await draining

        assert (await plane.result(request_id))[0] == 200
        await plane.dispatcher.drained("unknown")


async def test_a_runner_that_asks_to_be_stopped_is_suspect(tmp_path: Path) -> None:
    """Seen red with a direct call that did not look at X-Fal-Stop-Runner."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        status, _, headers = await plane.call("POST", f"/run/{APP}/status/200?set-x-fal-stop-runner=true")

        assert status == 200
        assert plane.suspects == [("runner-1", "it asked to be stopped")]
        assert "x-fal-stop-runner" not in headers


async def test_forgetting_an_app_ends_those_who_wait_for_it(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane:
        request_id = await plane.submit()
        direct = asyncio.create_task(plane.call("POST", f"/run/{APP}"))
        await until(lambda: plane.dispatcher.queue_length(APP) == 2)
        plane.dispatcher.forget(APP)
        assert (await direct)[0] == 404
        await until(lambda: not plane.dispatcher.store.unfinished())
        plane.dispatcher.configure(LiveApp(APP))

        assert (await plane.result(request_id))[1]["error_type"] == "not_found"


async def test_results_are_forgotten_after_their_retention(tmp_path: Path) -> None:
    async with a_plane(tmp_path, timing=Timing(retention=-1)) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        request_id = await plane.submit()
        await plane.completed(request_id)
        waiting = await plane.submit("/hold")
        await until(lambda: running(plane, waiting))

        assert await plane.dispatcher.prune() == 1
        assert (await plane.result(request_id))[0] == 404
        assert (await plane.status(waiting))["status"] == "IN_PROGRESS"


async def test_a_stopped_gateway_leaves_unfinished_requests_to_the_next(tmp_path: Path) -> None:
    """Seen red with a recovery that did not put requests in progress back in the queue."""
    async with a_runner(tmp_path) as runner:
        async with a_plane(tmp_path) as plane:
            plane.serve(runner)
            held = await plane.submit("/hold")
            await until(lambda: running(plane, held))
            waiting = await plane.submit()
        await runner.ask("/release")
        async with a_plane(tmp_path, apps=[LiveApp(APP, AuthMode.PUBLIC)]) as plane:
            assert len(plane.dispatcher.demand(APP).waiting) == 2
            plane.serve(runner)
            for request_id in (held, waiting):
                await plane.completed(request_id)
            progress = plane.dispatcher.progress(APP, held)

    assert progress is not None
    assert progress.request.attempts == 2
