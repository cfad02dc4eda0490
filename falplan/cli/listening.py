"""The socket that callers of a gateway connect to."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.runner.supervisor import free_port
from falplan.stores.home import GatewaySettings

log = logging.getLogger("falplan.serve")

PATIENCE = 10.0
"""Seconds that a port is waited for which was chosen before: somebody else may have it for a moment."""
POLL = 0.2


def listen(settings: GatewaySettings, patience: float = PATIENCE) -> socket.socket:
    """The socket that callers connect to; a successor inherits it.

    Raises:
        FalplanError: the address can't be listened on.
    """
    if settings.port:
        return _once_free(settings.listen, settings.port, clock.monotonic() + patience)
    # A port that is kept for years must not be one that the system gives to any connection while nobody listens on it.
    port, claim = free_port()
    with contextlib.closing(claim) if claim else contextlib.nullcontext(), contextlib.suppress(OSError):
        return _listen(settings.listen, port)
    return _once_free(settings.listen, 0, 0.0)


def _once_free(address: str, port: int, deadline: float) -> socket.socket:
    waited = False
    while True:
        try:
            return _listen(address, port)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or clock.monotonic() > deadline:
                raise FalplanError("The gateway can't listen", _why(address, port, exc)) from exc
        if not waited:
            log.warning("%s:%d is in use: waiting for it", address, port)
        waited = True
        time.sleep(POLL)


def _why(address: str, port: int, exc: OSError) -> str:
    said = f"{address}:{port}: {exc.strerror}."
    if exc.errno != errno.EADDRINUSE:
        return said
    return f"{said} `ss -ltnp 'sport = :{port}'` tells who listens there. End it, or choose another port: `gateway: {{port: …}}`."


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=1024, dualstack_ipv6=address == "::")
