"""Finds a project's control plane: on this machine, elsewhere, or where the spec says that one runs. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from falplan.core.errors import Refused
from falplan.core.plan import Presence
from falplan.core.resources import GATEWAY
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine import local_gateway
from falplan.engine.client import KEY_REFUSED, AdminClient, Answered, Unreachable, connect
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


def where(gateway: JsonObject, outputs: JsonObject, *, machine: str, home: str) -> Where:
    """Whose the control plane is, by spec and state. One that state does not know is made here."""
    if gateway.get("url"):
        return Where.GIVEN
    same_machine = outputs.get("machine") in (None, machine)
    same_home = outputs.get("home") in (None, home)
    return Where.HERE if same_machine and same_home else Where.ELSEWHERE


def recorded_gateway(state: State) -> JsonObject:
    """What state knows of the gateway: its outputs."""
    recorded = state.resources.get(GATEWAY)
    return recorded.outputs if recorded else {}


def where_is(spec: ResolvedSpec, state: State, environ: Mapping[str, str]) -> Where:
    """Whose the control plane of a project is. Asks nobody."""
    home = home_of(state.lineage, environ)
    return where(dict(spec.gateway), recorded_gateway(state), machine=machine_id(), home=str(home.folder))


def reach(spec: ResolvedSpec, state: State, environ: Mapping[str, str]) -> Reached:
    """The project's control plane. One that can't be reached is unknown, never gone.

    Raises:
        Refused: the key that this user keeps is readable by others.
    """
    place = where_is(spec, state, environ)
    outputs = recorded_gateway(state)
    if place is Where.HERE:
        return _here(home_of(state.lineage, environ), outputs)
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
