"""Looks at a machine over one connection, and at the ways to it. Changes nothing there, judges nothing, keeps no connection."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from falplan.core.errors import FalplanError
from falplan.core.hostfacts import Facts, facts_of
from falplan.core.values import JsonObject
from falplan.runner.facts import GREETING
from falplan.sdk.shell import Unreachable
from falplan.sdk.ssh.connect import Connection, connect, turn, words
from falplan.sdk.ssh.forward import Forwards
from falplan.sdk.ssh.keys import HostKeyRefused
from falplan.sdk.ssh.link import EXAMINED, FACTS, HandFailed, Link
from falplan.sdk.ssh.target import Credentials, Target
from falplan.sdk.values import Direct

if TYPE_CHECKING:
    import paramiko

PATIENCE = 10.0
"""Seconds for an answer through a forwarded port or socket."""

ASKED = 5
"""Times that the clock is asked for: the quickest answer counts."""


def examine(
    target: Target, credentials: Credentials, folder: str, *, now: Callable[[], float], direct: Direct | None = None
) -> Facts:
    """Log in and look. `folder` is where falplan's things lie there, or will; `now` tells seconds since 1970; with `direct`, one of its
    ports is tried.

    Raises:
        HostKeyRefused, LoginRefused, Unreachable: as for `connect`.
        NoPython, NoSudo, NoSession: nothing can be run there.
        FalplanError: what says how to reach it makes no sense, or it could not be looked at.
    """
    connection = connect(target, credentials)
    try:
        link = Link(connection, FACTS)
    except BaseException:
        connection.close()
        raise
    try:
        offset, within = _clock(link, now)
        facts = link.request({"do": "examine", "folder": folder}, timeout=EXAMINED)[0]
        port, path, front = _ways(link, connection, credentials, direct)
        ways = {"port": port, "path": path, "direct": front}
        return facts_of(facts, offset=offset, within=within, **ways, sudo=target.sudo)
    except HandFailed as exc:
        detail = f"{connection.target.where}: {exc.body.get('text') or exc.kind}"
        raise FalplanError("The host can't be looked at", detail) from None
    finally:
        link.close()


def _clock(link: Link, now: Callable[[], float]) -> tuple[float, float]:
    """(how far it is ahead, half the time of the quickest round trip), both in seconds."""
    seen = []
    for _ in range(ASKED):
        before = now()
        there = float(link.request({"do": "time"}, timeout=PATIENCE)[0])
        after = now()
        seen.append(((after - before) / 2, there - (before + after) / 2))
    within, offset = min(seen)
    return offset, max(0.0, within)


def _ways(
    link: Link, connection: Connection, credentials: Credentials, direct: Direct | None
) -> tuple[str | None, str | None, str | None]:
    """Try to get to a port and to a unix socket there, as callers' requests will, and to a port without SSH."""
    doors: dict[str, str] = link.request({"do": "listen"}, timeout=PATIENCE)[0]
    try:
        port = _try_port(connection, doors["tcp"])
        # What root listens on is not reached by the user who logs in, whatever sshd allows.
        path = None if connection.target.sudo else _try_path(connection, credentials, doors["unix"])
        front = None if direct is None else _try_direct(link, direct)
    finally:
        link.request({"do": "unlisten"}, timeout=PATIENCE)
    return port, path, front


def _try_direct(link: Link, direct: Direct) -> str:
    """Why a runner would not be reached without SSH, with the port that was tried; empty if it would."""
    header: JsonObject = {"do": "listen_direct", "bind": direct.address, "ports": list(direct.ports)}
    found = link.request(header, timeout=PATIENCE)[0]
    if not found["port"]:
        return str(found["because"])
    where = f"{direct.address}:{found['port']}"
    try:
        with socket.create_connection((direct.address, int(found["port"])), timeout=PATIENCE) as visitor:
            why = _greeted(visitor)
    except OSError as exc:
        why = words(exc)
    return f"{where}: {why}" if why else ""


def _try_port(connection: Connection, address: str) -> str:
    import paramiko

    host, _, port = address.removeprefix("tcp:").rpartition(":")
    try:
        channel = connection.transport.open_channel(
            "direct-tcpip", (host, int(port)), ("127.0.0.1", 0), timeout=PATIENCE
        )
    except (paramiko.SSHException, EOFError, OSError) as exc:
        return words(exc).lower()
    with contextlib.closing(channel):
        channel.settimeout(PATIENCE)
        return _greeted(channel)


def _try_path(connection: Connection, credentials: Credentials, address: str) -> str | None:
    """By the same client that carries requests. None where it can't be started: its own login may need another key than ours."""
    if shutil.which("ssh") is None:
        return None
    key = connection.transport.get_remote_server_key()
    forwards = Forwards(connection.target, credentials, f"{key.get_name()} {key.get_base64()}")
    try:
        try:
            with turn(connection.target):
                local = forwards.local(address, forwards.host_key)
        except (Unreachable, HostKeyRefused):
            return None
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.settimeout(PATIENCE)
            visitor.connect(local.removeprefix("unix:"))
            return _greeted(visitor)
    except OSError as exc:
        return words(exc)
    finally:
        forwards.close()


def _greeted(way: socket.socket | paramiko.Channel) -> str:
    """Why nobody greets at the end of this way; empty if somebody does."""
    said = b""
    try:
        while len(said) < len(GREETING):
            piece: Any = way.recv(len(GREETING))
            if not piece:
                return "the connection was closed"
            said += piece
    except OSError as exc:
        return words(exc)
    return "" if said == GREETING else "something else answers"
