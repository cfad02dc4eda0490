"""Who this process is when it holds a lock, and what is said about whoever does."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, fields

from falplan import clock
from falplan.core.values import Json, JsonObject
from falplan.stores.state.interface import Holder

LEASE = 60.0
"""Seconds that a lock outlives the last sign of its holder."""

LEASE_VARIABLE = "FALPLAN_STATE_LEASE"
"""Another length, for tests alone."""


def lease_of(environ: Mapping[str, str]) -> float:
    """Seconds. Whoever waits goes by the lease that the holder wrote down, so that all agree."""
    return float(environ.get(LEASE_VARIABLE) or LEASE)


def new_holder(operation: str) -> Holder:
    """This process, about to hold a lock."""
    host = socket.gethostname()
    return Holder(clock.new_uuid(), operation, _who(host), host, os.getpid(), clock.timestamp(clock.now()))


def is_alive_here(holder: Holder) -> bool:
    """Whether the holder is a process of this machine that lives."""
    if holder.host != socket.gethostname() or holder.pid <= 0:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def describe(holder: Holder | None) -> str:
    """Who holds the lock, for a sentence of its own."""
    if holder is None:
        return "Its holder has not written its name yet."
    return (
        f"{holder.who} (pid {holder.pid}) holds it for `{holder.operation}` since {holder.since}{_sign_of_life(holder)}. "
        f"Lock id {holder.lock_id or 'unknown'}."
    )


def _sign_of_life(holder: Holder) -> str:
    """When it was last heard of; a local lock has no heartbeat, but its process can be looked at."""
    if holder.heartbeat:
        return f", last heartbeat {holder.heartbeat}"
    if not is_alive_here(holder):
        return ""
    import psutil

    try:
        stopped = psutil.Process(holder.pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return ""
    return f"; that process is stopped (`kill -CONT {holder.pid}` lets it go on)" if stopped else "; that process runs"


def name_of(holder: Holder) -> str:
    """The holder in the middle of a sentence."""
    return f"{holder.who} (pid {holder.pid}, `{holder.operation}`)"


def to_json(holder: Holder) -> JsonObject:
    return asdict(holder)


def from_json(body: Mapping[str, Json]) -> Holder:
    """The inverse; what is missing is empty.

    Raises:
        ValueError, TypeError: it is something else.
    """
    texts = {f.name: str(body.get(f.name, "")) for f in fields(Holder) if f.name != "pid"}
    pid = body.get("pid", 0)
    if not isinstance(pid, int):
        raise TypeError("pid")
    return Holder(pid=pid, **texts)


def _who(host: str) -> str:
    try:
        return f"{getpass.getuser()}@{host}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}@{host}"
