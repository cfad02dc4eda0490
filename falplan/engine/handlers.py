"""How each type of resource is made, changed and removed. Every operation may run twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

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
from falplan.sdk.failpoints import fp
from falplan.stores.bundles import archive_of, bundle_digest

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
    """The control plane on this machine."""

    project: Project

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        home = self.project.home(state.lineage)
        arguments = ["--lineage", state.lineage, "--project", self.project.spec.project]
        port = (change.after or {}).get("port")
        if isinstance(port, int):
            arguments += ["--port", str(port)]
            local_gateway.leave_port(home, port, say)
        client = local_gateway.start(home, arguments, self.project.environ, say)
        regions = (change.after or {}).get("regions", {})
        client.perform(change.operation, OperationKind.CONFIGURE, {"regions": regions}, progress=say)
        status = local_gateway.status_of(client)
        ca = (home.tls / "ca.pem").read_text(encoding="ascii")
        return {"url": client.url, "id": status["id"], "ca": ca, "host": status["host"]}

    def delete(self, change: Change, state: State, say: Say) -> None:
        home = self.project.home(state.lineage)
        local_gateway.stop(home, say)
        fp("gateway.delete.after_stop")
        local_gateway.reap(home, self.project.environ)
        home.remove()


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
    client = project.client(state.lineage)
    if client is None:
        raise FalplanError(
            "The control plane is not running",
            f"It ended since the plan was made. Its log: {project.home(state.lineage).log}",
        )
    return client


def _ends_with_control_plane(project: Project, state: State, ending: bool, say: Say) -> bool:
    """Whether there is nobody left to ask, and nothing to ask for: a dead control plane is removed with all it had."""
    if not ending or project.home(state.lineage).is_alive():
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
