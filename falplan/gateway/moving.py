"""A gateway gives its place to another one: requests on connections that are still open here are answered by that one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from falplan.gateway.replies import Refusal

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"})
PATIENCE = 120.0
"""Seconds that a request waits for the other gateway before it is told to come again."""


class Moved(Exception):
    """The request was not begun here, and is not going to be: the other gateway answers it. `body` is what was read of it."""

    def __init__(self, body: bytes | None = None) -> None:
        super().__init__()
        self.body = body


@dataclass(slots=True, eq=False)
class Move:
    """One move. `url` is where both gateways are reached on this machine, `name` the one that the certificate carries."""

    url: str
    trust: ssl.SSLContext | None = None
    name: str | None = None
    _there: asyncio.Event = field(default_factory=asyncio.Event)
    _session: aiohttp.ClientSession | None = None

    def arrived(self) -> None:
        """Somebody answers at the URL again."""
        self._there.set()

    async def relay(self, request: web.BaseRequest, body: bytes | AsyncIterator[bytes] | None) -> web.StreamResponse:
        """Send a request on and its answer back, in pieces as they come; then the connection ends.

        Raises:
            Refusal: nobody took over in time, or the way there broke before an answer began.
        """
        response = web.StreamResponse()
        await self.continue_with(request, body, response)
        return response

    async def continue_with(
        self, request: web.BaseRequest, body: bytes | AsyncIterator[bytes] | None, response: web.StreamResponse
    ) -> None:
        """The same; an answer that was begun already goes on with the body of the other gateway's."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._there.wait()
            async with self._client().request(
                request.method,
                self.url + request.raw_path,
                headers=_forwarded(request),
                data=body,
                allow_redirects=False,
                server_hostname=self.name,
            ) as answer:
                await self._pass_on(request, answer, response)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if response.prepared:
                if request.transport:
                    request.transport.abort()
                return
            detail = "The gateway is being replaced and its successor does not answer yet. Try again."
            raise Refusal("unavailable", detail, headers={"Retry-After": "1"}, close=True) from exc

    async def _pass_on(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, response: web.StreamResponse
    ) -> None:
        if not response.prepared:
            response.set_status(answer.status, answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    response.headers.add(name, value)
            response.force_close()
            if "Content-Length" not in response.headers and request.version >= (1, 1):
                response.enable_chunked_encoding()
            await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, ssl=self.trust if self.trust else False)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self._session

    async def close(self) -> None:
        """Close the way there."""
        if self._session is not None:
            await self._session.close()


def _forwarded(request: web.BaseRequest) -> CIMultiDict[str]:
    """What the caller sent, less what belongs to its connection. Host stays: URLs in answers are made from it."""
    headers = CIMultiDict((n, v) for n, v in request.headers.items() if n.lower() not in HOP_BY_HOP)
    if not request.body_exists:
        headers.pop("Content-Length", None)
    return headers
