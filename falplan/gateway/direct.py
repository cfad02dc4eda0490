"""Direct calls: a request goes to a runner while its caller waits, streamed both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDict

from falplan.core import protocol
from falplan.core.protocol import CallOptions
from falplan.core.requests import Failure, why_suspect
from falplan.core.runtime import LiveApp, Outcome
from falplan.gateway.bodies import CallerBody
from falplan.gateway.dispatch import Dispatcher
from falplan.gateway.headers import from_runner
from falplan.gateway.lines import Waiter
from falplan.gateway.moving import Moved
from falplan.gateway.queueing import FAILED
from falplan.gateway.replies import SERVER, Refusal, of_outcome
from falplan.gateway.runners import Call, Exchange, RunnerFailed, RunnerLink
from falplan.gateway.scheduling import GaveWay, NoSuchApp, StartTimeout

SMALL = 1024 * 1024
"""Bytes of a body of known length that is read before a runner is taken, so that a slow caller holds no slot."""


@dataclass(slots=True)
class DirectCall:
    """One caller's request to one app. `headers` are those for the runner; `path` begins with '/'."""

    request: web.BaseRequest
    app: LiveApp
    path: str
    query: str
    headers: CIMultiDict[str]
    options: CallOptions
    body: CallerBody
    request_id: str
    dispatcher: Dispatcher

    async def answer(self) -> web.StreamResponse:
        """Wait for a runner, send the request, pass the answer on. A caller that goes away frees the runner.

        Raises:
            Refusal: the body breaks a limit.
        """
        await self.body.begin()
        small = self.body.length is not None and self.body.length <= SMALL
        content: bytes | AsyncIterator[bytes] = await self.body.read() if small else self.body.chunks()
        call = Call(self.request.method, self.path, self.query, self.headers, content or None, self.body.length)
        waiter = Waiter(self.dispatcher.monotonic(), _never, self.options.low_priority, self.options.hint)
        deadline = self._deadline()
        while True:
            try:
                link = await self.dispatcher.scheduler.acquire(self.app.endpoint, waiter, deadline=deadline)
            except StartTimeout:
                detail = "No runner began the request within its start timeout."
                return of_outcome(protocol.failed("request_timeout", detail, user_timeout=True))
            except GaveWay:
                raise Moved(content if isinstance(content, bytes) else None) from None
            except NoSuchApp:
                raise Refusal("not_found", "There is no such app here.") from None
            try:
                return await self._through(link, call)
            except RunnerFailed as exc:
                if exc.failure is not Failure.REFUSED or (self.body.touched and not small):
                    return of_outcome(_failed(exc))
            finally:
                self.dispatcher.scheduler.release(link)

    def _deadline(self) -> float | None:
        seconds = self.options.start_timeout or self.app.request_start_timeout
        return None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def _through(self, link: RunnerLink, call: Call) -> web.StreamResponse:
        exchange = None
        try:
            exchange = await link.open(call, limit=self.app.request_timeout)
            self._judge(link, exchange)
            return await self._pass_on(exchange)
        except RunnerFailed as exc:
            if self.body.failure:  # it was the caller's body that broke, and with it the connection to the runner
                raise self.body.failure from None
            if exc.blame:
                self.dispatcher.scheduler.suspect(link, f"{why_suspect(exc.failure)}: {exc}")
            raise
        finally:
            if exchange:
                exchange.close()

    def _judge(self, link: RunnerLink, exchange: Exchange) -> None:
        reason = why_suspect(Outcome(exchange.status, {}, b""))
        if exchange.headers.get(protocol.STOP_RUNNER, "").lower() == "true":
            reason = "it asked to be stopped"
        if reason:
            self.dispatcher.scheduler.suspect(link, reason)

    async def _pass_on(self, exchange: Exchange) -> web.StreamResponse:
        headers = from_runner(exchange.headers, exchange.status)
        headers[protocol.REQUEST_ID] = self.request_id
        headers["Server"] = SERVER
        first = await exchange.chunk()
        if first and exchange.is_read:  # a small answer goes out in one piece
            headers.pop("Content-Length", None)
            return web.Response(body=first, status=exchange.status, headers=headers)
        response = web.StreamResponse(status=exchange.status, headers=headers)
        if "Content-Length" not in headers:
            if self.request.version >= (1, 1):
                response.enable_chunked_encoding()
            else:
                response.force_close()
        await response.prepare(self.request)
        try:
            while first:
                await response.write(first)
                first = await exchange.chunk()
        except RunnerFailed:
            # The head is out: a cut connection is the only way left to say that the answer is not whole.
            if self.request.transport:
                self.request.transport.abort()
            raise
        await response.write_eof()
        return response


def _failed(exc: RunnerFailed) -> Outcome:
    return protocol.failed(FAILED[exc.failure], f"The runner failed: {exc}.")


def _never(_: RunnerLink | None) -> None:
    raise AssertionError("replaced before the waiter stands in line")
