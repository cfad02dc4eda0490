"""A runner: a real HTTP server on a unix socket, in a process of its own, that does what its paths say.

/echo (and any other path) tells what came; /status/CODE answers with that code; /stream sends events; /hold answers once
/release was asked; /die kills the process; /cut breaks the connection, /half breaks it within the answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from aiohttp import web

released = asyncio.Event()
seen: dict[str, int] = {}
cancelled: list[str] = []
disconnects = 0


async def handle(request: web.BaseRequest) -> web.StreamResponse:
    name = request.path.split("/")[1]
    seen[name] = seen.get(name, 0) + 1
    if name == "hold":
        return await hold(request)
    body = await request.content.read()  # read() has a limit of its own
    match name:
        case "status":
            headers = {k[4:]: v for k, v in request.query.items() if k.startswith("set-")}
            return web.json_response({"detail": "as asked"}, status=int(request.path.split("/")[2]), headers=headers)
        case "stream":
            return await stream(request)
        case "release":
            released.set()
        case "seen":
            return web.json_response(
                {"seen": seen, "cancelled": cancelled, "disconnects": disconnects, "pid": os.getpid()}
            )
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "cut":
            assert request.transport is not None
            request.transport.abort()
        case "half":
            return await half(request)
        case "sum":
            return web.json_response({"bytes": len(body), "sum": sum(body)})
    if request.path.endswith("/cancel"):
        cancelled.append(request.headers["x-fal-request-id"])
        released.set()
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": {k.lower(): v for k, v in request.headers.items()},
            "body": body.decode("latin-1"),
            "pid": os.getpid(),
        },
        headers={"x-app": "yes"},
    )


async def hold(request: web.BaseRequest) -> web.StreamResponse:
    global disconnects
    if request.path.endswith("/cancel"):
        cancelled.append(request.headers["x-fal-request-id"])
        released.set()
        return web.json_response({})
    try:
        await released.wait()
    except asyncio.CancelledError:
        disconnects += 1
        raise
    return web.json_response({"held": True})


async def stream(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for n in range(3):
        await response.write(f'data: {{"n": {n}}}\n\n'.encode())
        if "step" in request.query and n == 0:
            await released.wait()
    return response


async def half(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "1000"})
    await response.prepare(request)
    await response.write(b"x" * 500)
    assert request.transport is not None
    request.transport.close()
    return response


async def main() -> None:
    loop = asyncio.get_running_loop()
    where = sys.argv[1]
    server = web.Server(handle, handler_cancellation=True, access_log=None)
    if where.isdecimal():
        await loop.create_server(server, "127.0.0.1", int(where))
    else:
        await loop.create_unix_server(server, where)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the test that started it


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)
