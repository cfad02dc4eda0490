"""What stands in for a runner at the other end of a way: small answers, and large ones in parts.

    python -m tests.bench.way_server SOCKET PORT

The same handlers listen on a unix socket and on TCP.
"""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web

PART = bytes(1 << 16)


async def small(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({"ok": True})


async def large(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(int(request.query["parts"])):
        await answer.write(PART)
    return answer


def application() -> web.Application:
    app = web.Application()
    app.add_routes([web.post("/small", small), web.get("/large", large)])
    return app


async def serve(socket: str, port: int) -> None:
    """Listen on both, say so, and go on until standard input ends."""
    import asyncio

    runner = web.AppRunner(application(), access_log=None)
    await runner.setup()
    await web.UnixSite(runner, socket, backlog=1024).start()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
