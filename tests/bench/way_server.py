"""What stands in for a runner at the other end of a way: small answers, and large ones in parts.

    python -m tests.bench.way_server SOCKET PORT TLS_PORT CERTIFICATE KEY TOKEN

The same handlers listen on a unix socket, on TCP, and on TCP with TLS, where a bearer token is asked for.
"""

from __future__ import annotations

import hmac
import ssl
import sys

import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler

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


def application(token: str = "") -> web.Application:
    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token and not hmac.compare_digest(request.headers.get("Authorization", ""), f"Bearer {token}"):
            raise web.HTTPUnauthorized
        return await handler(request)

    app = web.Application(middlewares=[admit])
    app.add_routes([web.post("/small", small), web.get("/large", large)])
    return app


async def serve(socket: str, port: int, tls_port: int, certificate: str, key: str, token: str) -> None:
    """Listen on all three, say so, and go on until standard input ends."""
    import asyncio

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    plain, closed = (web.AppRunner(application(t), access_log=None) for t in ("", token))
    await plain.setup()
    await closed.setup()
    await web.UnixSite(plain, socket, backlog=1024).start()
    await web.TCPSite(plain, "127.0.0.1", port).start()
    await web.TCPSite(closed, "127.0.0.1", tls_port, ssl_context=context).start()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    path, port, tls_port, *rest = sys.argv[1:]
    uvloop.run(serve(path, int(port), int(tls_port), *rest))
