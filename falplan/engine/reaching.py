"""Finds a project's control plane: on this machine, elsewhere, or where the spec says that one runs. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from falplan import clock
from falplan.core.errors import FalplanError, Refused
from falplan.core.plan import Presence
from falplan.core.provided import HOME, ResourceKind, provided_address
from falplan.core.resources import GATEWAY
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine import host_gateway, local_gateway
from falplan.engine.client import KEY_REFUSED, AdminClient, Answered, Unreachable, connect
from falplan.engine.host_gateway import There
from falplan.engine.provided import Trust, pinned
from falplan.engine.ways import Ways, way_of
from falplan.stores.home import ControlHome, home_of
from falplan.stores.machine import machine_id
from falplan.stores.user_keys import given_key

API = 1
"""The admin interface that this falplan speaks."""


DECLARED_DEAD = "declared_dead"
"""An output of the gateway, until it is replaced: host and folder of one that somebody said is dead."""


class Where(StrEnum):
    """Whose the control plane is."""

    HERE = "here"  #: this user's, on this machine: apply starts and stops it
    HOST = "host"  #: on a machine of a region: apply installs, starts and stops it there
    ELSEWHERE = "elsewhere"  #: another machine's or user's: used, never started again
    GIVEN = "given"  #: it runs already where the spec says


@dataclass(frozen=True, slots=True)
class Reached:
    """What was found. `client` is None unless it answered; `because` says why it did not. `status` is its GET /status."""

    where: Where
    presence: Presence
    client: AdminClient | None = None
    because: str = ""
    status: JsonObject | None = None
    key_refused: bool = False


def where(gateway: JsonObject, outputs: JsonObject, *, way: JsonObject | None, machine: str, home: str) -> Where:
    """Whose the control plane is, by spec and state. One that state does not know is made where the spec says."""
    if gateway.get("url"):
        return Where.GIVEN
    if way or (gateway.get("host") and not outputs.get("machine")):
        return Where.HOST
    same_machine = outputs.get("machine") in (None, machine)
    same_home = outputs.get("home") in (None, home)
    return Where.HERE if same_machine and same_home else Where.ELSEWHERE


def recorded_gateway(state: State) -> JsonObject:
    """What state knows of the gateway: its outputs."""
    recorded = state.resources.get(GATEWAY)
    return recorded.outputs if recorded else {}


def recorded_way(state: State) -> JsonObject | None:
    """What leads to the host that state says the gateway is on, as in `falplan.engine.ways`; None if it is on none, or was given up."""
    recorded = state.resources.get(GATEWAY)
    way = recorded.inputs.get(HOME) if recorded and DECLARED_DEAD not in recorded.outputs else None
    return way if isinstance(way, dict) else None


def where_is(spec: ResolvedSpec, state: State, environ: Mapping[str, str]) -> Where:
    """Whose the control plane of a project is. Asks nobody."""
    home = home_of(state.lineage, environ)
    outputs, way = recorded_gateway(state), recorded_way(state)
    return where(dict(spec.gateway), outputs, way=way, machine=machine_id(), home=str(home.folder))


def reach(spec: ResolvedSpec, state: State, environ: Mapping[str, str], ways: Ways) -> Reached:
    """The project's control plane. One that can't be reached is unknown, never gone. Connections to its machine are those of `ways`.

    Raises:
        Refused: the key that this user keeps is readable by others, or its host shows another key than the one that is trusted.
    """
    place = where_is(spec, state, environ)
    outputs = recorded_gateway(state)
    if place is Where.HERE:
        return _here(home_of(state.lineage, environ), outputs)
    if place is Where.HOST:
        return _on_host(spec, state, environ, ways)
    if place is Where.GIVEN:
        url, ca = str(spec.gateway["url"]), ca_of(spec)
        lives = f"lives at {url}"
    else:
        url, ca = str(outputs["url"]), str(outputs.get("ca") or "")
        lives = f"lives on {outputs.get('host')}"
    key = given_key(environ, state.lineage)
    if key is None:
        because = f"the control plane {lives}: set FALPLAN_KEY, or keep a key with `falplan login`"
        return Reached(place, Presence.UNKNOWN, because=because)
    reached = _ask(place, connect(url, key, ca_data=ca), f"the control plane {lives}")
    serves = reached.status["lineage"] if reached.status else state.lineage
    if state.resources and serves != state.lineage:
        because = f"the control plane {lives}: it serves another project's state ({serves}), not this one's"
        return Reached(place, Presence.UNKNOWN, because=because)
    return reached


def _here(home: ControlHome, outputs: JsonObject, patience: int = 3) -> Reached:
    client = local_gateway.reach(home)
    if client is not None:
        reached = _ask(Where.HERE, client, "the control plane")
        if reached.presence is Presence.UNKNOWN and patience and local_gateway.is_ending(home, client):
            return _here(home, outputs, patience - 1)
        return reached
    if home.is_alive():
        because = f"the control plane does not answer: it holds {home.folder / 'lock'} and announces no address"
        return Reached(Where.HERE, Presence.UNKNOWN, because=because)
    if home.database.exists():
        return Reached(Where.HERE, Presence.STOPPED, because="it is stopped")
    if DECLARED_DEAD in outputs:
        because = f"{outputs['id']} was given up: another one is made on this machine"
        return Reached(Where.HERE, Presence.ABSENT, because=because)
    return Reached(Where.HERE, Presence.ABSENT, because="its data is gone")


def there_of(spec: ResolvedSpec, state: State, ways: Ways) -> There | None:
    """Where a project's control plane lies on its host, as state remembers it; by the spec, if that leads to the same host.

    Raises:
        FalplanError: the way makes no sense any more.
    """
    recorded = recorded_way(state)
    if recorded is None:
        return None
    at = host_gateway.place_in(recorded)
    way = way_of(spec, at, {**trust_in(recorded), **pinned(state)}) or recorded
    return There(ways.shell(way), state.lineage, at, folder_in(way))


def there_by_spec(spec: ResolvedSpec, state: State, host: str, ways: Ways) -> There | None:
    """Where a control plane would lie on a host of the spec, `region/host`; None if there is no such host."""
    way = way_of(spec, host, pinned(state)) if host else None
    return There(ways.shell(way), state.lineage, host, folder_in(way)) if way else None


def trust_in(way: JsonObject) -> Trust:
    """The host keys that a way was confirmed with."""
    home: Any = way.get("home") or {}
    keys = (home.get("hosts", {}).get(way["host"]) or {}).get("host_key", ())
    address = provided_address(ResourceKind.HOST, str(way["region"]), str(way["host"]))
    return {address: tuple(map(str, [keys] if isinstance(keys, str) else keys))}


def folder_in(way: JsonObject) -> str:
    """Falplan's folder at the end of a way."""
    home: Any = way.get("home") or {}
    return str(home.get("folder") or host_gateway.FOLDER)


def _on_host(spec: ResolvedSpec, state: State, environ: Mapping[str, str], ways: Ways) -> Reached:
    """By HTTPS, if it listens to others and there is a key; else through the connection to its host."""
    outputs = recorded_gateway(state)
    if DECLARED_DEAD in outputs:
        because = f"{outputs['id']} was given up: another one is made on {spec.gateway['host']}"
        return Reached(Where.HOST, Presence.ABSENT, because=because)
    if recorded_way(state) is None:
        return Reached(Where.HOST, Presence.ABSENT, because="it was never applied")
    url, key = str(outputs.get("url") or ""), given_key(environ, state.lineage)
    if key and url and not host_gateway.is_alone(state.resources[GATEWAY].inputs):
        public = connect(url, key, ca_data=str(outputs.get("ca") or ""))
        if public.listens():
            return _ask(Where.HOST, public, f"the control plane at {url}")
    known = ways.clients.get(state.lineage)
    if known is not None:
        reached = _ask(Where.HOST, known, "the control plane")
        if reached.presence is Presence.PRESENT:
            return reached
    lives = "the control plane"
    try:
        there = there_of(spec, state, ways)
        assert there is not None  # noqa: S101 - state knows the way
        lives = f"the control plane lives on {there.at}"
        seen, client = _settled(there, key or "")
    except Refused:
        raise
    except FalplanError as exc:
        return Reached(Where.HOST, Presence.UNKNOWN, because=f"{lives}: {exc.summary}: {exc.detail}".rstrip("."))
    if client is not None:
        ways.clients[state.lineage] = client
        return _ask(Where.HOST, client, lives)
    if seen["alive"]:
        because = f"{lives}: it holds {seen['home']}/lock and announces no address"
        return Reached(Where.HOST, Presence.UNKNOWN, because=because)
    if seen["database"]:
        return Reached(Where.HOST, Presence.STOPPED, because=f"it is stopped on {there.at}")
    return Reached(Where.HOST, Presence.ABSENT, because=f"its data is gone from {there.at}")


def host_answers(spec: ResolvedSpec, state: State, ways: Ways) -> bool:
    """Whether the host that the control plane is on can be asked, whatever the control plane does."""
    try:
        there = there_of(spec, state, ways)
        return there is not None and bool(there.look())
    except FalplanError:
        return False


def _settled(there: There, key: str) -> tuple[JsonObject, AdminClient | None]:
    """What is there, and a client for it once it takes connections: one that is starting or ending is given time to do either."""
    give_up = clock.monotonic() + local_gateway.START_TIMEOUT
    while True:
        seen = there.look()
        client = there.client(seen, key) if seen["alive"] else None
        if not seen["alive"] or (client and client.listens()) or clock.monotonic() > give_up:
            return seen, client
        time.sleep(0.2)


def _ask(place: Where, client: AdminClient, lives: str) -> Reached:
    try:
        status: Any = client.get("/status", timeout=20, needs=("api", "version", "id", "epoch", "lineage"))
    except Unreachable as exc:
        return Reached(
            place,
            Presence.UNKNOWN,
            because=f"{lives}{'' if place is Where.HERE else ' and'} does not answer: {exc.detail}",
        )
    except Answered as exc:
        refused = exc.status in KEY_REFUSED
        reason = "it refuses this key" if refused else exc.summary
        return Reached(place, Presence.UNKNOWN, because=f"{lives}: {reason}", key_refused=refused)
    oldest, newest = status["api"]
    if not oldest <= API <= newest:
        because = f"{lives} runs falplan {status['version']}, which speaks interface {oldest} to {newest}, not {API}"
        return Reached(place, Presence.UNKNOWN, because=f"{because}: use a falplan that matches it")
    return Reached(place, Presence.PRESENT, client, status=status)


def ca_of(spec: ResolvedSpec) -> str:
    """The CA that the spec names for a gateway with a `url`, as PEM text; empty for the public ones.

    Raises:
        Refused: the file can't be read.
    """
    name = spec.gateway.get("ca")
    if not name:
        return ""
    path = Path(spec.folder) / str(name)
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as exc:
        raise Refused("The gateway's CA can't be read", f"{path}: {exc}") from exc
