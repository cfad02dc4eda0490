"""The gateway: one listener for direct calls, the queue and the admin interface. Routes; decides who may."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web

from falplan import clock
from falplan.core import protocol
from falplan.core.paths import BadPath, Target, canonical_target
from falplan.core.protocol import Admin, BadHeader, CallOptions, Health, OfRequest, Run, Submit, call_options, route
from falplan.core.runtime import Key, LiveApp
from falplan.gateway.admin import AdminDoor, AdminHandler
from falplan.gateway.auth import Verifies, admit, caller_of, keeps_authorization, require
from falplan.gateway.bodies import CallerBody
from falplan.gateway.direct import DirectCall
from falplan.gateway.dispatch import Dispatcher
from falplan.gateway.edge import Server
from falplan.gateway.headers import is_sendable, to_runner
from falplan.gateway.moving import Move, Moved
from falplan.gateway.queue_api import LogsOf, QueueApi
from falplan.gateway.replies import SERVER, Refusal, of_json
from falplan.stores.runtime.database import StoreUnavailable

_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """How the gateway listens, and its limits. Port 0: one is chosen. Bytes and seconds.

    `public_url` is the scheme and authority that callers are told; by default what they reached us at.
    """

    host: str = "127.0.0.1"
    port: int = 0
    ssl: ssl.SSLContext | None = None
    public_url: str | None = None
    largest_body: int = 64 * 1024 * 1024
    largest_upload: int = 2 * 1024 * 1024 * 1024
    most_connections: int = 2000
    header_patience: float = 10.0
    body_patience: float = 10.0
    prune_every: float = 60.0


@dataclass(slots=True, eq=False)
class Gateway:
    """A gateway that listens at `url`."""

    url: str
    host: str
    port: int
    dispatcher: Dispatcher
    _listener: asyncio.Server
    _server: Server
    _front: _Front
    _pruning: asyncio.Task[None]
    _stopped: bool = field(default=False)

    async def stop(self, grace: float) -> None:
        """Accept nothing more, finish what is in flight within `grace` seconds, close everything. May be called again.

        Queued requests stay in the store; those in flight that did not end are tried again by the next gateway.
        """
        if self._stopped:
            return
        self._stopped = True
        self._listener.close()
        self._pruning.cancel()
        self._server.pre_shutdown()
        self.dispatcher.pause()
        await asyncio.gather(self._server.shutdown(grace), self.dispatcher.settle(grace))
        await self.dispatcher.close()
        await asyncio.gather(self._pruning, return_exceptions=True)

    async def give_way(self, move: Move, patience: float) -> None:
        """Accept nothing more, and let another gateway answer what comes from now on. The listening socket stays open.

        Direct calls that a runner has begun go on here. Queued requests have `patience` seconds to end; the others are tried
        again by the next gateway. When this returns nothing here uses the store any more.
        """
        self._stopped = True
        self._listener.close()
        self._pruning.cancel()
        self._front.move = move
        self.dispatcher.give_way()
        give_up = asyncio.get_running_loop().time() + patience
        await self.dispatcher.settle(patience)
        while self._front.begun and asyncio.get_running_loop().time() < give_up:  # noqa: ASYNC110 - once in a life, and bounded
            await asyncio.sleep(0.01)
        await asyncio.gather(self._pruning, return_exceptions=True)

    async def linger(self, move: Move, idle: float, within: float) -> None:
        """After giving way: answer on open connections until all are closed; one that is idle that long is. In seconds."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + within
        while self._server.connections and loop.time() < give_up:
            self._server.close_idle(idle)
            await asyncio.sleep(0.1)
        await self._server.shutdown(0.5)  # 0 would mean: without a limit
        await self.dispatcher.close()
        await move.close()


async def start_gateway(
    config: GatewayConfig,
    dispatcher: Dispatcher,
    *,
    keys: Verifies,
    admin: AdminHandler,
    logs_of: LogsOf,
    listening: socket.socket | None = None,
    before_listening: Callable[[int], Awaitable[None]] | None = None,
) -> Gateway:
    """Listen. The dispatcher should have recovered before; the database is the caller's to close.

    With `listening`, that socket is listened on; it stays open, and its own, when the gateway ends. `before_listening` is called
    while the gateway answers on another loopback port, which it is given, and nowhere else.

    Raises:
        OSError: the address can't be listened on. What `before_listening` raises.
    """
    loop = asyncio.get_running_loop()
    front = _Front(config, dispatcher, keys, AdminDoor(admin), QueueApi(dispatcher, logs_of))
    server = Server(
        front.handle,
        most_connections=_connections(config.most_connections),
        header_patience=config.header_patience,
        loop=loop,
    )
    patience = config.header_patience if config.ssl else None
    if before_listening is not None:
        probe = await loop.create_server(server, "127.0.0.1", 0, ssl=config.ssl, ssl_handshake_timeout=patience)
        try:
            await before_listening(int(probe.sockets[0].getsockname()[1]))
        finally:
            probe.close()
    where: dict[str, Any] = {"host": config.host, "port": config.port, "reuse_address": True}
    if listening is not None:
        where = {"sock": listening.dup()}
    listener = await loop.create_server(
        server,
        ssl=config.ssl,
        backlog=1024,
        ssl_handshake_timeout=patience,
        **where,
    )
    port = int(listener.sockets[0].getsockname()[1])
    scheme = "https" if config.ssl else "http"
    authority = f"[{config.host}]" if ":" in config.host else config.host
    pruning = loop.create_task(_prune(dispatcher, config.prune_every))
    return Gateway(f"{scheme}://{authority}:{port}", config.host, port, dispatcher, listener, server, front, pruning)


def _connections(wanted: int) -> int:
    """As many as the process may have open at two descriptors a call, with some kept for files and runners."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(16, (soft - 128) // 2))


async def _prune(dispatcher: Dispatcher, every: float) -> None:
    while True:
        try:
            await dispatcher.prune()
        except StoreUnavailable:
            pass  # tried again; what callers do reports it
        await asyncio.sleep(every)


@dataclass(slots=True)
class _Front:
    """Routes each request to what answers it."""

    config: GatewayConfig
    dispatcher: Dispatcher
    keys: Verifies
    admin: AdminDoor
    queue: QueueApi
    move: Move | None = None
    begun: int = 0  #: requests that may still use the store

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = clock.new_uuid()
        try:
            response = await (self._here(request, request_id) if self.move is None else self._there(request))
        except Refusal as refusal:
            response = refusal.to_response()
        if self.move is not None and not response.prepared:
            response.force_close()
        if not response.prepared:
            response.headers.setdefault(protocol.REQUEST_ID, request_id)
            response.headers.setdefault("Server", SERVER)
        return response

    async def _here(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        self.begun += 1
        try:
            return await self._answer(request, request_id)
        except (Moved, StoreUnavailable) as exc:
            if self.move is not None and (isinstance(exc, Moved) or not request.body_exists):
                self.begun -= 1  # it needs nothing of ours any more
                try:
                    return await self._there(request, exc)
                finally:
                    self.begun += 1
            detail = "The queue's storage is not available; nothing was accepted. Try again."
            raise Refusal("unavailable", detail, headers={"Retry-After": "1"}) from exc
        finally:
            self.begun -= 1

    async def _there(self, request: web.BaseRequest, moved: Exception | None = None) -> web.StreamResponse:
        """Another gateway answers. What was read of the body already comes with `Moved`."""
        assert self.move is not None  # noqa: S101 - the caller looked
        read = moved.body if isinstance(moved, Moved) else None
        body = CallerBody(request, self.config.largest_upload, self.config.body_patience)
        if moved is None:
            await body.begin()
        return await self.move.relay(request, body.chunks() if read is None and request.body_exists else read)

    async def _answer(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        host = _host(request)
        target = _target(request, host)
        caller = caller_of(request.headers, self.keys)
        it = route(request.method, target.path)
        base = self.config.public_url or f"{'https' if self.config.ssl else 'http'}://{host}"
        match it:
            case Health():
                return of_json({"status": "ok"})
            case Admin():
                body = CallerBody(request, self.config.largest_upload, self.config.body_patience)
                behind = Target(it.path, target.query)
                return await self.admin.answer(request, behind, caller=caller, body=body, request_id=request_id)
            case Run() | Submit() | OfRequest():
                app = admit(self.dispatcher.app(it.endpoint), caller)
                return await self._of_app(request, it, app, target, caller, request_id, base)
            case None:
                require(caller)
                raise Refusal("not_found", "There is nothing at this path.")

    async def _of_app(
        self,
        request: web.BaseRequest,
        it: Run | Submit | OfRequest,
        app: LiveApp,
        target: Target,
        caller: Key | None,
        request_id: str,
        base: str,
    ) -> web.StreamResponse:
        if isinstance(it, OfRequest):
            response = await self.queue.of_request(request, it, query=target.query, base=base, moved=self._stream_there)
            if not response.prepared:
                response.headers[protocol.REQUEST_ID] = it.request_id
            return response
        if request.headers.get("Upgrade"):
            detail = "This gateway serves no WebSockets and no other upgrades: call the app over plain HTTP."
            raise Refusal("not_implemented", detail, close=True)
        options = _options(request)
        body = CallerBody(request, self.config.largest_body, self.config.body_patience)
        if isinstance(it, Submit):
            return await self.queue.submit(
                request,
                app,
                it,
                query=target.query,
                options=options,
                body=body,
                caller=caller,
                request_id=request_id,
                base=base,
            )
        headers = to_runner(request.headers, keep_authorization=keeps_authorization(app, caller))
        headers[protocol.REQUEST_ID] = request_id
        headers[protocol.ENDPOINT] = app.endpoint
        call = DirectCall(
            request, app, it.sub_path or "/", target.query, headers, options, body, request_id, self.dispatcher
        )
        self.begun -= 1  # a direct call never uses the store: it may go on for as long as its runner takes
        try:
            return await call.answer()
        finally:
            self.begun += 1

    async def _stream_there(self, request: web.BaseRequest, response: web.StreamResponse) -> bool:
        """A stream of a request's status goes on with what another gateway knows. False: there is none."""
        if self.move is None:
            return False
        self.begun -= 1
        try:
            await self.move.continue_with(request, None, response)
        finally:
            self.begun += 1
        return True


def _host(request: web.BaseRequest) -> str:
    if request.version not in (HttpVersion10, HttpVersion11):
        raise Refusal("bad_request", "The gateway speaks HTTP/1.1.", close=True)
    values = request.headers.getall("Host", [])
    if len(values) != 1 or not _HOST.fullmatch(values[0]):
        raise Refusal("bad_request", "A request needs exactly one valid Host header.", close=True)
    if not all(is_sendable(value) for value in request.headers.values()):
        raise Refusal("bad_request", "A header is not UTF-8, or holds a control character.", close=True)
    return values[0]


def _target(request: web.BaseRequest, host: str) -> Target:
    try:
        return canonical_target(request.raw_path, host)
    except BadPath as exc:
        raise Refusal("bad_request", f"The path is refused: {exc}.") from exc


def _options(request: web.BaseRequest) -> CallOptions:
    try:
        return call_options(request.headers)
    except BadHeader as exc:
        raise Refusal("bad_request", f"{exc}.") from exc
