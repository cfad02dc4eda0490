"""How each type of resource is made, changed and removed. Every operation may run twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from falplan.core.errors import FalplanError
from falplan.core.operations import OperationKind
from falplan.core.plan import Action, Change, Plan
from falplan.core.resources import GATEWAY, ResourceType
from falplan.core.spec.resolved import ResolvedApp
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine import local_gateway
from falplan.engine.client import AdminClient, Answered
from falplan.engine.project import Project
from falplan.engine.reaching import Where, ca_of
from falplan.sdk.failpoints import fp
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


@dataclass(frozen=True, slots=True)
class GatewayHandler:
    """The control plane: on this machine it is started, upgraded and ended; one that lives elsewhere is only told."""

    project: Project

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        wanted = change.after or {}
        place = self.project.where(state)
        if place is Where.HERE:
            self._run_here(wanted, state, say)
        client = _client(self.project, state)
        fp("gateway.configure.before_call")
        client.perform(change.operation, OperationKind.CONFIGURE, {"regions": wanted.get("regions", {})}, progress=say)
        status = client.get("/status")
        outputs = {name: status[name] for name in ("url", "id", "epoch", "ca", "host", "machine", "home")}
        return outputs if place is not Where.GIVEN else {**outputs, "url": client.url, "ca": ca_of(self.project.spec)}

    def _run_here(self, wanted: JsonObject, state: State, say: Say) -> None:
        home = self.project.home(state.lineage)
        home.make()
        settings = _settings(wanted, home.gateway_settings(), Path(self.project.spec.folder))
        arguments = ["--lineage", state.lineage, "--project", self.project.spec.project]
        local_gateway.ensure(home, settings, arguments, self.project.environ, say)

    def delete(self, change: Change, state: State, say: Say) -> None:
        place = self.project.where(state)
        if place is Where.GIVEN:
            return  # it was there before, and stays
        if place is Where.ELSEWHERE:
            reached = self.project.reach(state)
            if reached.client is None:
                raise FalplanError("The control plane can't be reached", reached.because)
            local_gateway.end_elsewhere(reached.client, say)
            return
        home = self.project.home(state.lineage)
        local_gateway.stop(home, say)
        fp("gateway.delete.after_stop")
        local_gateway.reap(home, self.project.environ)
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
    """An app's environment: locked requirements, built once. `ending`: the control plane is removed, too."""

    project: Project
    ending: bool = False

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        body: JsonObject = {"address": change.address, **(change.after or {})}
        return _client(self.project, state).perform(change.operation, OperationKind.BUILD, body, progress=say)

    def delete(self, change: Change, state: State, say: Say) -> None:
        if _ends_with_control_plane(self.project, state, self.ending, say):
            return
        body: JsonObject = {"address": change.address}
        _client(self.project, state).perform(change.operation, OperationKind.DELETE_BUILD, body, progress=say)


@dataclass(frozen=True, slots=True)
class AppHandler:
    """An app: its alias, revision and settings."""

    project: Project
    apps: Mapping[str, ResolvedApp]
    ending: bool = False

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        client = _client(self.project, state)
        if change.action is Action.REPLACE:
            self._delete(client, change, change.operation[::-1], say)
        bundle = self._upload(client, self.apps[change.address], say)
        lock = self._lock(change, state)
        body: JsonObject = {
            "address": change.address,
            "inputs": change.after or {},
            "lock": lock,
            "bundle": bundle,
            "machine_types": (change.after or {}).get("machine_types", {}),
        }
        return client.perform(change.operation, OperationKind.DEPLOY, body, progress=say)

    def delete(self, change: Change, state: State, say: Say) -> None:
        if not _ends_with_control_plane(self.project, state, self.ending, say):
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
            say(f"uploading {len(app.bundle.files)} files")
            fp("app.deploy.before_upload")
            with archive_of(app.bundle) as archive:
                client.upload(f"/bundles/{digest}", archive)
        fp("app.deploy.after_upload")
        return digest

    @staticmethod
    def _lock(change: Change, state: State) -> str | None:
        for address in change.dependencies:
            if address.startswith(f"{ResourceType.BUILD}."):
                return str(state.resources[address].outputs["lock"])
        return None


def _client(project: Project, state: State) -> AdminClient:
    reached = project.reach(state)
    if reached.client is not None:
        return reached.client
    log = f" Its log: {project.home(state.lineage).log}" if reached.where is Where.HERE else ""
    raise FalplanError("The control plane is not running", f"It ended since the plan was made: {reached.because}.{log}")


def _ends_with_control_plane(project: Project, state: State, ending: bool, say: Say) -> bool:
    """Whether there is nobody left to ask, and nothing to ask for: a dead control plane is removed with all it had."""
    if not ending or project.where(state) is not Where.HERE or project.home(state.lineage).is_alive():
        return False
    say("the control plane is stopped: what it had is removed with it")
    return True


def handlers_for(project: Project, plan: Plan) -> dict[ResourceType, Handler]:
    """The handlers of every resource type, for carrying out one plan."""
    spec = project.spec
    ending = GATEWAY in plan.changes and plan.changes[GATEWAY].action is Action.DELETE
    return {
        ResourceType.GATEWAY: GatewayHandler(project),
        ResourceType.BUILD: BuildHandler(project, ending),
        ResourceType.APP: AppHandler(project, {a.address: a for a in spec.apps}, ending),
    }
