"""How each type of resource is made, changed and removed. Every operation may run twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from falplan.core.errors import ExitCode, FalplanError
from falplan.core.operations import OperationKind
from falplan.core.plan import Action, Change, Plan, Presence, Reason
from falplan.core.plural import count
from falplan.core.provided import HOME
from falplan.core.resources import GATEWAY, PROVIDED, ResourceType, build_address, need_to_json
from falplan.core.secret import SecretValue
from falplan.core.spec.resolved import ResolvedApp, ResolvedSpec
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine import host_gateway, local_gateway
from falplan.engine.client import NEW_KEY, AdminClient, Answered, OperationFailed
from falplan.engine.host_gateway import There
from falplan.engine.joining import Hosts
from falplan.engine.project import Project
from falplan.engine.provided import Provided, known_by, provided_by, resolved, trusted_in
from falplan.engine.providing import ProvidedHandler
from falplan.engine.reaching import (
    Where,
    ca_of,
    folder_in,
    host_answers,
    recorded_gateway,
    there_by_spec,
    there_of,
    trust_in,
)
from falplan.engine.secrets import environ_without, pending_secrets, versions_of
from falplan.engine.ways import machine_of
from falplan.sdk.failpoints import fp
from falplan.sdk.resources import HostRegion
from falplan.stores.bundles import archive_of, bundle_digest
from falplan.stores.home import LOOPBACK, GatewaySettings

Say = Callable[[str], None]


class Handler(Protocol):
    """One type of resource."""

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        """Create, update or replace it. Returns its outputs."""
        ...

    def delete(self, change: Change, state: State, say: Say) -> None:
        """Remove it. Something already gone is no error."""
        ...


@runtime_checkable
class Forgets(Handler, Protocol):
    """A handler of something that is known elsewhere, too."""

    def forget(self, change: Change, state: State, say: Say) -> None:
        """Have it forgotten there as well. It may be so already."""
        ...


@dataclass(frozen=True, slots=True)
class GatewayHandler:
    """The control plane: on this machine, or a host, it is started, upgraded and ended; one that lives elsewhere is only told."""

    project: Project

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        wanted = change.after or {}
        place = self.project.where(state)
        if place is Where.HERE:
            self._run_here(wanted, state, say)
        client = self._run_there(wanted, state, say) if place is Where.HOST else _client(self.project, state)
        # Left out where there is nothing to say, which is all that an older control plane understands.
        money: JsonObject = {name: wanted[name] for name in ("prices", "budgets", "warm") if name in wanted}
        body: JsonObject = {"regions": wanted.get("regions", {}), **money}
        client.perform(change.operation, OperationKind.CONFIGURE, body, progress=say)
        status = client.get("/status")
        told = ("url", "id", "epoch", "ca", "host", "machine", "home", "access")
        outputs = {name: status[name] for name in told if name in status}  # an older one has no key for hosts
        return outputs if place is not Where.GIVEN else {**outputs, "url": client.url, "ca": ca_of(self.project.spec)}

    def _run_there(self, wanted: JsonObject, state: State, say: Say) -> AdminClient:
        """On a host, by the way that stands in state since the plan was begun."""
        way = cast("JsonObject", wanted[HOME])
        host = host_gateway.place_in(way)
        if self.project.install is None:
            raise FalplanError(
                "The control plane can't be installed from here", f"Nothing is known of how to, for {host}."
            )
        machine = machine_of(self.project.spec, host, trust_in(way))
        there = There(self.project.ways.shell(way), state.lineage, host, folder_in(way))
        settings = _settings(wanted, GatewaySettings(), Path(self.project.spec.folder))
        whose = local_gateway.Whose(
            state.lineage, self.project.spec.project, str(recorded_gateway(state).get("id", ""))
        )
        install = partial(self.project.install, pushes=machine.pushes)
        client = host_gateway.ensure(there, settings, whose, install, say)
        self.project.ways.clients[state.lineage] = client
        return client

    def _run_here(self, wanted: JsonObject, state: State, say: Say) -> None:
        home = self.project.home(state.lineage)
        home.make()
        settings = _settings(wanted, home.gateway_settings(), Path(self.project.spec.folder))
        # A control plane with another id takes the place of the recorded one.
        recorded = str(state.resources[GATEWAY].outputs.get("id", "")) if GATEWAY in state.resources else ""
        whose = local_gateway.Whose(state.lineage, self.project.spec.project, recorded)
        local_gateway.ensure(home, settings, whose, environ_without(self.project), say)

    def delete(self, change: Change, state: State, say: Say) -> None:
        place = self.project.where(state)
        if place is Where.GIVEN:
            return  # it was there before, and stays
        if place is Where.HOST:
            spec, ways = self.project.spec, self.project.ways
            there = there_of(spec, state, ways) or there_by_spec(spec, state, str(spec.gateway.get("host") or ""), ways)
            if there is not None:
                host_gateway.remove(there, say)
            return
        if place is Where.ELSEWHERE:
            reached = self.project.reach(state)
            if reached.client is None:
                raise FalplanError("The control plane can't be reached", reached.because)
            local_gateway.end_elsewhere(reached.client, say)
            return
        home = self.project.home(state.lineage)
        local_gateway.stop(home, say)
        fp("gateway.delete.after_stop")
        local_gateway.reap(home, environ_without(self.project))
        home.remove()


def _settings(wanted: JsonObject, kept: GatewaySettings, folder: Path) -> GatewaySettings:
    """How the control plane is to listen; a port that was chosen is kept."""
    tls: Any = wanted.get("tls") or {}
    return GatewaySettings(
        port=int(cast("int", wanted.get("port") or kept.port)),
        listen=str(wanted.get("listen") or LOOPBACK),
        hostname=str(wanted.get("hostname") or ""),
        cert=str((folder / tls["cert"]).absolute()) if tls else "",
        key=str((folder / tls["key"]).absolute()) if tls else "",
    )


@dataclass(frozen=True, slots=True)
class BuildHandler:
    """An app's environment: requirements, locked once for each platform that its runners may be on. `apps` are by the build's address."""

    project: Project
    apps: Mapping[str, ResolvedApp]
    ending: Ending

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        body: JsonObject = {"address": change.address, **(change.after or {})}
        if change.reason in (Reason.TAINTED, Reason.REQUESTED):
            body["anew"] = True
        client = _client(self.project, state)
        if change.address in self.apps and "python" in client.get("/status"):  # an older one understands no advice
            body["need"] = need_to_json(self.apps[change.address], self.project.spec)
        return client.perform(change.operation, OperationKind.BUILD, body, progress=say)

    def delete(self, change: Change, state: State, say: Say) -> None:
        if self.ending.nobody_answers(state, say):
            return
        body: JsonObject = {"address": change.address}
        _client(self.project, state).perform(change.operation, OperationKind.DELETE_BUILD, body, progress=say)


@dataclass(frozen=True, slots=True)
class SecretHandler:
    """A secret of one environment: its value goes to the control plane and nowhere else. `values` are by address."""

    project: Project
    values: Mapping[str, SecretValue] = field(repr=False)
    ending: Ending

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        client, inputs = _client(self.project, state), change.after or {}
        planned = str(inputs.get("version", ""))
        if planned and change.address not in self.values:
            return {"version": self._stored(client, change, planned)}
        query = f"operation={change.operation}" + (f"&version={planned}" if planned else "")
        path = f"{secret_path(change.address)}?{query}"
        answer = _final(lambda: client.upload(path, self.values[change.address].reveal()))
        version: JsonObject = {"version": str(answer["version"])}
        if planned:
            pending_secrets(self.project).forget(change.address)
            return version
        return {**version, "key_id": str(inputs["fingerprint"]).partition(":")[0]}

    @staticmethod
    def _stored(client: AdminClient, change: Change, planned: str) -> str:
        rows = {row["address"]: row for row in client.get("/secrets")["secrets"]}
        version = str(rows[change.address]["version"]) if change.address in rows else ""
        if version not in (planned, change.outputs.get("version")):
            detail = f"{change.address} was set or unset meanwhile. Run `falplan apply` again."
            raise OperationFailed("A secret changed since the plan was made", detail, ExitCode.FAILED)
        return version

    def delete(self, change: Change, state: State, say: Say) -> None:
        if self.ending.nobody_answers(state, say):
            return
        body: JsonObject = {"address": change.address}
        _client(self.project, state).perform(change.operation, OperationKind.DELETE_SECRET, body, progress=say)


def secret_path(address: str) -> str:
    """Where the admin interface has a secret."""
    _, environment, name = address.split(".")
    return f"/secrets/{environment}/{name}"


def _final(ask: Callable[[], Any]) -> Any:
    """An answer that refuses is final; one that never came, or is of a broken control plane, is not."""
    try:
        return ask()
    except Answered as exc:
        if not exc.is_final:
            raise
        raise OperationFailed(exc.summary, exc.detail, ExitCode.FAILED) from exc


@dataclass(frozen=True, slots=True)
class AppHandler:
    """An app: its alias, revision and settings."""

    project: Project
    apps: Mapping[str, ResolvedApp]
    ending: Ending

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        client = _client(self.project, state)
        if change.action is Action.REPLACE:
            self._delete(client, change, change.operation[::-1], say)
        outputs = self._deploy(client, change, state, say)
        if change.action is Action.REPLACE_CREATE_FIRST:
            fp("app.replace.before_delete")
            self._delete(client, change, change.operation[::-1], say)
        return outputs

    def _deploy(self, client: AdminClient, change: Change, state: State, say: Say) -> JsonObject:
        bundle = self._upload(client, self.apps[change.address], say)
        lock = self._lock(change, state)
        body: JsonObject = {
            "address": change.address,
            "inputs": change.after or {},
            "lock": lock,
            "bundle": bundle,
            "machine_types": (change.after or {}).get("machine_types", {}),
        }
        secrets = versions_of(state, change.dependencies)
        if not secrets:
            return client.perform(change.operation, OperationKind.DEPLOY, body, progress=say)
        outputs = client.perform(
            change.operation, OperationKind.DEPLOY, {**body, "secrets": dict(secrets)}, progress=say
        )
        return {**outputs, "secrets": dict(secrets)}

    def delete(self, change: Change, state: State, say: Say) -> None:
        if not self.ending.nobody_answers(state, say):
            self._delete(_client(self.project, state), change, change.operation, say)

    @staticmethod
    def _delete(client: AdminClient, change: Change, operation: str, say: Say) -> None:
        endpoint = (change.before or {}).get("endpoint", "")
        body: JsonObject = {"address": change.address, "endpoint": endpoint}
        client.perform(operation, OperationKind.DELETE_APP, body, progress=say)

    @staticmethod
    def _upload(client: AdminClient, app: ResolvedApp, say: Say) -> str:
        digest = bundle_digest(app.bundle)
        try:
            client.get(f"/bundles/{digest}")
        except Answered as exc:
            if exc.status != 404:
                raise
            say(f"uploading {count(len(app.bundle.files), 'file')}")
            with archive_of(app.bundle) as archive:
                client.upload(f"/bundles/{digest}", archive)
        return digest

    @staticmethod
    def _lock(change: Change, state: State) -> str | None:
        for address in change.dependencies:
            if address.startswith(f"{ResourceType.BUILD}."):
                lock = state.resources[address].outputs.get("lock")
                return None if lock is None else str(lock)
        return None


def _client(project: Project, state: State) -> AdminClient:
    reached = project.reach(state)
    if reached.client is not None:
        return reached.client
    if reached.key_refused:
        raise FalplanError("The control plane refuses the key", NEW_KEY)
    log = f" Its log: {project.home(state.lineage).log}" if reached.where is Where.HERE else ""
    raise FalplanError("The control plane is not running", f"It ended since the plan was made: {reached.because}.{log}")


@dataclass(slots=True)
class Ending:
    """Whether the control plane is removed, too, and whether there is anybody left to ask until then. Looked at once."""

    project: Project
    ends: bool
    _silent: bool | None = None
    _looking: threading.Lock = field(default_factory=threading.Lock)

    def nobody_answers(self, state: State, say: Say) -> bool:
        """Whether there is nothing to ask for: a control plane that is dead, or hangs, is removed with all it had."""
        place = self.project.where(state)
        if not self.ends or place not in (Where.HERE, Where.HOST):
            return False
        with self._looking:
            if self._silent is None and place is Where.HERE:
                home = self.project.home(state.lineage)
                self._silent = not (home.is_alive() and local_gateway.answers(home))
            elif self._silent is None:
                self._silent = self._silent_there(state)
        if self._silent:
            say("the control plane does not run: what it had is removed with it")
        return self._silent

    def _silent_there(self, state: State) -> bool:
        """On a host: it is not there, or it hangs while its host answers, where it can be killed."""
        reached = self.project.reach(state)
        if reached.presence is not Presence.UNKNOWN:
            return reached.presence in (Presence.STOPPED, Presence.ABSENT)
        return not reached.key_refused and host_answers(self.project.spec, state, self.project.ways)


def handlers_for(
    project: Project,
    plan: Plan,
    state: State,
    secrets: Mapping[str, SecretValue] = {},
    looked: Provided | None = None,
) -> dict[ResourceType, Handler]:
    """The handlers of every resource type, for carrying out one plan. `secrets` are the values to deliver, by address.

    `state` is the one that the plan was made from; `looked` what regions declared then, whose connections are still of use. Without, or
    with hosts in it of which no key was known, they are asked again.
    """
    spec = project.spec
    ending = Ending(project, GATEWAY in plan.changes and plan.changes[GATEWAY].action is Action.DELETE)
    provided: dict[ResourceType, Handler] = {}
    acting = [plan.changes[address].action for address in plan.after if plan.changes[address].type in PROVIDED]
    if acting or any(c.action is Action.FORGET and c.type in PROVIDED for c in plan.state_changes):
        # A spec whose regions make no sense any more can still be destroyed.
        wanted = _wanted(spec, plan, looked) if set(acting) - {Action.DELETE} else Provided()
        hosts = Hosts(lambda now: _client(project, now), ending)
        provided = dict.fromkeys(PROVIDED, ProvidedHandler(wanted, state.resources, hosts))
    return {
        ResourceType.GATEWAY: GatewayHandler(project),
        ResourceType.BUILD: BuildHandler(project, {build_address(a.environment, a.name): a for a in spec.apps}, ending),
        ResourceType.SECRET: SecretHandler(project, secrets, ending),
        ResourceType.APP: AppHandler(project, {a.address: a for a in spec.apps}, ending),
        **provided,
    }


def _wanted(spec: ResolvedSpec, plan: Plan, looked: Provided | None) -> Provided:
    if looked is not None:
        regions = [p.resources for p in looked.places.values() if isinstance(p.resources, HostRegion)]
        if not any(region.untrusted() for region in regions):
            return resolved(looked, known_by(plan), ask=True)
    return resolved(provided_by(spec, trusted_in(plan)), known_by(plan), ask=True)
