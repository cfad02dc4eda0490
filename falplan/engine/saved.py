"""Saves plans, and makes ready to carry a saved one out: it must be ours, hold good, and the world must be as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from falplan import clock, registry
from falplan.core.consequences import consequences
from falplan.core.errors import FalplanError, Refused
from falplan.core.moves import as_planned
from falplan.core.plan import Action, Change, Plan
from falplan.core.report import Report
from falplan.core.resources import ResourceType
from falplan.core.saved_plan import (
    UNFIT,
    Binding,
    Here,
    SavedPlan,
    objections,
    refuse_for,
    resource_digests,
    saved_from_json,
    saved_to_json,
    state_digest,
)
from falplan.core.spec_digest import spec_digest, spec_parts
from falplan.core.state import State
from falplan.engine.dead import without_dead
from falplan.engine.generations import fresh
from falplan.engine.observe import Observed, observe
from falplan.engine.planning import Planned, live_runners, machines, python_of, with_live
from falplan.engine.project import Project
from falplan.engine.secrets import GatheredSecrets, gather_secrets, project_keys, recorded_keys
from falplan.engine.shopping import keep_free, shop_for
from falplan.engine.touched import facts, moved
from falplan.stores.encryption import seal_for
from falplan.stores.plan_file import read_plan, write_plan
from falplan.stores.project_key import VARIABLE
from falplan.stores.release import this_release
from falplan.stores.state.seal import Seal


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options that a plan is made with and that apply has to know. `valid_for` in seconds."""

    environment: str = ""
    destroys: bool = False
    dead: str = ""
    variables: tuple[str, ...] = ()
    variable_files: tuple[str, ...] = ()
    valid_for: float = 0.0


def ready_to_save(project: Project, state: State) -> None:
    """Make the key that signs the plan, before the plan is made: fingerprints of secrets are of the same.

    Raises:
        Refused: state knows of a key, and it is not here.
    """
    keys, known = project_keys(project), sorted(recorded_keys(state))
    if keys.read() is None and known:
        why = f"State knows key {known[0]}, and plans are signed by it"
        raise Refused("The project's key is not here", f"{why}: bring it to {keys.path}, or set {VARIABLE}.")
    keys.ensure()


def save_plan(
    project: Project, state: State, planned: Planned, report: Report, path: Path, chosen: Chosen
) -> SavedPlan:
    """Write a plan that can be applied as it is, with what was shown of it. `state` is the one that was read, as it was.

    Raises:
        FalplanError: something could not be looked at, so the plan is not whole; or the file can't be written.
    """
    if planned.plan.unseen:
        because = next(iter(planned.plan.unseen.values()))
        raise FalplanError("Not everything could be looked at", f"{because}. No plan was saved.")
    keys, now, seen = project_keys(project).ensure(), clock.now(), facts(planned.observed, planned.plan)
    binding = Binding(
        project=project.spec.project,
        environment=chosen.environment,
        lineage=state.lineage,
        serial=state.serial,
        where="" if state.serial else _where(project),
        state_digest=state_digest(state),
        spec_digest=spec_digest(project.spec),
        falplan=str(this_release()),
        providers=_providers(project),
        created_at=now,
        valid_until=now + chosen.valid_for,
        resources=resource_digests(state),
        spec=spec_parts(project.spec),
        observed=seen,
        destroys=chosen.destroys,
        dead=chosen.dead,
        variables=chosen.variables,
        variable_files=chosen.variable_files,
    )
    saved = SavedPlan(replace(report, no_place=()), binding, replace(planned.state, outputs={}))
    write_plan(path, saved_to_json(saved), state.serial, keys.current, _seal(project, state.lineage))
    return saved


def open_saved(project: Project, path: Path) -> SavedPlan:
    """A saved plan of this project, whether or not it still holds good.

    Raises:
        Refused: it is no saved plan, unsigned, edited, cut short, foreign or newer; says which.
    """
    body = read_plan(path, project_keys(project).read(), _seal(project))
    try:
        return saved_from_json(body)
    except (KeyError, TypeError, ValueError) as exc:
        made: object = (body.get("binding") or {}).get("falplan") if isinstance(body.get("binding"), dict) else None  # type: ignore[union-attr]
        by = f"falplan {made or 'of another version'} made it; this is {this_release()}"
        raise Refused(UNFIT, f"{path}: {by}. Nothing was changed.") from exc


def check_saved(project: Project, saved: SavedPlan, environment: str | None = None) -> State:
    """The state that the plan is for, as it stands now. The caller holds its lock.

    Raises:
        Refused: the plan does not hold good any more, or never did here: everything that speaks against it.
    """
    state = project.store.read(project.spec.project)
    if state is None:
        # The first apply gives the project its lineage: that of the plan, unless a control plane that runs already has one.
        lineage = project.read_state().lineage if project.spec.gateway.get("url") else saved.binding.lineage
        state = State(project.spec.project, lineage, 0)
    here = Here(
        project=project.spec.project,
        environment=environment,
        state=state,
        where=_where(project),
        spec_digest=spec_digest(project.spec),
        spec=spec_parts(project.spec),
        falplan=str(this_release()),
        providers=_providers(project),
        now=clock.now(),
    )
    found = objections(saved.binding, here)
    if found:
        raise refuse_for(found)
    return state


def look_again(project: Project, saved: SavedPlan, state: State) -> tuple[Planned, list[str]]:
    """The plan, ready to be carried out, and what moved in the world since it was made. Looks, and touches nothing.

    Raises:
        Refused: the value of a secret is not the one that was planned, or is not here.
    """
    plan = saved.report.plan
    state = as_planned(plan, without_dead(project, state, saved.binding.dead))
    observed = observe(project, state, {a: c.importing for a, c in plan.changes.items() if c.importing})
    state = with_live(state, observed)
    found = moved(saved.binding.observed, plan, observed, state)
    if not found:
        again = fresh(project, state, observed, plan)
        ours = [a for a in plan.after if again.changes[a].operation != plan.changes[a].operation]
        found = [f"{a}: somebody acted on it under the id that was planned" for a in ours]
    secrets = _secrets(project, plan, state, observed)
    room = () if saved.binding.destroys else machines(project, observed, state.lineage)
    types, python = project.spec.machine_types, python_of(observed)
    shop = None if saved.binding.destroys else shop_for(project.spec, plan, observed)
    follow, no_place = consequences(plan, live_runners(observed), room, types, python, shop)
    keep_free(shop, project.spec, room, follow)
    return Planned(plan, state, observed, tuple(follow), tuple(no_place), secrets, shop=shop), found


def _secrets(project: Project, plan: Plan, state: State, observed: Observed) -> GatheredSecrets:
    planned = {a: c for a, c in plan.changes.items() if c.type is ResourceType.SECRET and c.after is not None}
    if not planned:
        return GatheredSecrets()
    gathered = gather_secrets(project, state, observed)
    lines = []
    for address, change in sorted(planned.items()):
        because = gathered.missing.get(address)
        if because is not None and change.action is not Action.NOOP:
            lines.append(f"{address}: its value is not here: {because}.")
        elif because is None and not _as_planned(project, change, gathered):
            lines.append(f"{address}: its value is not the one that the plan was made with.")
    if lines:
        raise refuse_for(lines)
    return gathered


def _as_planned(project: Project, change: Change, gathered: GatheredSecrets) -> bool:
    """Whether the value here is the planned one, compared under the key that the plan's fingerprint is of."""
    wanted, here = change.after or {}, gathered.inputs[change.address]
    fingerprint = wanted.get("fingerprint")
    if fingerprint is None:
        return "version" not in wanted or wanted.get("version") == here.get("version")
    keys, value = project_keys(project).read(), gathered.values.get(change.address)
    key = keys.find(str(fingerprint).partition(":")[0]) if keys else None
    return key is not None and value is not None and key.fingerprint(change.address, value) == fingerprint


def removed_beyond(reviewed: Plan, new: Plan) -> list[str]:
    """What a new plan destroys or replaces, and the reviewed one did not: nobody agreed to that."""
    removes = (Action.DELETE, Action.REPLACE, Action.REPLACE_CREATE_FIRST)
    agreed = {a for a, c in reviewed.changes.items() if c.action in removes}
    return sorted(a for a, c in new.changes.items() if c.action in removes and a not in agreed)


def _providers(project: Project) -> dict[str, str]:
    return registry.releases((r.provider for r in project.spec.regions.values()), str(this_release()))


def _seal(project: Project, lineage: str = "") -> Seal:
    """What the file is sealed with, if state is encrypted. Of which environment it is stands inside, under the signature."""
    return seal_for(project.spec, project.environ, lineage=lineage)


def _where(project: Project) -> str:
    return project.store.where


def options_of(variables: Sequence[str], variable_files: Sequence[Path], chosen: Chosen) -> Chosen:
    """The same, with the options that the spec was read with."""
    return replace(chosen, variables=tuple(variables), variable_files=tuple(str(f) for f in variable_files))
