"""Connections from callers: how many, how long a header may take, what a malformed request is told."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from falplan import clock
from falplan.core import protocol
from falplan.gateway.replies import SERVER, Refusal

KEEP_ALIVE = 75.0
"""Seconds that an idle connection is kept."""

LINGER = 2.0
"""Seconds that the rest of a body is read and dropped after an early answer, so that the caller gets to see it."""

HEADER_BYTES = 16_384
"""Of the request line, and of each header."""

HEADERS = 100


class Server(web.Server):
    """aiohttp's low-level server with limits on connections and on the time of a header."""

    def __init__(
        self, handler: Any, *, most_connections: int, header_patience: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            loop=loop,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE,
            lingering_time=LINGER,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADERS,
        )
        self.most_connections = most_connections
        self.header_patience = header_patience

    def close_idle(self, seconds: float) -> None:
        """Close connections on which nothing was asked for that long."""
        since = self._loop.time() - seconds
        for connection in list(self.connections):
            if isinstance(connection, Connection) and connection.is_idle_since(since):
                connection.force_close()

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(RequestHandler):
    """One connection. A header that is not whole in time ends it; so does one connection too many."""

    __slots__ = ("_header_limit", "_heard", "_limits")

    def __init__(self, server: Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._limits = server
        self._header_limit: asyncio.TimerHandle | None = None
        self._heard = self._loop.time()

    def is_idle_since(self, since: float) -> bool:
        """Whether no request is under way, and none came since then (on the event loop's clock)."""
        return self._current_request is None and not self._messages and self._heard < since

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._limits._connections) > self._limits.most_connections:
            self._give_up()
        else:
            self._await_header()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        super().data_received(data)
        if self._messages or self._current_request is not None:
            self._header_came()
        elif self._header_limit is None:  # the next request on a kept connection has begun
            self._await_header()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._header_came()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs, and raises if an answer was begun
        known = {413: "payload_too_large", 500: "internal_error"}
        detail = "The gateway failed." if status >= 500 else "The request is malformed."
        response = Refusal(known.get(status, "bad_request"), detail, close=True).to_response()
        response.headers["Server"] = SERVER
        response.headers[protocol.REQUEST_ID] = clock.new_uuid()
        return response

    def _await_header(self) -> None:
        self._header_limit = self._loop.call_later(self._limits.header_patience, self._give_up)

    def _header_came(self) -> None:
        if self._header_limit is not None:
            self._header_limit.cancel()
            self._header_limit = None

    def _give_up(self) -> None:
        self.force_close()
