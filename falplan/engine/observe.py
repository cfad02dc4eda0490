"""Looks at the world: what the control plane shows of each recorded resource. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from falplan.core.diff import same
from falplan.core.plan import Override, Presence, Seen
from falplan.core.provided import provided_address
from falplan.core.resources import GATEWAY, PROVIDED, ResourceType, type_of
from falplan.core.state import Recorded, State
from falplan.core.values import JsonObject
from falplan.engine import asleep
from falplan.engine.client import AdminClient, Answered, Unreachable
from falplan.engine.project import Project
from falplan.engine.provided import Looked, Provided, known_in, look_at, pinned, provided_by, resolved, scan_keys
from falplan.engine.reaching import Reached, Where, recorded_gateway
from falplan.sdk.abreast import both
from falplan.sdk.resources import HostRegion
from falplan.sdk.values import Machine


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen: resources by address, and the control plane's own account of apps, runners and machines."""

    seen: Mapping[str, Seen] = field(default_factory=dict)
    apps: Mapping[str, Any] = field(default_factory=dict)  #: address -> its row in GET /apps
    runners: tuple[Any, ...] = ()
    machines: tuple[Any, ...] = ()
    fleet: tuple[Any, ...] = ()  #: machines that the control plane bought
    around: JsonObject = field(default_factory=dict)  #: what it says of machines beside those, as in GET /world
    shown_bought: Mapping[str, tuple[Any, ...]] = field(
        default_factory=dict
    )  #: region -> machines as their provider shows them, where no control plane tells of them
    where: Where = Where.HERE
    orphans: tuple[Any, ...] = ()  #: runners that run and that nobody knows, as in GET /world
    secrets: Mapping[str, Any] = field(default_factory=dict)  #: address -> its row in GET /world
    client: AdminClient | None = None  #: of the control plane that told all this
    status: JsonObject = field(default_factory=dict)  #: what the control plane says of itself, as in GET /status
    unreachable: str = ""  #: why the control plane tells nothing; empty if it does, or there is none
    provided: Provided = field(default_factory=Provided)  #: what the regions' providers declare
    trusting: Mapping[str, str] = field(
        default_factory=dict
    )  #: address -> key that a host shows and nobody has confirmed
    silent: Mapping[str, str] = field(
        default_factory=dict
    )  #: address -> why a host of which no key is known shows none
    looked: Looked = field(default_factory=Looked)  #: what they see; its `seen` is in `seen`, too
    shown: dict[str, Machine] = field(
        default_factory=dict
    )  #: host by machine id, as it showed itself when its room was first asked for: the silent ones take half a minute


def observe(project: Project, state: State, imports: Mapping[str, str] = {}) -> Observed:
    """Look at everything in state. A control plane that is stopped tells nothing; its folder tells whether it exists.

    `imports` are the names by which regions' providers know something that is to be managed: identities by address.

    Raises:
        FalplanError: a region's options have no meaning.
    """
    trust = pinned(state)
    provided = provided_by(project.spec, trust)
    look = partial(look_at, provided, state, imports, at_a_time=project.parallelism)
    looked, (shown, silent) = both(look, partial(scan_keys, provided))  # those that say nothing take half a minute each
    if shown:  # from here on as if they were trusted; nobody has logged in there
        provided = provided_by(project.spec, {**trust, **{address: (key,) for address, key in shown.items()}})
    provided = resolved(provided, known_in(state), ask=True)
    observed = _observe(project, state)
    seen = {**observed.seen, **looked.seen, **_not_joined(observed, provided, looked.seen)}
    return replace(observed, seen=seen, provided=provided, looked=looked, trusting=shown, silent=silent)


def _not_joined(observed: Observed, provided: Provided, hosts: Mapping[str, Seen]) -> dict[str, Seen]:
    """Hosts that are there, and that the control plane knows nothing of: it lost its data, or is another one."""
    if observed.unreachable:
        return {}
    known = {machine["machine_id"] for machine in observed.machines}
    found = {}
    for place in provided.places.values():
        if isinstance(place.resources, HostRegion):
            for one in place.declared.values():
                address = provided_address(one.kind, place.region, one.name)
                seen = hosts.get(address)
                if seen and seen.presence is Presence.PRESENT and f"{place.region}/{one.name}" not in known:
                    found[address] = replace(seen, unfinished=seen.unfinished or NOT_JOINED)
    return found


NOT_JOINED = "the control plane does not know it: it is told of it again"


def _observe(project: Project, state: State) -> Observed:
    if not state.resources:
        return Observed()
    others = {a: r for a, r in state.resources.items() if type_of(a) not in PROVIDED}
    state = replace(state, resources=others)
    reached = project.reach(state)
    if reached.client is None:
        return _without_control_plane(state, reached, _kept_asleep(project, state, reached))
    try:
        return _ask(reached, reached.client, state)
    except (Unreachable, Answered) as exc:
        because = f"the control plane does not answer: {exc.detail or exc.summary}"
        return _without_control_plane(state, Reached(reached.where, Presence.UNKNOWN, because=because))


def unobserved(project: Project, state: State, *, ask: bool) -> Observed:
    """Nothing was looked at: what was applied is taken for what is there. With `ask`, the control plane can still be asked."""
    silent = "nothing was looked at (--refresh=false)"
    provided = resolved(provided_by(project.spec, pinned(state)), known_in(state), ask=False)
    if not ask or not state.resources:
        return Observed(where=project.where(state), unreachable=silent, provided=provided)
    reached = project.reach(state)
    return Observed(where=reached.where, client=reached.client, unreachable=silent, provided=provided)


def unfinished_requests(project: Project, state: State) -> Mapping[str, Any]:
    """Queued requests that have not ended, by endpoint, as GET /unfinished gives them; from its database if it is stopped."""
    if not state.resources:
        return {}
    reached = project.reach(state)
    try:
        if reached.client is not None:
            found: Mapping[str, Any] = reached.client.get("/unfinished")
            return found
    except (Unreachable, Answered):
        pass
    return asleep.unfinished(project, state)


def _kept_asleep(project: Project, state: State, reached: Reached) -> dict[str, JsonObject]:
    """The secrets of a control plane that is stopped."""
    return asleep.secrets(project, state) if reached.presence is Presence.STOPPED else {}


def _without_control_plane(state: State, reached: Reached, secrets: Mapping[str, JsonObject] | None = None) -> Observed:
    seen: dict[str, Seen] = {}
    for address in state.resources:
        if reached.presence is Presence.UNKNOWN or type_of(address) is ResourceType.GATEWAY:
            seen[address] = Seen(reached.presence, because=reached.because)
        elif reached.presence is Presence.ABSENT:
            seen[address] = Seen(Presence.ABSENT, because="the control plane's data is gone")
    silent = (
        "the control plane, which keeps it, is stopped" if reached.presence is Presence.STOPPED else reached.because
    )
    unreachable = "" if reached.presence is Presence.ABSENT else silent
    return Observed(seen, where=reached.where, unreachable=unreachable, secrets=secrets or {})


def _ask(reached: Reached, client: AdminClient, state: State) -> Observed:
    body = client.get("/world", needs=("apps", "builds", "runners", "machines"))
    apps = _by_address(body["apps"], state)
    builds = set(body["builds"])
    secrets = {row["address"]: row for row in body.get("secrets", ())}
    seen: dict[str, Seen] = {}
    for address in state.resources:
        kind = type_of(address)
        if kind is ResourceType.APP:
            seen[address] = _app(apps.get(address), state.resources[address])
        elif kind is ResourceType.BUILD:
            lock = state.resources[address].outputs.get("lock")
            present = lock is None or lock in builds
            gone = "the control plane does not have its lock"
            seen[address] = Seen(Presence.PRESENT) if present else Seen(Presence.ABSENT, because=gone)
        elif kind is ResourceType.SECRET:
            seen[address] = _secret(secrets.get(address), state.resources[address])
        else:
            seen[GATEWAY] = gateway_seen(recorded_gateway(state), reached.status or {})
    return Observed(
        seen,
        apps,
        tuple(body["runners"]),
        tuple(body["machines"]),
        tuple(body.get("fleet", ())),
        body.get("around", {}),
        where=reached.where,
        orphans=tuple(body.get("orphans", ())),
        client=client,
        secrets=secrets,
        status=reached.status or {},
    )


def _by_address(rows: list[Any], state: State) -> dict[str, Any]:
    """Apps by the address that state knows their endpoint by, which may be another one than they were applied under.

    While an app is replaced there are two of one address: the one that state knows is the one to go on from.
    """
    known = {str(r.inputs.get("endpoint")): a for a, r in state.resources.items() if type_of(a) is ResourceType.APP}
    others = {row["address"]: row for row in rows if row["endpoint"] not in known}
    return others | {known[row["endpoint"]]: row for row in rows if row["endpoint"] in known}


def gateway_seen(outputs: JsonObject, status: JsonObject) -> Seen:
    """The gateway as it answers, beside what state recorded of it."""
    release = str(status.get("release") or status["version"])
    inputs: JsonObject = {"falplan": release}
    recorded, epoch = outputs.get("id"), int(cast("int", outputs.get("epoch") or 0))
    if recorded is not None and recorded != status["id"]:
        because = f"control plane {status['id']} answers in place of {recorded}"
        return Seen(Presence.REPLACED, inputs, because)
    if int(cast("int", status["epoch"])) < epoch or status.get("rolled_back"):
        because = "its database is older than what was applied"
        return Seen(Presence.ROLLED_BACK, inputs, because)
    return Seen(Presence.PRESENT, inputs)


DAMAGED = "what the control plane kept of it was damaged, or changed by somebody else"


def _secret(row: Any, recorded: Recorded) -> Seen:
    version = recorded.outputs.get("version")
    if row is None or (version is not None and version not in row["versions"]):
        damaged = row is not None and version in row.get("damaged", ())
        return Seen(Presence.ABSENT, because=DAMAGED if damaged else "the control plane does not have it")
    if "version" in recorded.inputs and version is not None and row["version"] != version:
        made = Override(row["version"], version, str(row.get("since", "")), str(row.get("by", "")))
        return Seen(Presence.PRESENT, overrides={"version": made})
    return Seen(Presence.PRESENT)


LEAVING = "its removal was begun: it is made again"


def _app(row: Any, recorded: Recorded) -> Seen:
    if row is None:
        return Seen(Presence.ABSENT, because="the control plane does not know it")
    overrides = {path: Override(**made) for path, made in row.get("overrides", {}).items()}
    if row["revision"] is None:
        return Seen(Presence.PRESENT, overrides=overrides)
    # The very object of state, where nothing differs: whoever compares them again sees that at once.
    inputs = recorded.inputs if same(row["inputs"], recorded.inputs) else row["inputs"]
    return Seen(Presence.PRESENT, inputs, overrides=overrides, unfinished=LEAVING if row.get("deleting") else "")
