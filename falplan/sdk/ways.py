"""Connections to runners by their addresses, for an HTTP client. Knows no requests, and chooses no runner."""

from __future__ import annotations

import asyncio
import functools
import hmac
import socket
import ssl
from typing import TYPE_CHECKING, cast

import aiohttp

from falplan.core.runtime import RunnerAccess
from falplan.runner.front import GREETING, REFUSED, TAKEN, keep_alive

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.tracing import Trace

PATIENCE = 10.0
"""Seconds for a connection by TLS until the runner's app has taken it."""

LEAVING = 1.0
"""Seconds that the end of TLS may take before a connection is cut off: the runner learns of it then, at the latest."""


class NoWay(aiohttp.ClientConnectorError):
    """Nobody let us in at a runner's front, and why. It has seen nothing of the request."""

    def __init__(self, connection_key: ConnectionKey, because: str) -> None:
        super().__init__(connection_key, OSError(0, because))

    def __str__(self) -> str:
        return str(self.os_error.strerror)


class _Declined(OSError):
    """The runner's front ended the connection, or its app took none."""


def connector_to(
    address: str, access: RunnerAccess | None, *, keep_alive: float, patience: float = PATIENCE
) -> aiohttp.BaseConnector:
    """Connections to `unix:/path`, `tcp:HOST:PORT` or `tls:HOST:PORT`, whatever the URL's host is. Needs a running loop.

    `keep_alive` in seconds, for which an idle connection is kept; `patience` in seconds, for a connection by TLS.
    """
    kind, _, where = address.partition(":")
    if kind == "unix":
        return aiohttp.UnixConnector(where, limit=0, keepalive_timeout=keep_alive)
    host, _, port = where.rpartition(":")
    if kind == "tls":
        if access is None:
            raise ValueError(f"{address} takes a certificate and a token")
        return TlsConnector(host, int(port), access, keep_alive=keep_alive, patience=patience)
    fixed = _Fixed(host, int(port))
    return aiohttp.TCPConnector(limit=0, keepalive_timeout=keep_alive, use_dns_cache=False, resolver=fixed)


class TlsConnector(aiohttp.BaseConnector):
    """Connections to one runner's front. Each shows the one certificate that is right before it gets the token, and takes the token
    before it gets a byte of a request."""

    def __init__(self, host: str, port: int, access: RunnerAccess, *, keep_alive: float, patience: float) -> None:
        super().__init__(limit=0, keepalive_timeout=keep_alive)
        self._host, self._port, self._access, self._patience = host, port, access, patience

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as the class above calls it
    ) -> ResponseHandler:
        try:
            async with asyncio.timeout(self._patience):
                transport = await knock(self._host, self._port, self._access)
        except (OSError, ValueError) as exc:  # TimeoutError and SSLError are among them
            raise NoWay(req.connection_key, _no_way(self._host, self._port, exc, self._patience)) from exc
        handler = self._factory()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        return handler


async def why_not_let_in(host: str, port: int, access: RunnerAccess, *, patience: float = PATIENCE) -> str | None:
    """Why a runner's front, or its app, takes no connection, with where and how; None if it does. `patience` in seconds."""
    try:
        async with asyncio.timeout(patience):
            transport = await knock(host, port, access)
    except (OSError, ValueError) as exc:
        return _no_way(host, port, exc, patience)
    transport.abort()
    return None


async def knock(host: str, port: int, access: RunnerAccess) -> asyncio.Transport:
    """A connection to a runner's app, which has taken it.

    Raises:
        OSError: there is no way there, somebody else answers, or nobody lets us in. Only the runner has seen the token.
    """
    loop = asyncio.get_running_loop()
    context, certificate = _pinned(access.certificate)
    transport, knocking = await loop.create_connection(
        _Knock, host, port, ssl=context, ssl_shutdown_timeout=LEAVING, ssl_handshake_timeout=PATIENCE
    )
    try:
        shown = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if not hmac.compare_digest(shown or b"", certificate):
            raise ssl.SSLCertVerificationError("another certificate")
        keep_alive(cast("socket.socket", transport.get_extra_info("socket")))
        transport.write(GREETING + access.token.reveal() + b"\n")
        said = await knocking.said
        if said == REFUSED:
            raise _Declined(0, "the app takes no connection")
        if said != TAKEN:
            raise _Declined(0, "the runner took no token of this control plane")
    except BaseException:
        transport.abort()
        raise
    return transport


class _Knock(asyncio.Protocol):
    """Waits for the front's answer, which has as many bytes whatever it says."""

    def __init__(self) -> None:
        self.said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._came = b""

    def data_received(self, data: bytes) -> None:
        self._came += data
        if len(self._came) >= len(TAKEN):
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()

    def _settle(self) -> None:
        if not self.said.done():
            self.said.set_result(self._came)


@functools.lru_cache(maxsize=1024)
def _pinned(certificate: str) -> tuple[ssl.SSLContext, bytes]:
    """Trust in one certificate, and in nobody who vouches for others; and its bytes. It is compared whole: it needs no name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context, ssl.PEM_cert_to_DER_cert(certificate)


def _no_way(host: str, port: int, exc: Exception, patience: float) -> str:
    return f"{host}:{port} (`reach: direct`): {_why(exc, patience)}"


def _why(exc: Exception, patience: float) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return "another certificate is shown there than the runner's; nothing was sent"
    if isinstance(exc, ssl.SSLError):
        return f"no TLS is spoken there ({exc.reason or 'it ended'})"
    if isinstance(exc, TimeoutError):
        return f"nothing answered within {patience:g} s, as behind a firewall"
    if isinstance(exc, ConnectionRefusedError):
        return "nothing listens there, or a firewall refuses it"
    said = exc.strerror if isinstance(exc, OSError) else ""
    return said or str(exc) or type(exc).__name__


class _Fixed(aiohttp.abc.AbstractResolver):
    """Every name leads to the runner's port: the URL's host never chooses where a request goes."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            aiohttp.abc.ResolveResult(
                hostname=host, host=self._host, port=self._port, family=socket.AF_INET, proto=0, flags=flags
            )
        ]

    async def close(self) -> None:
        pass
