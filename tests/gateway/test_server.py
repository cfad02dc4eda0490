"""The HTTP interface: who may, what is answered, which headers cross, which limits hold."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from falplan.core.runtime import AuthMode, Key, KeyScope, LiveApp, LogEntry
from falplan.gateway.admin import AdminBody
from falplan.gateway.server import GatewayConfig
from tests.gateway.plane import APP, Answer, Plane, a_plane, a_runner, until

PRIVATE, PUBLIC = LiveApp(APP), LiveApp("acme/open", AuthMode.PUBLIC)


async def status_of(plane: Plane, method: str, path: str, authorization: str | None) -> int:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with plane.session.request(method, plane.url(path), headers=headers) as answer:
        body = await answer.json()
        assert answer.headers["x-fal-request-id"]
        if answer.status >= 400:
            assert {"detail", "error_type"} <= set(body) or "status" in body
        return answer.status


async def test_who_may_call_what(tmp_path: Path) -> None:
    async with a_plane(tmp_path, apps=[PRIVATE, PUBLIC]) as plane:
        revoked, revoked_secret = await plane.keys.create(KeyScope.ADMIN, "")
        await plane.keys.revoke(revoked.key_id)
        key, admin = plane.key, plane.admin_key
        wrong = [
            "Key",
            "Key ",
            "Key :",
            "Key x:y",
            f"Key {key}x",
            f"Key {key[:-1]}",
            f"Basic {key}",
            key,
            f"Key  {key} x",
        ]
        wrong += [f"Key {revoked_secret}", f"Key {key.partition(':')[0]}:", "Key " + "é" * 300, "Bearer", "Key \udcff"]
        invalid: list[str | None] = [None, *wrong[:-1]]
        unknown_request = "requests/none/status"
        for authorization in invalid:
            for path in (
                f"/queue/{APP}/{unknown_request}",
                "/queue/acme/no/requests/x",
                "/nothing",
                "/admin/v1/status",
            ):
                assert await status_of(plane, "GET", path, authorization) == 401, (path, authorization)
            assert await status_of(plane, "POST", f"/run/{APP}", authorization) == 401
            assert await status_of(plane, "GET", f"/queue/acme/open/{unknown_request}", authorization) == 404
            assert await status_of(plane, "GET", "/health", authorization) == 200
        for authorization in (f"Key {key}", f"Bearer {key}", f"key {admin}"):
            assert await status_of(plane, "GET", f"/queue/{APP}/{unknown_request}", authorization) == 404
            assert await status_of(plane, "POST", "/run/acme/no", authorization) == 404
            assert await status_of(plane, "GET", "/nothing", authorization) == 404
        assert await status_of(plane, "GET", "/admin/v1/status", f"Key {key}") == 403
        assert await status_of(plane, "GET", "/admin/v1/status", f"Key {admin}") == 200
        assert plane.dispatcher.demand(APP).waiting == ()
        assert len(plane.admin.calls) == 1


async def test_a_revoked_key_is_refused_at_once(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane:
        await plane.submit()
        await plane.keys.revoke(plane.key.partition(":")[0])

        assert (await plane.call("POST", f"/queue/{APP}"))[0] == 401


async def test_the_gateways_keys_never_reach_a_runner_and_an_apps_own_do(tmp_path: Path) -> None:
    async with a_plane(tmp_path, apps=[PRIVATE, PUBLIC]) as plane, a_runner(tmp_path, slots=9) as runner:
        plane.serve(runner)
        plane.dispatcher.set_targets("acme/open", [runner.target])
        private = await plane.call("POST", f"/run/{APP}")
        public = await plane.call("POST", "/run/acme/open")
        own = await plane.call("POST", "/run/acme/open", headers={"Authorization": "Bearer the-apps-own"})

        assert "authorization" not in private[1]["headers"]
        assert "authorization" not in public[1]["headers"]
        assert own[1]["headers"]["authorization"] == "Bearer the-apps-own"


async def test_headers_cross_by_rule(tmp_path: Path) -> None:
    sent = {
        "x-custom": "kept",
        "x-fal-runner-hint": "kept",
        "x-app-fal-disable-fallback": "kept",
        "x-fal-request-id": "forged",
        "x-fal-endpoint": "forged",
        "X-Fal-Cdn-Token": "forged",
        "x_fal_request_id": "forged",
        "x-forwarded-for": "forged",
        "x-original-url": "/admin",
        "connection": "keep-alive, x-private",
        "x-private": "hop",
        "te": "trailers",
        "cookie": "a=b",
    }
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        _, body, headers = await plane.call("POST", f"/run/{APP}", headers=sent)
        got = body["headers"]

        assert {k: got[k] for k in ("x-custom", "x-fal-runner-hint", "x-app-fal-disable-fallback", "cookie")} == {
            "x-custom": "kept",
            "x-fal-runner-hint": "kept",
            "x-app-fal-disable-fallback": "kept",
            "cookie": "a=b",
        }
        assert got["x-fal-request-id"] == headers["x-fal-request-id"] != "forged"
        assert got["x-fal-endpoint"] == APP
        assert "forged" not in got.values()
        assert not {"x-private", "te", "x-original-url", "x_fal_request_id"} & set(got)
        _, _, headers = await plane.call(
            "POST", f"/run/{APP}/status/200?set-x-fal-needs-retry=1&set-x-fal-billable-units=3"
        )
        assert headers["x-fal-billable-units"] == "3"
        assert "x-fal-needs-retry" not in headers


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_direct_calls_pass_any_method_and_path(tmp_path: Path, method: str) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        status, body, _ = await plane.call(method, f"/run/{APP}/a/b%20c/?x=1&y=%2F", data=b"\x00\xff")

        assert status == 200
        assert (body["method"], body["path"], body["body"]) == (method, "/a/b%20c/?x=1&y=%2F", "\x00\xff")


async def test_head_and_empty_bodies(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        for _ in range(2):
            status, body, _ = await plane.call("HEAD", f"/run/{APP}", raise_for_status=True)
            assert (status, body) == (200, None) or body == ""
        assert (await plane.call("GET", f"/run/{APP}/status/304"))[0] == 304
        assert (await plane.call("GET", f"/run/{APP}"))[1]["headers"].get("content-length") is None
        assert plane.suspects == []


async def test_a_stream_comes_as_it_is_made(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path, slots=2) as runner:
        plane.serve(runner)
        headers = {"Authorization": f"Key {plane.key}"}
        async with plane.session.post(plane.url(f"/run/{APP}/stream?step=1"), headers=headers) as answer:
            first = await answer.content.readuntil(b"\n\n")
            assert first == b'data: {"n": 0}\n\n'
            await runner.ask("/release")
            rest = await answer.content.read()

        assert rest.count(b"data:") == 2
        assert answer.content_type == "text/event-stream"


async def test_a_stream_that_breaks_is_cut_and_not_ended_well(tmp_path: Path) -> None:
    """Seen red with a broken stream that was ended like a whole one."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        headers = {"Authorization": f"Key {plane.key}"}
        async with plane.session.post(plane.url(f"/run/{APP}/stream?step=1"), headers=headers) as answer:
            await answer.content.readuntil(b"\n\n")
            runner.process.kill()
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()

        await until(lambda: plane.suspects)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_body_is_streamed_through_whole(tmp_path: Path, chunked: bool) -> None:
    content = bytes(range(256)) * 20_000

    async def parts() -> Any:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        _, body, _ = await plane.call("POST", f"/run/{APP}/sum", data=parts() if chunked else io.BytesIO(content))
        request_id = (await plane.call("POST", f"/queue/{APP}/sum", data=parts() if chunked else io.BytesIO(content)))[
            1
        ]["request_id"]
        await plane.completed(request_id)
        _, queued, _ = await plane.result(request_id)

        assert body == queued == {"bytes": len(content), "sum": sum(content)}


@pytest.mark.parametrize("path", [f"/run/{APP}/sum", f"/queue/{APP}"])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_refused(tmp_path: Path, path: str, chunked: bool) -> None:
    async def parts(size: int) -> Any:
        yield b"x" * size

    config = GatewayConfig(largest_body=100_000)
    async with a_plane(tmp_path, config=config) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        sizes = {}
        for size in (99_999, 100_000, 100_001):
            sizes[size] = (await plane.call("POST", path, data=parts(size) if chunked else b"x" * size))[0]

        assert sizes == {99_999: 200, 100_000: 200, 100_001: 413}
        assert plane.suspects == []


async def test_a_compressed_body_is_passed_through_unopened(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        status, answer, _ = await plane.call(
            "POST", f"/run/{APP}", data=b"not even gzip", headers={"content-encoding": "x-odd"}
        )

        assert (status, answer["body"]) == (200, "not even gzip")
        assert answer["headers"]["content-encoding"] == "x-odd"


async def test_an_idempotency_key_makes_a_repeated_submit_one_request(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane:
        once = {"Idempotency-Key": "once"}
        first = await plane.submit(body={"x": 1}, headers=once)
        again = await plane.submit(body={"x": 1}, headers=once)
        status, body, _ = await plane.call("POST", f"/queue/{APP}", json={"x": 2}, headers=once)
        other = await plane.submit(body={"x": 2}, headers={**once, "Authorization": f"Key {plane.admin_key}"})

        assert first == again != other
        assert (status, body["error_type"]) == (422, "idempotency_mismatch")
        assert plane.dispatcher.queue_length(APP) == 2


async def test_the_queues_urls_serve_both_spellings_and_lead_to_their_own_app(tmp_path: Path) -> None:
    async with a_plane(tmp_path, apps=[PRIVATE, LiveApp("acme/other")]) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        request_id = await plane.submit("/sub")
        await plane.completed(request_id)
        base = f"/queue/{APP}/requests/{request_id}"
        for path in (
            base,
            base + "/",
            base + "/response",
            base + "/status",
            base + "/status/",
            base + "/status?logs=1",
        ):
            assert (await plane.call("GET", path, allow_redirects=False))[0] == 200
        for path in ("", "/status", "/status/stream"):
            assert (await plane.call("GET", f"/queue/acme/other/requests/{request_id}{path}"))[0] == 404
        assert (await plane.call("PUT", f"/queue/acme/other/requests/{request_id}/cancel"))[0] == 404
        assert (await plane.call("PUT", f"/queue/{APP}/requests/none/cancel"))[1]["status"] == "NOT_FOUND"


async def test_status_is_202_until_completed_and_the_result_says_that_it_is_not_there_yet(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane:
        status, submitted, _ = await plane.call("POST", f"/queue/{APP}")
        code, body, _ = await plane.call("GET", submitted["status_url"].removeprefix(plane.gateway.url))
        early, _, _ = await plane.result(submitted["request_id"])

        assert (status, code, early) == (200, 202, 400)
        assert set(body) == {"status", "request_id", "response_url", "status_url", "cancel_url", "queue_position"} | {
            "logs",
            "metrics",
        }
        assert submitted["response_url"] == plane.url(f"/queue/{APP}/requests/{submitted['request_id']}")


async def test_logs_are_told_when_asked_for(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        plane.logs.append(LogEntry(1_900_000_000.5, "STDOUT", "hello"))
        request_id = await plane.submit()
        await plane.completed(request_id)
        path = f"/queue/{APP}/requests/{request_id}/status"
        bodies = [(await plane.call("GET", path + q))[1]["logs"] for q in ("", "?logs=false", "?logs=true", "?logs=1")]

        entry = {"message": "hello", "level": "STDOUT", "source": "USER", "timestamp": "2030-03-17T17:46:40.500Z"}
        assert bodies == [None, None, [entry], [entry]]


async def test_the_status_stream_tells_changes_and_only_new_logs(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        request_id = await plane.submit("/hold")
        headers = {"Authorization": f"Key {plane.key}"}
        url = plane.url(f"/queue/{APP}/requests/{request_id}/status/stream?logs=1")
        events: list[dict[str, Any]] = []
        async with plane.session.get(url, headers=headers) as answer:

            async def listen() -> None:
                async for line in answer.content:
                    if line.startswith(b"data: "):
                        events.append(json.loads(line[6:]))  # noqa: PERF401 - others look at it as it grows

            listening = asyncio.create_task(listen())
            await until(lambda: len(events) == 1)
            plane.serve(runner)
            await until(lambda: len(events) == 2)
            plane.logs.append(LogEntry(1.0, "STDOUT", "one"))
            await until(lambda: len(events) == 3)
            plane.logs.append(LogEntry(2.0, "STDOUT", "two"))
            await until(lambda: len(events) == 4)
            await runner.ask("/release")
            await listening

        assert [e["status"] for e in events] == ["IN_QUEUE", *["IN_PROGRESS"] * 3, "COMPLETED"]
        assert [[entry["message"] for entry in e["logs"]] for e in events] == [[], [], ["one"], ["two"], []]


async def test_what_is_not_offered_is_refused_by_name(tmp_path: Path) -> None:
    async with a_plane(tmp_path) as plane:
        webhook = await plane.call("POST", f"/queue/{APP}?fal_webhook=https%3A%2F%2Fexample.com")
        upgrade = await plane.call(
            "GET", f"/run/{APP}/realtime", headers={"Upgrade": "websocket", "Connection": "Upgrade"}
        )
        await plane.submit()
        full = await plane.call("POST", f"/queue/{APP}?fal_max_queue_length=0")
        odd = await plane.call("POST", f"/queue/{APP}?fal_max_queue_length=x")
        header = await plane.call("POST", f"/run/{APP}", headers={"x-fal-request-timeout": "soon"})

        assert (webhook[0], webhook[1]["error_type"]) == (400, "bad_request")
        assert (upgrade[0], upgrade[1]["error_type"]) == (501, "not_implemented")
        assert (full[0], full[1]["error_type"]) == (429, "queue_full")
        assert odd[0] == header[0] == 400


async def test_admin_calls_are_handed_over_whole(tmp_path: Path) -> None:
    config = GatewayConfig(largest_body=10, largest_upload=1000)
    async with a_plane(tmp_path, config=config) as plane:
        headers = {"Authorization": f"Key {plane.admin_key}"}
        status, body, answer = await plane.call(
            "PUT", "/admin/v1/bundles/x?a=1&b=%20", data=b'"' + b"x" * 900 + b'"', headers=headers
        )
        too_large = await plane.call("PUT", "/admin/v1/bundles/x", data=b"x" * 1001, headers=headers)

        assert (status, too_large[0]) == (200, 413)
        assert plane.admin.calls[0][:3] == ("PUT", "/bundles/x", {"a": "1", "b": " "})
        assert body == "x" * 900
        assert answer["x-fal-request-id"]


async def test_a_full_store_is_told_and_nothing_is_accepted(tmp_path: Path) -> None:
    """Seen red with a request put in line before it was stored, and with a full store answered as an internal error."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        pages = plane.database.read("pragma page_count")[0][0]
        await plane.database.write(lambda c: c.execute(f"pragma max_page_count = {pages + 2}") and None)
        status, body, headers = await plane.call("POST", f"/queue/{APP}", data=b"x" * 200_000)
        assert (status, body["error_type"]) == (503, "unavailable")
        assert headers["retry-after"] == "1"
        assert plane.dispatcher.queue_length(APP) == 0
        await plane.database.write(lambda c: c.execute("pragma max_page_count = 1000000") and None)
        plane.serve(runner)

        await plane.completed(await plane.submit())


async def test_stopping_finishes_what_is_in_flight_and_accepts_nothing_more(tmp_path: Path) -> None:
    """Seen red with a stop that gave calls a millisecond to end, and with one that went on listening."""
    async with a_plane(tmp_path) as plane, a_runner(tmp_path) as runner:
        plane.serve(runner)
        call = asyncio.create_task(plane.call("POST", f"/run/{APP}/hold"))
        await until(lambda: plane.dispatcher.demand(APP).in_flight)
        stopping = asyncio.create_task(plane.gateway.stop(10))
        await asyncio.sleep(0)
        with pytest.raises(aiohttp.ClientConnectorError):
            await plane.call("GET", "/health")
        await asyncio.sleep(0.3)  # a stop that does not wait for the call is over by now
        assert not stopping.done()
        assert not call.done()
        await runner.ask("/release")
        await stopping

        assert (await call)[0] == 200
        await plane.gateway.stop(10)


async def test_an_admin_call_is_finished_when_its_caller_goes_away(tmp_path: Path) -> None:
    """Seen red with an admin call that was cancelled together with its caller's connection."""
    began, go_on, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow:
        async def handle(
            self, method: str, path: str, query: Mapping[str, str], body: AdminBody, caller: Key
        ) -> Answer:
            began.set()
            await go_on.wait()
            finished.set()
            return Answer(200, b"{}")

    async with a_plane(tmp_path, admin=Slow()) as plane:
        headers = {"Authorization": f"Key {plane.admin_key}"}
        call = asyncio.create_task(plane.call("POST", "/admin/v1/operations", headers=headers))
        await began.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await until(lambda: not plane.gateway._server.connections)  # the gateway has seen it go
        go_on.set()
        await asyncio.wait_for(finished.wait(), 5)
