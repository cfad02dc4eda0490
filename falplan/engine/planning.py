"""Gathers what a plan needs, and makes it. Changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from falplan import registry
from falplan.core.consequences import Consequence, LiveRunner, NoPlace, alike, consequences
from falplan.core.drift import as_seen, find_drift
from falplan.core.errors import Refused
from falplan.core.findings import Finding
from falplan.core.generations import with_live_apps
from falplan.core.loss import vanished
from falplan.core.moves import Edited, forget, rename_hints, show_edits, with_imports, with_moves, with_removals
from falplan.core.placement import Placed, Reserved, Slots, slots_from_json, without
from falplan.core.plan import Action, Change, Plan, Presence
from falplan.core.planner import explain_missing, make_plan, only_deletes
from falplan.core.plural import count
from falplan.core.provided import ResourceKind, provided_address, unmanaged_gone, with_strays
from falplan.core.purchases import Shop, coming
from falplan.core.resources import (
    GATEWAY,
    Resource,
    ResourceType,
    desired_resources,
    environment_of,
    host_address,
    machine_of,
    type_of,
)
from falplan.core.select import at_rest, exclude, in_environment, target
from falplan.core.spec.declared import Import
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import Recorded, State
from falplan.engine.generations import fresh
from falplan.engine.holdings import look_for
from falplan.engine.importing import check_provided_refactors, find_imports, seen_imports
from falplan.engine.observe import Observed, observe, unobserved
from falplan.engine.outputs import with_outputs
from falplan.engine.project import Project
from falplan.engine.reaching import Where
from falplan.engine.secrets import GatheredSecrets, gather_secrets, see_secrets, unread_secrets
from falplan.engine.shopping import keep_free, shop_for
from falplan.engine.staying import moves
from falplan.runner import ledger
from falplan.runner.rules import Refusal
from falplan.sdk.resources import HostRegion
from falplan.sdk.values import Machine
from falplan.stores.release import Release, this_release


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what it was made from and what follows from it."""

    plan: Plan
    state: State
    observed: Observed
    follow: tuple[Consequence, ...] = ()
    no_place: tuple[NoPlace, ...] = ()
    secrets: GatheredSecrets = field(default_factory=GatheredSecrets, repr=False)
    lost: Finding | None = None  #: so much seems to be gone that the look itself is in doubt
    shop: Shop | None = None  #: where machines are bought for runners without room, and what is bought


@dataclass(frozen=True, slots=True)
class Scope:
    """What a plan is to be about.

    `targets`, `excludes` and `renewed` are addresses; `environment` limits it to one. Without `refresh` nothing is looked at, but
    an apply (`acts`) asks the control plane which operations it knows. `today`, such as 2026-11-21, is for rules that end.
    `trusted` is False for a spec of strangers: nothing is read, run or asked that it names. `accept_loss`: what is seen to be gone is,
    however much it is.
    """

    targets: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    renewed: tuple[str, ...] = ()
    environment: str = ""
    refresh: bool = True
    acts: bool = False
    today: str = ""
    trusted: bool = True
    accept_loss: bool = False

    @property
    def narrow(self) -> bool:
        """Whether it is about less than everything, or about more than the spec says."""
        return bool(self.targets or self.excludes or self.renewed or self.environment) or not self.refresh

    def holds(self, address: str) -> bool:
        """Whether an edit of state at this address belongs to the plan."""
        inside = not self.environment or environment_of(address) == self.environment
        return inside and (not self.targets or address in self.targets) and address not in self.excludes


def plan_apply(project: Project, state: State, scope: Scope = Scope()) -> Planned:
    """What makes the world as the spec says."""
    spec = project.spec
    state, moved = with_moves(state, spec.refactors.moved)
    state, forgotten = with_removals(state, [r for r in spec.refactors.removed if scope.holds(r.address)])
    imports = [i for i in spec.refactors.imported if scope.holds(i.address)]
    observed = _looked(project, state, imports, scope)
    check_provided_refactors(spec, observed.provided)
    lost = vanished(state, observed.seen, accepted=scope.accept_loss)
    drift = find_drift(state, observed.seen, rules=spec.ignored_drift, today=scope.today).drift
    state, imported = with_imports(state, imports, find_imports(imports, state, observed))
    state = with_live(state, observed)
    secrets = gather_secrets(project, state, observed) if scope.trusted else unread_secrets(project)
    release = release_for(observed, state, this_release())
    wanted = desired_resources(spec, secrets.inputs, release=release, provided=observed.provided.wanted)
    left = unmanaged_gone(state, wanted)
    state, forgotten = forget(state, left), {**forgotten, **left}
    seen = see_secrets(secrets, state, {**observed.seen, **seen_imports(imported, state, observed)})
    plan = make_plan(wanted, state, seen, rekeyed=secrets.rekeyed, renewed=scope.renewed)
    plan = explain_missing(plan, secrets.missing)
    plan = show_edits(plan, Edited(state, moved, forgotten, imported, _given_up(state, observed, wanted, scope)))
    plan = with_trust(plan, observed.trusting)
    hints = (*rename_hints(plan), *(f"{a} shows no key: {why}." for a, why in sorted(observed.silent.items())))
    plan = _within(replace(plan, drift=drift, hints=hints), scope)
    plan = with_outputs(spec, plan, state)
    if plan.is_empty:
        return Planned(plan, state, observed, secrets=secrets, lost=lost)
    if scope.trusted:
        plan = fresh(project, state, observed, plan)
    shop = shop_for(project.spec, plan, observed) if scope.refresh and scope.trusted else None
    follow, no_place = _runners(project, observed, plan, state, shop) if scope.refresh else ([], [])
    plan = replace(plan, hints=(*plan.hints, *_odd_hosts(plan, observed)))
    return Planned(plan, state, observed, tuple(follow), tuple(no_place), secrets, lost, shop)


def _looked(project: Project, state: State, imports: Iterable[Import], scope: Scope) -> Observed:
    if not scope.refresh:
        return unobserved(project, state, ask=scope.acts)
    observed = observe(project, state, {i.address: i.identity for i in imports if i.address not in state.resources})
    if observed.client is not None or not scope.trusted:
        return observed
    return replace(observed, shown_bought=look_for(project.spec, state.lineage))


def with_live(state: State, observed: Observed) -> State:
    """State with what is there, is this project's, and stands in no record."""
    return with_strays(with_live_apps(state, observed.apps), observed.looked.strays)


def _runners(
    project: Project, observed: Observed, plan: Plan, state: State, shop: Shop | None
) -> tuple[list[Consequence], list[NoPlace]]:
    room = machines_after(project, observed, plan, state.lineage)
    types = project.spec.machine_types
    follow, missing = consequences(plan, live_runners(observed), room, types, python_of(observed), shop)
    keep_free(shop, project.spec, room, follow)
    return follow, missing


def python_of(observed: Observed) -> str:
    """What the control plane makes environments with whose apps ask for no Python, as `3.11`; empty if that is not known."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}" if observed.where is Where.HERE else ""
    return str(observed.status.get("python") or own)


def machines_after(project: Project, observed: Observed, plan: Plan, lineage: str) -> list[Slots]:
    """As `machines`, without hosts that the plan removes or has the control plane forget."""
    gone = {machine_of(c.address) for c in plan.changes.values() if _goes(c)}
    return [m for m in machines(project, observed, lineage) if m.machine_id not in gone]


def _goes(change: Change) -> bool:
    return change.type is ResourceType.HOST and change.action in (Action.DELETE, Action.FORGET)


def _given_up(state: State, observed: Observed, wanted: Collection[str], scope: Scope) -> dict[str, str]:
    """Hosts that state forgot and the control plane uses still: address -> why it does not answer, empty if it does."""
    silent = {m["machine_id"]: str(m.get("unknown", "")) for m in observed.machines}
    gone = {a: machine_of(a) for a in sorted(state.forgotten - set(wanted)) if type_of(a) is ResourceType.HOST}
    return {a: silent[m] for a, m in gone.items() if m in silent and a not in state.resources and scope.holds(a)}


def with_trust(plan: Plan, trusting: Mapping[str, str]) -> Plan:
    """The plan, with the keys that hosts were just seen to show at whatever is to be logged in to because of them."""
    if not trusting:
        return plan
    changes = {
        a: replace(c, trust=trusting[a]) if a in trusting and c.action.acts else c for a, c in plan.changes.items()
    }
    return replace(plan, changes=changes)


def check_trust(planned: Planned) -> None:
    """Refuse to trust host keys that nobody has confirmed, where nobody is asked.

    Raises:
        Refused: each of them, and where it is to be written.
    """
    open_ = [c for _, c in sorted(planned.plan.changes.items()) if c.trust]
    if not open_:
        return
    lines = [f"{c.address} shows {c.trust}" for c in open_]
    where = "`regions.<name>.hosts.<name>.host_key`"
    advice = (
        "Compare each with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on the host, and write it as "
        f"{where}; or save a plan, have it reviewed, and apply that."
    )
    raise Refused("Nobody has confirmed the keys of these hosts", "\n".join([*lines, advice]))


def plan_refresh(project: Project, state: State, scope: Scope = Scope()) -> Planned:
    """What was found to differ from state, to be recorded in it. Nothing else is changed by its apply."""
    observed = observe(project, state)
    drift = find_drift(state, observed.seen, rules=project.spec.ignored_drift, today=scope.today).drift
    looked_at = {a: s for a, s in observed.seen.items() if scope.holds(a)}
    kept = {a: _as_recorded(r) for a, r in state.resources.items()}
    plan = make_plan(kept, state, {a: s for a, s in observed.seen.items() if s.presence is Presence.UNKNOWN})
    changes = {a: at_rest(c) for a, c in plan.changes.items()}
    shown = {a: d for a, d in drift.items() if scope.holds(a)}
    plan = replace(plan, changes=changes, after={}, drift=shown, refresh_only=True)
    lost = vanished(state, observed.seen, accepted=scope.accept_loss)
    return Planned(plan, as_seen(state, looked_at), observed, lost=lost)


def _within(plan: Plan, scope: Scope) -> Plan:
    if scope.environment:
        plan = in_environment(plan, scope.environment)
        plan = replace(plan, drift={a: d for a, d in plan.drift.items() if environment_of(a) == scope.environment})
    if scope.targets:
        plan = target(plan, scope.targets)
    return exclude(plan, scope.excludes) if scope.excludes else plan


def release_for(observed: Observed, state: State, ours: Release) -> str:
    """The falplan that the gateway is to run: ours, unless it runs a newer one already or is not ours to upgrade."""
    recorded = state.resources.get(GATEWAY)
    if recorded is None:
        return "" if observed.where is Where.GIVEN else str(ours)
    seen = observed.seen.get(GATEWAY)
    runs = (seen.inputs if seen else {}).get("falplan", recorded.inputs.get("falplan"))
    if seen and seen.presence in (Presence.STOPPED, Presence.ABSENT):
        return str(ours)
    if observed.where not in (Where.HERE, Where.HOST) or (seen and seen.presence is Presence.UNKNOWN):
        return str(runs or "")
    return str(runs) if runs and ours.is_older_than(Release.parse(str(runs))) else str(ours)


def check_gateway(planned: Planned, spec: ResolvedSpec, environ: Mapping[str, str]) -> None:
    """Refuse a control plane that would end with this machine unnoticed, or that is wanted where it is not.

    Raises:
        Refused: a local gateway under CI=true, or beside regions of other machines, without `ephemeral: true`; another host than it is on.
    """
    moved = moves(planned.state, spec, planned.observed.seen.get(GATEWAY))
    if moved:
        raise Refused("The control plane does not move by itself", moved)
    because = short_lived(planned, spec, environ)
    if because:
        raise Refused(SHORT_LIVED, f"{because} {LASTING}")


SHORT_LIVED = "A local gateway is refused here"
LASTING = (
    "Use `gateway: {host: region/name}`, which keeps it on a host, or `gateway: {url: …}` for one that runs already; or say "
    "`gateway: {ephemeral: true}` if it may end with this machine."
)


def short_lived(planned: Planned, spec: ResolvedSpec, environ: Mapping[str, str]) -> str:
    """Why the control plane that the plan starts would end unnoticed; empty if it would not."""
    change = planned.plan.changes.get(GATEWAY)
    starts = change is not None and change.action.acts and planned.observed.where is Where.HERE
    if not starts or spec.gateway.get("provider") != "local" or spec.gateway.get("ephemeral"):
        return ""
    others = sorted(name for name, region in spec.regions.items() if region.provider != "local")
    if environ.get("CI", "").lower() in ("true", "1"):
        return "CI=true: this machine ends with the job, and the control plane with it."
    if others:
        return f"Runners in {', '.join(others)} would be left without a control plane when this machine is off."
    return ""


def plan_destroy(project: Project, state: State, environment: str | None, scope: Scope = Scope()) -> Planned:
    """What removes everything that is recorded; with an environment, only its resources."""
    observed = observe(project, state)
    lost = vanished(state, observed.seen, accepted=scope.accept_loss)
    state = with_live(state, observed)
    because = f"environment {environment} is destroyed" if environment else "everything is destroyed"
    wanted = {}
    if environment is not None:
        wanted = {a: _as_recorded(r) for a, r in state.resources.items() if environment_of(a) != environment}
    left = unmanaged_gone(state, wanted)
    state = forget(state, left)
    plan = make_plan(wanted, state, observed.seen, because_deleted=because)
    plan = show_edits(plan, Edited(state, {}, left, {}, _given_up(state, observed, wanted, scope)))
    if environment is not None:
        plan = only_deletes(plan, state)
    plan = _within(plan, replace(scope, environment=""))
    plan = fresh(project, state, observed, plan)
    runners = live_runners(observed)
    follow, _ = consequences(plan, runners, (), project.spec.machine_types)
    return Planned(plan, state, observed, tuple(follow), lost=lost)


def _as_recorded(recorded: Recorded) -> Resource:
    """What other environments have stays as it was applied, whatever the spec says by now."""
    kind = type_of(recorded.address)
    managed = recorded.inputs.get("managed") is not False
    return Resource(
        recorded.address,
        kind,
        recorded.inputs,
        recorded.dependencies,
        protected=recorded.protected,
        managed=managed,
    )


def _odd_hosts(plan: Plan, observed: Observed) -> Iterator[str]:
    """What is odd about hosts that are to be made: they could not be looked at, and why, or are one machine."""
    for machine_id, machine in sorted(observed.shown.items()):
        change = plan.changes.get(host_address(machine_id))
        if machine.unreachable and change is not None and change.action.acts:
            yield f"{change.address} can't be made as long as this is so: {machine.unreachable}"
    for names in _twins(observed.shown.values()):
        yield f"{', '.join(names)} are one machine: its room counts for each of them here, and is given out once."


def _twins(machines: Iterable[Machine]) -> Iterator[list[str]]:
    """Addresses of hosts that lead to one machine, together."""
    found: dict[tuple[str, str], list[str]] = {}
    for machine in machines:
        if machine.inventory.boot_id and machine.inventory.place:
            whom = machine.inventory.boot_id, machine.inventory.place
            found.setdefault(whom, []).append(host_address(machine.id))
    return (sorted(names) for names in found.values() if len(names) > 1)


def check_logins(planned: Planned) -> None:
    """Refuse a plan that makes hosts which answer and let nobody in: it would stop half-way.

    Raises:
        Refused: each of them, where it stands in the spec, what was tried there and what would help.
    """
    lines = []
    for machine in sorted(planned.observed.shown.values(), key=lambda m: m.id):
        change = planned.plan.changes.get(host_address(machine.id))
        if machine.refused and change is not None and change.action.acts:
            at = f" ({change.position})" if change.position else ""
            lines.append(f"{change.address}{at}: {machine.unreachable.partition(': ')[2]}")
    if lines:
        more = (
            "Nothing was changed. `falplan host check` looks at all of them, and `--exclude ADDRESS` plans without one."
        )
        raise Refused(f"{count(len(lines), 'host')} can't be logged in to", "\n".join([*lines, more]))


def check_places(planned: Planned) -> None:
    """Refuse a plan whose runners fit nowhere. What lacks a Python is held against it elsewhere.

    Raises:
        Refused: every app without room, each rejected machine with its reason, and what would help.
    """
    certain = [missing for missing in planned.no_place if not (missing.unknown or missing.lacking)]
    if not certain:
        return
    lines = []
    for who, missing in alike(certain):
        lines.append(f"{who}: {missing.advice}")
        lines += [f"  - {reason}" for reason in missing.reasons]
    raise Refused("There is no room for the runners of this plan", "\n".join(lines))


def check_secrets(planned: Planned) -> None:
    """Refuse a plan that needs the value of a secret that is not here.

    Raises:
        Refused: each of them, why it is not here, and what to set.
    """
    needed = [a for a in sorted(planned.secrets.missing) if planned.plan.changes[a].action.acts]
    if needed:
        lines = [f"{address}: {planned.secrets.missing[address]}." for address in needed]
        detail = "\n".join([*lines, "Nothing was changed. Give each of them a value, then apply again."])
        raise Refused("The value of a secret is not here", detail)


LEAVING = ("DRAINING", "TERMINATING")


def live_runners(observed: Observed) -> list[LiveRunner]:
    """Runners that take room, each with the address of its app."""
    apps = {row["endpoint"]: (address, row["revision"]) for address, row in observed.apps.items()}
    found = []
    for runner in observed.runners:
        address, serves = apps.get(runner["endpoint"], ("", None))
        p = runner["placement"]
        placed = Placed(runner["machine"], p["region"], p["machine_type"], p["vcpu"], p["ram"], tuple(p["gpus"]))
        serving, leaving = runner["revision"] == serves, runner["state"] in LEAVING
        found.append(LiveRunner(address, runner["revision"], placed, serving, leaving))
    return found


def machines(project: Project, observed: Observed, lineage: str) -> list[Slots]:
    """The machines and their room: the control plane's account, or the providers' own before there is one."""
    if observed.machines:
        told = [*map(slots_from_json, observed.machines), *coming(observed.fleet)]
        return [*told, *_new_hosts(observed, {m.machine_id for m in told})]
    hosts = {p.region for p in observed.provided.places.values() if isinstance(p.resources, HostRegion)}
    here = {n: {"provider": r.provider, **r.options} for n, r in project.spec.regions.items() if n not in hosts}
    # Runners of this lineage are not known without its control plane; the plan is made as if they were not there.
    others = [r for r in taken_here(project) if r.lineage != lineage]
    return [*(without(m, others) for m in registry.slots_of(here)), *_new_hosts(observed, set())]


def _new_hosts(observed: Observed, known: set[str]) -> list[Slots]:
    """Hosts that the control plane does not know yet, as they show themselves; those whose key nobody confirmed are not asked."""
    found: list[Slots] = []
    for place in observed.provided.places.values():
        if isinstance(place.resources, HostRegion):
            names = [d.name for d in place.declared.values() if f"{place.region}/{d.name}" not in known]
            asked = [n for n in names if provided_address(ResourceKind.HOST, place.region, n) not in observed.trusting]
            missing = [n for n in asked if f"{place.region}/{n}" not in observed.shown]
            observed.shown.update({m.id: m for m in place.resources.machines_of(missing)})
            found += [registry.slots(m) for m in observed.shown.values() if m.region == place.region]
            found += [_unasked(place.region, n) for n in names if n not in asked]
    return found


def _unasked(region: str, name: str) -> Slots:
    return Slots(f"{region}/{name}", region, 0, 0, 0, 0, unknown="it is asked once its key is confirmed")


def taken_here(project: Project) -> list[Reserved]:
    """What runners of all projects take on this machine, as its ledger says. There is no control plane to ask yet.

    Raises:
        Refused: the ledger is torn, foreign or newer.
    """
    try:
        body = ledger.view({"folder": ledger.machine_folder(project.environ)})
    except Refusal as exc:
        raise Refused("The machine's ledger can't be used", str(exc)) from None
    return [
        Reserved(r["runner_id"], r["lineage"], r["project"], r["vcpu"], r["ram"], tuple(r["gpus"]))
        for r in body["reservations"]
    ]
