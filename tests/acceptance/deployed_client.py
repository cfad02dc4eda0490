"""One use of fal_client a run, as its documentation shows it: `python deployed_client.py SCENARIO` prints what came of it as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import fal_client

APP = "acme/app"
NAME = {"name": "you"}


def run() -> Any:
    return fal_client.run(APP, NAME)


def submit() -> Any:
    handle = fal_client.submit(APP, NAME)
    result = fal_client.result(APP, handle.request_id)
    status = fal_client.status(APP, handle.request_id, with_logs=True)
    again = fal_client.result(APP, handle.request_id)
    return {"result": result, "again": again, "status": _seen(status)}


def iter_events() -> Any:
    handle = fal_client.submit(APP, {"name": "you", "wait": 0.5})
    return [_seen(event) for event in handle.iter_events(with_logs=True, interval=0.05)]


def subscribe() -> Any:
    enqueued: list[str] = []
    updates: list[Any] = []
    result = fal_client.subscribe(
        APP,
        {"name": "you", "wait": 0.5},
        with_logs=True,
        on_enqueue=enqueued.append,
        on_queue_update=lambda update: updates.append(_seen(update)),
    )
    return {"result": result, "updates": updates, "enqueued": enqueued}


def stream() -> Any:
    return list(fal_client.stream(APP, {"name": "abc"}))


def cancel_running() -> Any:
    handle = fal_client.submit(APP, {"name": "you", "wait": 60}, path="/slow")
    while not isinstance(handle.status(), fal_client.InProgress):
        pass
    handle.cancel()
    return {"events": [_seen(e) for e in handle.iter_events(interval=0.05)], "after": fal_client.run(APP, NAME)}


def cancel_queued() -> Any:
    first = fal_client.submit(APP, {"name": "first", "wait": 2})
    second = fal_client.submit(APP, {"name": "second"})
    position = getattr(second.status(), "position", None)
    second.cancel()
    first_result = first.get()
    return {"position": position, "second": _error(second.get), "first": first_result}


def invalid() -> Any:
    return [_error(lambda: fal_client.run(APP, {})), _error(lambda: fal_client.subscribe(APP, {}))]


def raises() -> Any:
    return [_error(partial(call, APP, NAME, path="/raise")) for call in (fal_client.run, fal_client.subscribe)]


def own_status() -> Any:
    return [_error(partial(call, APP, NAME, path="/teapot")) for call in (fal_client.run, fal_client.subscribe)]


def unknown_app() -> Any:
    return [_error(partial(call, "acme/nobody", NAME)) for call in (fal_client.run, fal_client.submit)]


def wrong_key() -> Any:
    return [_error(partial(call, APP, NAME)) for call in (fal_client.run, fal_client.submit)]


def client_timeout() -> Any:
    enqueued: list[str] = []
    error = _error(
        lambda: fal_client.subscribe(
            APP, {"name": "you", "wait": 60}, path="/slow", client_timeout=1.5, on_enqueue=enqueued.append
        )
    )
    return {"error": error, "enqueued": enqueued}


def async_run() -> Any:
    return asyncio.run(fal_client.run_async(APP, NAME))


def async_submit() -> Any:
    async def use() -> Any:
        handle = await fal_client.submit_async(APP, NAME)
        events = [_seen(event) async for event in handle.iter_events(with_logs=True, interval=0.05)]
        return {"events": events, "result": await handle.get()}

    return asyncio.run(use())


def async_subscribe() -> Any:
    async def use() -> Any:
        updates: list[Any] = []
        result = await fal_client.subscribe_async(
            APP, NAME, with_logs=True, on_queue_update=lambda update: updates.append(_seen(update))
        )
        return {"result": result, "updates": updates}

    return asyncio.run(use())


def async_stream() -> Any:
    async def use() -> Any:
        return [event async for event in fal_client.stream_async(APP, {"name": "abc"})]

    return asyncio.run(use())


def async_cancel() -> Any:
    async def use() -> Any:
        handle = await fal_client.submit_async(APP, {"name": "you", "wait": 60}, path="/slow")
        await handle.cancel()
        return [_seen(event) async for event in handle.iter_events(interval=0.05)]

    return asyncio.run(use())


def _seen(status: Any) -> dict[str, Any]:
    return {
        "is": type(status).__name__,
        "logs": [entry["message"] for entry in getattr(status, "logs", None) or []],
        "error_type": getattr(status, "error_type", None),
        "timed": "inference_time" in (getattr(status, "metrics", None) or {}),
    }


def _error(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"returned": str(call())}
    except fal_client.FalClientHTTPError as exc:
        return {"status": exc.status_code, "type": exc.error_type, "message": str(exc)}
    except fal_client.FalClientTimeoutError as exc:
        return {"timed out": exc.timeout, "request_id": exc.request_id}


SCENARIOS: dict[str, Callable[[], Any]] = {
    function.__name__: function
    for function in (
        run,
        submit,
        iter_events,
        subscribe,
        stream,
        cancel_running,
        cancel_queued,
        invalid,
        raises,
        own_status,
        unknown_app,
        wrong_key,
        client_timeout,
        async_run,
        async_submit,
        async_subscribe,
        async_stream,
        async_cancel,
    )
}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]]()))
