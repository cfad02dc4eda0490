"""One runner as the gateway sees it: its connections, its slots, one exchange at a time with it. Chooses nothing."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from falplan.core import protocol
from falplan.core.requests import Failure
from falplan.core.runtime import RunnerTarget
from falplan.sdk.ways import connector_to

T = TypeVar("T")

CONNECT_TIMEOUT = 10.0
KEEP_ALIVE = 1.5
"""Seconds that an idle connection is kept: less than common servers keep theirs, so that none is used as it closes."""


SENT_AT_ONCE = 512 * 1024
"""Bytes of a body that are written in one go; more goes in parts, so that others get their turn."""


class RunnerFailed(Exception):
    """The runner gave no whole answer. `blame` is False when it was the caller who took too long."""

    def __init__(self, failure: Failure, detail: str, *, blame: bool = True) -> None:
        super().__init__(detail)
        self.failure = failure
        self.blame = blame


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of a runner. `path` is canonical, `query` without '?'; `length` of a streamed body, None if unknown."""

    method: str
    path: str
    query: str
    headers: CIMultiDict[str]
    body: bytes | AsyncIterator[bytes] | None
    length: int | None = None


@dataclass(slots=True, eq=False)
class RunnerLink:
    """A runner with the slots taken on it. `listed` says whether it may be given requests, `broken` why it is not any more."""

    target: RunnerTarget
    listed: bool = True
    broken: str | None = None
    gone: bool = False
    taken: int = 0
    idle_since: float | None = None
    hints: frozenset[str] = frozenset()
    _exchanges: set[Exchange] = field(default_factory=set)
    _session: aiohttp.ClientSession | None = None
    _leads_to: RunnerTarget | None = None  #: where the session's connections lead
    _earlier: list[aiohttp.ClientSession] = field(default_factory=list)  #: sessions that led elsewhere
    _idle: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        """Whether one more request may be given to it."""
        return self.listed and not self.broken and not self.gone and self.taken < self.target.max_multiplexing

    @property
    def is_over(self) -> bool:
        """Whether nothing needs this link any more."""
        return not self.taken and not self.listed

    def free(self, now: float) -> None:
        """Give one slot back."""
        self.taken -= 1
        if not self.taken:
            self.idle_since = now
            for waiting in self._idle:
                if not waiting.done():
                    waiting.set_result(None)
            self._idle.clear()

    async def drained(self) -> None:
        """Wait until no slot is taken."""
        while self.taken:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiting)
            await waiting

    def abandon(self) -> None:
        """The process is gone: exchanges with it fail now."""
        self.gone = True
        for exchange in list(self._exchanges):
            exchange.expire()

    async def open(self, call: Call, *, limit: float) -> Exchange:
        """Send a request and wait for the head of the answer. The caller closes the exchange.

        `limit` in seconds is for the whole exchange.

        Raises:
            RunnerFailed: REFUSED if the runner has seen nothing of the request.
        """
        exchange = Exchange(self, asyncio.get_running_loop().time() + limit)
        self._exchanges.add(exchange)
        try:
            await exchange.begin(self._connections(), call)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def forget(self, exchange: Exchange) -> None:
        self._exchanges.discard(exchange)

    async def close(self) -> None:
        """Close the connections."""
        sessions, self._earlier = self._earlier, []
        if self._session:
            sessions.append(self._session)
            self._session = None
        for session in sessions:
            await session.close()

    def _connections(self) -> aiohttp.ClientSession:
        target = self.target
        if self._session is not None and not _same_way(target, self._leads_to):
            self._earlier.append(self._session)  # exchanges that are under way end on it
            self._session = None
        if self._session is None:
            self._leads_to = target
            self._session = aiohttp.ClientSession(
                connector=connector_to(target.address, target.access, keep_alive=KEEP_ALIVE),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                requote_redirect_url=False,
                max_line_size=32_768,
                max_field_size=32_768,
            )
        return self._session


@dataclass(slots=True, eq=False)
class Exchange:
    """One request on its way. Every wait for the runner ends at the deadline, or at once when the runner is gone."""

    link: RunnerLink
    deadline: float
    _response: aiohttp.ClientResponse | None = None
    _limit: asyncio.Timeout | None = None

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._answer.headers

    @property
    def _answer(self) -> aiohttp.ClientResponse:
        assert self._response is not None, "begin() came first"  # noqa: S101 - narrows the type
        return self._response

    async def begin(self, session: aiohttp.ClientSession, call: Call) -> None:
        url = URL.build(scheme="http", host="localhost", path=call.path, query_string=call.query, encoded=True)
        headers = call.headers.copy()
        if call.length is not None and call.body is not None and not isinstance(call.body, bytes):
            headers["Content-Length"] = str(call.length)

        large = isinstance(call.body, bytes) and len(call.body) > SENT_AT_ONCE
        body = io.BytesIO(cast("bytes", call.body)) if large else call.body

        async def send() -> aiohttp.ClientResponse:
            return await session.request(call.method, url, data=body, headers=headers, allow_redirects=False)

        self._response = await self._within(send, Failure.LOST)
        if protocol.RUNNER_HINTS in self.headers:
            self.link.hints = frozenset(h.strip() for h in self.headers[protocol.RUNNER_HINTS].split(","))

    async def chunk(self) -> bytes:
        """The next part of the body, b'' at its end.

        Raises:
            RunnerFailed: INCOMPLETE or TIMEOUT.
        """
        content = self._answer.content
        if content.is_eof() and content.exception() is None:  # all of it is here
            return content.read_nowait()
        return await self._within(content.readany, Failure.INCOMPLETE)

    @property
    def is_read(self) -> bool:
        """Whether the whole answer was read."""
        return self._answer.content.at_eof()

    def expire(self) -> None:
        """End the current wait, and every later one."""
        self.deadline = 0.0
        if self._limit:
            self._limit.reschedule(0.0)

    def close(self) -> None:
        """Drop the connection unless the answer was read to its end. May be called again."""
        self.link.forget(self)
        if self._response:
            self._cut_off()
            self._response.close()

    def _cut_off(self) -> None:
        """TLS ends in turns: a runner whose answer nobody reads any more is to learn of it at once."""
        connection = self._answer.connection
        if self.link.target.access is not None and connection is not None and connection.transport is not None:
            connection.transport.abort()

    async def _within(self, step: Callable[[], Awaitable[T]], broken: Failure) -> T:
        if self.deadline <= asyncio.get_running_loop().time():
            raise self._late(blame=self.link.gone)
        try:
            async with asyncio.timeout_at(self.deadline) as limit:
                self._limit = limit
                return await step()
        except aiohttp.ClientConnectorError as exc:
            raise RunnerFailed(Failure.REFUSED, f"it took no connection: {exc.os_error.strerror}") from exc
        except aiohttp.ConnectionTimeoutError as exc:
            raise RunnerFailed(Failure.REFUSED, f"it took no connection within {CONNECT_TIMEOUT:g} s") from exc
        except TimeoutError as exc:
            raise self._late(blame=True) from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise RunnerFailed(broken, f"the connection broke: {type(exc).__name__}") from exc
        finally:
            self._limit = None

    def _late(self, *, blame: bool) -> RunnerFailed:
        if self.link.gone:
            return RunnerFailed(Failure.LOST if self._response is None else Failure.INCOMPLETE, "its process ended")
        return RunnerFailed(Failure.TIMEOUT, "the attempt ran longer than request_timeout", blame=blame)


def _same_way(target: RunnerTarget, other: RunnerTarget | None) -> bool:
    return other is not None and (target.address, target.access) == (other.address, other.access)
