"""Calls an app with the unmodified fal_client, one scenario a run, and prints what it saw as JSON: SCENARIO."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import fal_client

APP = "acme/app"
UNKNOWN = "00000000-0000-0000-0000-000000000000"


def error(call: Callable[[], Any]) -> dict[str, Any]:
    """What a call raised."""
    try:
        return {"returned": call()}
    except fal_client.FalClientHTTPError as exc:
        return {"status": exc.status_code, "type": exc.error_type, "message": str(exc), "class": type(exc).__name__}
    except Exception as exc:
        return {"class": type(exc).__name__, "message": str(exc)}


async def async_error(call: Awaitable[Any]) -> dict[str, Any]:
    try:
        value = await call
    except Exception as exc:
        caught = exc

        def again() -> Any:
            raise caught

        return error(again)
    return {"returned": value}


def everything() -> dict[str, Any]:
    seen: dict[str, Any] = {"run": fal_client.run(APP, arguments={"x": 1}, path="/sub", hint="h", start_timeout=30)}
    seen["get"] = fal_client.run(APP, arguments={}, method="GET", path="health")
    handle = fal_client.submit(APP, arguments={"x": 2}, path="/sub", priority="low", start_timeout=20)
    seen["events"] = [
        (type(e).__name__, len(getattr(e, "logs", None) or [])) for e in handle.iter_events(with_logs=True)
    ]
    seen["result"] = handle.get()
    seen["by_id"] = fal_client.result(APP, handle.request_id)
    status = fal_client.status(APP, handle.request_id, with_logs=True)
    seen["status"] = {"class": type(status).__name__, "logs": status.logs, "metrics": status.metrics}
    updates: list[str] = []
    seen["subscribe"] = fal_client.subscribe(
        APP, arguments={"x": 3}, with_logs=True, on_queue_update=lambda u: updates.append(type(u).__name__)
    )
    seen["updates"] = updates
    seen["stream"] = list(fal_client.stream(APP, arguments={"x": 4}))
    return seen


async def async_everything() -> dict[str, Any]:
    seen: dict[str, Any] = {"run": await fal_client.run_async(APP, arguments={"x": 1}, path="/sub", hint="h")}
    seen["get"] = await fal_client.run_async(APP, arguments={}, method="GET", path="health")
    handle = await fal_client.submit_async(APP, arguments={"x": 2}, path="/sub", priority="low")
    events = [e async for e in handle.iter_events(with_logs=True)]
    seen["events"] = [(type(e).__name__, len(getattr(e, "logs", None) or [])) for e in events]
    seen["result"] = await handle.get()
    seen["by_id"] = await fal_client.result_async(APP, handle.request_id)
    status = await fal_client.status_async(APP, handle.request_id, with_logs=True)
    seen["status"] = {"class": type(status).__name__, "logs": status.logs, "metrics": status.metrics}
    updates: list[str] = []
    seen["subscribe"] = await fal_client.subscribe_async(
        APP, arguments={"x": 3}, with_logs=True, on_queue_update=lambda u: updates.append(type(u).__name__)
    )
    seen["updates"] = updates
    seen["stream"] = [e async for e in fal_client.stream_async(APP, arguments={"x": 4})]
    return seen


def errors() -> dict[str, Any]:
    run = partial(fal_client.run, arguments={})
    seen = {str(code): error(partial(run, APP, path=f"/status/{code}")) for code in (422, 500)}
    seen["queued 422"] = error(partial(fal_client.subscribe, APP, arguments={}, path="/status/422"))
    seen["unknown app"] = error(partial(run, "acme/none"))
    seen["unknown request"] = error(partial(fal_client.status, APP, UNKNOWN))
    seen["unknown result"] = error(partial(fal_client.result, APP, UNKNOWN))
    seen["cancel unknown"] = error(partial(fal_client.cancel, APP, UNKNOWN))
    for name, key in (("wrong key", "key-000000000000:wrong"), ("odd key", "odd")):
        client = fal_client.SyncClient(key=key)
        seen[name] = error(partial(client.run, APP, arguments={}))
        seen["queue " + name] = error(partial(client.submit, APP, arguments={}))
    return seen


async def async_errors() -> dict[str, Any]:
    run = fal_client.run_async
    seen = {str(code): await async_error(run(APP, arguments={}, path=f"/status/{code}")) for code in (422, 500)}
    seen["queued 422"] = await async_error(fal_client.subscribe_async(APP, arguments={}, path="/status/422"))
    seen["unknown app"] = await async_error(run("acme/none", arguments={}))
    seen["unknown request"] = await async_error(fal_client.status_async(APP, UNKNOWN))
    seen["unknown result"] = await async_error(fal_client.result_async(APP, UNKNOWN))
    seen["cancel unknown"] = await async_error(fal_client.cancel_async(APP, UNKNOWN))
    for name, key in (("wrong key", "key-000000000000:wrong"), ("odd key", "odd")):
        client = fal_client.AsyncClient(key=key)
        seen[name] = await async_error(client.run(APP, arguments={}))
        seen["queue " + name] = await async_error(client.submit(APP, arguments={}))
    return seen


def cancels() -> dict[str, Any]:
    blocker = fal_client.submit(APP, arguments={}, path="/stream?step=1")
    while not isinstance(blocker.status(), fal_client.InProgress):
        pass
    queued = fal_client.submit(APP, arguments={})
    queued.cancel()
    seen: dict[str, Any] = {"queued": type(queued.status()).__name__, "queued result": error(queued.get)}
    blocker.cancel()
    seen["running"] = type(blocker.status()).__name__
    seen["running result"] = error(blocker.get)
    seen["again"] = error(blocker.cancel)
    return seen


async def async_cancels() -> dict[str, Any]:
    blocker = await fal_client.submit_async(APP, arguments={}, path="/stream?step=1")
    while not isinstance(await blocker.status(), fal_client.InProgress):
        pass
    queued = await fal_client.submit_async(APP, arguments={})
    await queued.cancel()
    seen: dict[str, Any] = {
        "queued": type(await queued.status()).__name__,
        "queued result": await async_error(queued.get()),
    }
    await blocker.cancel()
    seen["running"] = type(await blocker.status()).__name__
    seen["running result"] = await async_error(blocker.get())
    seen["again"] = await async_error(blocker.cancel())
    return seen


def times_out() -> dict[str, Any]:
    return {"error": error(lambda: fal_client.subscribe(APP, arguments={}, path="/hold", client_timeout=1.2))}


async def async_times_out() -> dict[str, Any]:
    return {"error": await async_error(fal_client.subscribe_async(APP, arguments={}, path="/hold", client_timeout=1.2))}


if __name__ == "__main__":
    scenario = globals()[sys.argv[1]]
    seen = asyncio.run(scenario()) if asyncio.iscoroutinefunction(scenario) else scenario()
    print(json.dumps(seen))
