"""Values with sane defaults for tests of the core."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from falplan.core.plan import Action, Change, Plan
from falplan.core.reconcile import AppView, RunnerView
from falplan.core.resources import Resource, ResourceType, type_of
from falplan.core.runtime import Demand, RunnerState
from falplan.core.scaling import Scaling
from falplan.core.spec.fields import APP_FIELDS
from falplan.core.state import Recorded, State
from falplan.core.values import Json, JsonObject

NOON = 1_750_000_000.0
LINEAGE = "3b6d0000-0000-4000-8000-000000000001"


def settings(**changed: Json) -> JsonObject:
    """Every app setting, defaults but for those named; like inputs, without tags where there are none."""
    return {**{name: f.default for name, f in APP_FIELDS.items() if name not in ("secrets", "tags")}, **changed}


def an_app(
    name: str = "hello", environment: str = "main", *, files: JsonObject | None = None, **changed: Json
) -> Resource:
    inputs: JsonObject = {
        "endpoint": f"acme/{name}",
        "kind": "fal",
        "entry": "app.py::Hello",
        "files": files or {"app.py": "aa"},
        "settings": settings(**changed),
    }
    address = f"app.{environment}.{name}"
    return Resource(address, ResourceType.APP, inputs, (f"build.{environment}.{name}",))


def a_build(name: str = "hello", environment: str = "main", requirements: tuple[str, ...] = ()) -> Resource:
    inputs: JsonObject = {"kind": "fal", "requirements": list(requirements), "python_version": None}
    return Resource(f"build.{environment}.{name}", ResourceType.BUILD, inputs, ("gateway",))


def a_gateway(**inputs: Json) -> Resource:
    return Resource("gateway", ResourceType.GATEWAY, {"project": "demo", "provider": "local", **inputs})


def a_host(name: str = "gpu-01", region: str = "dc1", home: str = "~") -> Resource:
    """One that another home replaces."""
    immutable = frozenset({"home"})
    return Resource(f"host.{region}.{name}", ResourceType.HOST, {"home": home}, ("gateway",), immutable=immutable)


def wanted(*resources: Resource) -> dict[str, Resource]:
    return {r.address: r for r in resources}


def a_state(*resources: Resource, serial: int = 1, **kept: Any) -> State:
    """State in which these were applied once."""
    recorded = {r.address: Recorded(r.address, r.type.value, r.inputs, {}, r.dependencies, 1) for r in resources}
    return State("demo", LINEAGE, serial, recorded, **kept)


def applied(plan: Plan, state: State) -> State:
    """State after everything in the plan succeeded."""
    resources = dict(state.resources)
    retired = dict(state.retired)
    for change in plan.operations:
        if change.action is Action.DELETE:
            resources.pop(change.address, None)
            retired[change.address] = change.generation
        else:
            resources[change.address] = recorded_of(change)
    return replace(state, resources=resources, retired=retired, serial=state.serial + 1)


def recorded_of(change: Change) -> Recorded:
    kind = type_of(change.address).value
    return Recorded(change.address, kind, change.after or {}, {}, change.dependencies, change.generation)


def a_runner(
    runner_id: str = "runner-1", state: RunnerState = RunnerState.IDLE, revision: str = "r1", **values: Any
) -> RunnerView:
    ready = NOON - 100 if state in (RunnerState.IDLE, RunnerState.RUNNING) else None
    return replace(RunnerView(runner_id, revision, state, NOON - 200, ready), **values)


def an_app_view(revision: str | None = "r1", scaling: Scaling | None = None, **values: Any) -> AppView:
    return replace(AppView("acme/hello", revision, scaling or Scaling()), **values)


def demand(*waiting: float, **values: Any) -> Demand:
    return Demand("acme/hello", waiting, **values)
