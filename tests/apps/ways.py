"""An app that shows how it is reached: what it got, answers in parts, websockets, and whether callers went away. Listens on PORT."""

from __future__ import annotations

import asyncio
import hashlib
import os

from aiohttp import web

gone: list[str] = []


async def small(request: web.Request) -> web.Response:
    return web.json_response({"headers": dict(request.headers), "gone": gone, "pid": os.getpid()})


async def upload(request: web.Request) -> web.Response:
    seal, size = hashlib.sha256(), 0
    async for part in request.content.iter_any():
        seal.update(part)
        size += len(part)
    return web.json_response({"sha256": seal.hexdigest(), "size": size})


async def download(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(int(request.query["parts"])):
        await answer.write(bytes(1 << 16))
    return answer


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    try:
        await answer.prepare(request)
        while True:
            await answer.write(b"tick\n")
            await asyncio.sleep(0.02)
    except (ConnectionError, asyncio.CancelledError):
        gone.append(request.query["name"])
        raise


async def silent(request: web.Request) -> web.StreamResponse:
    try:
        await asyncio.sleep(3600)
    finally:
        gone.append(request.query["name"])
    return web.Response()


async def talk(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(f"heard {message.data}")
    return socket


app = web.Application()
app.add_routes(
    [
        web.get("/", small),
        web.post("/upload", upload),
        web.get("/download", download),
        web.get("/endless", endless),
        web.get("/silent", silent),
        web.get("/talk", talk),
    ]
)
if __name__ == "__main__":
    web.run_app(app, host=os.environ["HOST"], port=int(os.environ["PORT"]), print=None, handler_cancellation=True)
