"""Evaluates the spec's outputs, in the bounded child process. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from falplan.core.errors import FalplanError
from falplan.core.outputs import absent_paths, is_unknown, output_changes, recorded_outputs, unknown_paths
from falplan.core.plan import Plan
from falplan.core.resources import GATEWAY, ResourceType
from falplan.core.scope import base_scope, with_results
from falplan.core.spec.resolved import ResolvedOutput, ResolvedSpec
from falplan.core.state import Output, State
from falplan.core.values import Json
from falplan.engine.project import Project
from falplan.sdk.failpoints import fp
from falplan.stores.spec.sandbox import Sandbox, Scope


def with_outputs(spec: ResolvedSpec, plan: Plan, state: State) -> Plan:
    """The same plan with what becomes of the outputs.

    Raises:
        FalplanError: an output's expression fails.
    """
    if not spec.outputs and not state.outputs:
        return plan
    unknown, judged = unknown_paths(plan), _of_present(spec, plan.changes)
    known = [o for o in judged if not is_unknown(o.names, unknown)]
    values, kept = _values(spec, known, state), _kept_back(spec, judged, state)
    others = replace(state, outputs={n: o for n, o in state.outputs.items() if n not in kept})
    return replace(plan, outputs=output_changes(judged, values, others))


def _of_present(spec: ResolvedSpec, present: Collection[str]) -> list[ResolvedOutput]:
    """Outputs that read nothing of an app which is not there: it was left out of an apply so far."""
    absent = absent_paths([app.address for app in spec.apps], present)
    return [o for o in spec.outputs if not is_unknown(o.names, absent)]


def _kept_back(spec: ResolvedSpec, judged: Iterable[ResolvedOutput], state: State) -> dict[str, Output]:
    """Outputs of the spec that can't be told at the moment, as they were."""
    told = {o.name for o in judged}
    return {o.name: state.outputs[o.name] for o in spec.outputs if o.name not in told and o.name in state.outputs}


def outputs_after(spec: ResolvedSpec, state: State) -> dict[str, Output]:
    """The outputs as they are once everything was applied, as state keeps them.

    Raises:
        FalplanError: an output's expression fails.
    """
    judged = _of_present(spec, state.resources)
    return {**_kept_back(spec, judged, state), **recorded_outputs(judged, _values(spec, judged, state))}


def keep_outputs(project: Project, state: State) -> State:
    """Evaluate the outputs of what was applied, and save them if they changed. The caller holds the state's lock.

    Raises:
        FalplanError: an output's expression fails. StateNotSaved: the outputs of before stand in state.
    """
    if not project.spec.outputs and not state.outputs:
        return state
    return _kept(project, state, outputs_after(project.spec, state))


def drop_outputs(project: Project, state: State) -> State:
    """Everything was destroyed: there is nothing left that outputs could tell of. The caller holds the state's lock.

    Raises:
        StateNotSaved: the outputs of before stand in state.
    """
    return _kept(project, state, {})


def _kept(project: Project, state: State, outputs: Mapping[str, Output]) -> State:
    if outputs == state.outputs:
        return state
    fp("outputs.keep.before_save")
    saved = project.store.save(replace(state, outputs=outputs))
    fp("outputs.keep.after_save")
    return saved


def _values(spec: ResolvedSpec, outputs: Iterable[ResolvedOutput], state: State) -> dict[str, Json]:
    found: dict[str, Json] = {}
    scope = Scope.of(with_results(base_scope(spec), *results_of(state)))
    with Sandbox() as sandbox:
        for output in outputs:
            found[output.name], failure = sandbox.value(output.value, scope)
            if failure:
                place = f"{output.position}: " if output.position else ""
                raise FalplanError("An output can't be evaluated", f"{place}{output.name}: {failure}")
    return found


def results_of(state: State) -> tuple[str, Mapping[str, str]]:
    """The gateway's URL, and each app's revision by address, as they were applied."""
    gateway = state.resources.get(GATEWAY)
    url = str(gateway.outputs.get("url", "")) if gateway else ""
    apps = {a: r for a, r in state.resources.items() if r.type == ResourceType.APP}
    return url, {a: str(r.outputs.get("revision", "")) for a, r in apps.items()}
