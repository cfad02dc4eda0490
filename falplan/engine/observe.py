"""Looks at the world: what the control plane shows of each recorded resource. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from falplan.core.plan import Presence, Seen
from falplan.core.resources import GATEWAY, ResourceType, type_of
from falplan.core.state import State
from falplan.engine.client import AdminClient, Answered, Unreachable
from falplan.engine.project import Project


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen: resources by address, and the control plane's own account of apps, runners and machines."""

    seen: Mapping[str, Seen] = field(default_factory=dict)
    apps: Mapping[str, Any] = field(default_factory=dict)  #: address -> its row in GET /apps
    runners: tuple[Any, ...] = ()
    machines: tuple[Any, ...] = ()


def observe(project: Project, state: State) -> Observed:
    """Look at everything in state. A control plane that is stopped tells nothing; its folder tells whether it exists."""
    if not state.resources:
        return Observed()
    home = project.home(state.lineage)
    client = project.client(state.lineage)
    if client is None:
        return _without_control_plane(state, exists=home.database.exists())
    try:
        return _ask(client, state)
    except (Unreachable, Answered) as exc:
        because = f"the control plane does not answer: {exc.detail or exc.summary}"
        return Observed(dict.fromkeys(state.resources, Seen(Presence.UNKNOWN, because=because)))


def _without_control_plane(state: State, *, exists: bool) -> Observed:
    seen: dict[str, Seen] = {}
    for address in state.resources:
        if type_of(address) is ResourceType.GATEWAY:
            if exists:
                seen[address] = Seen(Presence.STOPPED, because="it is stopped: it is started again")
            else:
                seen[address] = Seen(Presence.ABSENT, because="its data is gone")
        elif not exists:
            seen[address] = Seen(Presence.ABSENT, because="the control plane's data is gone")
    return Observed(seen)


def _ask(client: AdminClient, state: State) -> Observed:
    body = client.get("/world")
    apps = {row["address"]: row for row in body["apps"]}
    builds = set(body["builds"])
    seen: dict[str, Seen] = {}
    for address in state.resources:
        kind = type_of(address)
        if kind is ResourceType.APP:
            seen[address] = _app(apps.get(address))
        elif kind is ResourceType.BUILD:
            lock = state.resources[address].outputs.get("lock")
            present = lock is None or lock in builds
            gone = "the control plane does not have its lock"
            seen[address] = Seen(Presence.PRESENT) if present else Seen(Presence.ABSENT, because=gone)
        else:
            seen[GATEWAY] = Seen(Presence.PRESENT)
    return Observed(seen, apps, tuple(body["runners"]), tuple(body["machines"]))


def _app(row: Any) -> Seen:
    if row is None:
        return Seen(Presence.ABSENT, because="the control plane does not know it")
    if row["revision"] is None:
        return Seen(Presence.PRESENT)
    return Seen(Presence.PRESENT, row["inputs"])
