"""The door to the admin interface: its caller is checked here, everything else is somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web
from yarl import URL

from falplan.core import protocol
from falplan.core.paths import Target
from falplan.core.runtime import Key, KeyScope
from falplan.gateway.auth import require
from falplan.gateway.bodies import CallerBody
from falplan.gateway.replies import SERVER


class AdminBody(Protocol):
    """A request's body, read at most once. Raises when it is too large or too slow; that is answered by the gateway."""

    async def read(self) -> bytes: ...
    def chunks(self) -> AsyncIterator[bytes]: ...


class AdminAnswer(Protocol):
    """What goes back. A body of chunks is sent as it comes."""

    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes | AsyncIterator[bytes]: ...
    @property
    def content_type(self) -> str: ...


class AdminHandler(Protocol):
    """What is behind /admin/v1. `path` begins behind it; the caller's key is an admin's."""

    async def handle(
        self, method: str, path: str, query: Mapping[str, str], body: AdminBody, caller: Key
    ) -> AdminAnswer: ...


@dataclass(slots=True)
class AdminDoor:
    """Lets admins through. What was begun is finished also when its caller goes away."""

    handler: AdminHandler
    _tasks: set[asyncio.Task[AdminAnswer]] = field(default_factory=set)

    async def answer(
        self, request: web.BaseRequest, target: Target, *, caller: Key | None, body: CallerBody, request_id: str
    ) -> web.StreamResponse:
        """Hand a request over and send what comes back; `target.path` begins behind /admin/v1. Raises Refusal."""
        admin = require(caller, KeyScope.ADMIN)
        await body.begin()
        query = dict(URL.build(query_string=target.query, encoded=True).query)
        answer = await asyncio.shield(self._begin(request.method, target.path, query, body, admin))
        headers = {"Content-Type": answer.content_type, "Cache-Control": "no-store", protocol.REQUEST_ID: request_id}
        if isinstance(answer.body, bytes):
            return web.Response(body=answer.body, status=answer.status, headers=headers)
        response = web.StreamResponse(status=answer.status, headers={**headers, "Server": SERVER})
        await response.prepare(request)
        async for chunk in answer.body:
            await response.write(chunk)
        await response.write_eof()
        return response

    def _begin(
        self, method: str, path: str, query: dict[str, str], body: CallerBody, caller: Key
    ) -> asyncio.Task[AdminAnswer]:
        async def handle() -> AdminAnswer:
            return await self.handler.handle(method, path, query, body, caller)

        task = asyncio.get_running_loop().create_task(handle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
