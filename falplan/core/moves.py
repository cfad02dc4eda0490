"""Edits of state that the spec asks for: resources under new names, forgotten ones, and ones that exist already. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from falplan.core.diff import with_value
from falplan.core.plan import Action, Change, Plan, Presence, Reason
from falplan.core.resources import GATEWAY, ResourceType, build_address, type_of
from falplan.core.spec.declared import Import, Move, Removal
from falplan.core.state import Recorded, State
from falplan.core.values import JsonObject, digest


@dataclass(frozen=True, slots=True)
class Edited:
    """State after edits, and what they were. `moved` maps new addresses to old ones, `imported` addresses to identities.

    `given_up` are hosts that state forgot before, and that the control plane still uses: address -> why it does not answer, or empty.
    """

    state: State
    moved: Mapping[str, str]
    forgotten: Mapping[str, Recorded]
    imported: Mapping[str, str]
    given_up: Mapping[str, str] = field(default_factory=dict)


def with_moves(state: State, moves: Iterable[Move]) -> tuple[State, dict[str, str]]:
    """State under the new names, and new address -> old address of what was moved. Moves that were done before do nothing.

    An app takes its build along. Chains are followed in the order in which they hang together, whatever the order of the list.
    """
    new_names = _resolved({m.source: m.target for m in moves})
    new_names |= {
        build_of(old): build_of(new)
        for old, new in new_names.items()
        if type_of(old) is ResourceType.APP and build_of(old) not in new_names
    }
    done = {new: old for old, new in new_names.items() if old in state.resources and new not in state.resources}
    if not done:
        return state, {}
    renamed = {old: new for new, old in done.items()}
    resources, retired = {}, dict(state.retired)
    for address, recorded in state.resources.items():
        target = renamed.get(address, address)
        dependencies = tuple(renamed.get(d, d) for d in recorded.dependencies)
        generation = recorded.generation
        if target != address:
            # An operation id is made of address and generation: under its new name it goes on beyond what was used there.
            generation = max(generation, retired.pop(target, 0))
            retired[address] = recorded.generation
        resources[target] = replace(recorded, address=target, dependencies=dependencies, generation=generation)
    return replace(state, resources=resources, retired=retired), done


def build_of(app: str) -> str:
    """The address of an app's build."""
    _, environment, name = app.split(".", 2)
    return build_address(environment, name)


def _resolved(moves: Mapping[str, str]) -> dict[str, str]:
    """Each source with the last name of its chain. A circle, which validation refuses, is left where it closes."""
    result = {}
    for source in moves:
        target, passed = moves[source], {source}
        while target in moves and target not in passed:
            passed.add(target)
            target = moves[target]
        result[source] = target
    return result


def with_removals(state: State, removals: Iterable[Removal]) -> tuple[State, dict[str, Recorded]]:
    """State without what is forgotten, and what that was. An app that is forgotten takes its build along."""
    gone: dict[str, Recorded] = {}
    for removal in removals:
        if removal.destroy:
            continue
        addresses = [removal.address]
        if type_of(removal.address) is ResourceType.APP:
            addresses.append(build_of(removal.address))
        gone |= {a: state.resources[a] for a in addresses if a in state.resources}
    return forget(state, gone), gone


def forget(state: State, addresses: Iterable[str]) -> State:
    """State that no longer manages these, although they go on. Their generations are kept, and nothing depends on them."""
    gone = frozenset(addresses) & state.resources.keys()
    if not gone:
        return state
    kept = {
        a: replace(r, dependencies=tuple(d for d in r.dependencies if d not in gone))
        for a, r in state.resources.items()
        if a not in gone
    }
    retired = {**state.retired, **{a: state.resources[a].generation for a in gone}}
    return replace(state, resources=kept, retired=retired, forgotten=state.forgotten | gone)


def with_imports(
    state: State, imports: Iterable[Import], found: Mapping[str, Recorded]
) -> tuple[State, dict[str, str]]:
    """State with what exists already; `found` holds the imported resources by address, as they are now.

    What state knows already is not imported again.
    """
    wanted = {i.address: i.identity for i in imports if i.address not in state.resources and i.address in found}
    if not wanted:
        return state, {}
    resources = {**state.resources, **{a: found[a] for a in wanted}}
    retired = {a: g for a, g in state.retired.items() if a not in wanted}
    return replace(state, resources=resources, retired=retired, forgotten=state.forgotten - wanted.keys()), wanted


def as_planned(plan: Plan, state: State) -> State:
    """State with the edits that a plan shows: the same that the plan was made from, for one that was saved before them."""
    renamed = {c.previous_address: a for a, c in plan.changes.items() if c.previous_address}
    state, _ = with_moves(state, [Move(old, new) for old, new in renamed.items()])
    state = forget(state, [a for a, c in plan.changes.items() if c.action is Action.FORGET])
    imported = {a: _imported(c) for a, c in plan.changes.items() if c.importing}
    state, _ = with_imports(state, [Import(a, plan.changes[a].importing) for a in imported], imported)
    return _with_drift(state, plan) if plan.refresh_only else state


def _imported(change: Change) -> Recorded:
    inputs = change.before or {}
    return Recorded(change.address, change.type.value, inputs, change.outputs, (GATEWAY,), change.generation - 1)


def _with_drift(state: State, plan: Plan) -> State:
    resources, retired = dict(state.resources), dict(state.retired)
    for address, drift in plan.drift.items():
        if drift.presence is Presence.ABSENT:
            retired[address] = resources.pop(address).generation
            continue
        inputs = resources[address].inputs
        for a in drift.attributes:
            if a.path[0] in inputs:
                inputs = cast("JsonObject", with_value(inputs, a.path, a.after))
        resources[address] = replace(resources[address], inputs=inputs)
    return replace(state, resources=resources, retired=retired)


def show_edits(plan: Plan, edited: Edited) -> Plan:
    """The plan with the edits of state that go before it."""
    changes = dict(plan.changes)
    for address, before in edited.moved.items():
        changes[address] = replace(changes[address], previous_address=before)
    for address, identity in edited.imported.items():
        changes[address] = replace(changes[address], importing=identity)
    for address, recorded in edited.forgotten.items():
        changes[address] = _forgotten(recorded)
    for address, silent in edited.given_up.items():
        changes[address] = _given_up(address, silent, edited.state.retired.get(address, 0))
    return replace(plan, changes=dict(sorted(changes.items())))


def _forgotten(recorded: Recorded) -> Change:
    looked_at = recorded.inputs.get("managed") is False
    return Change(
        recorded.address,
        type_of(recorded.address),
        Action.FORGET,
        "it was only looked at" if looked_at else "the spec says `removed`: it goes on without falplan",
        before=recorded.inputs,
        outputs=recorded.outputs,
        dependencies=recorded.dependencies,
        generation=recorded.generation,
        reason=Reason.NOT_IN_SPEC,
    )


def _given_up(address: str, silent: str, generation: int) -> Change:
    follows = f"what may run there is taken for gone ({silent})" if silent else "its runners are drained"
    because = f"it was forgotten, and the control plane gives it up: {follows}"
    return Change(address, ResourceType.HOST, Action.FORGET, because, generation=generation, reason=Reason.NOT_IN_SPEC)


def rename_hints(plan: Plan) -> tuple[str, ...]:
    """A suggestion for each app or host that goes while one comes that is the same but for its name."""
    by_content: dict[str, list[str]] = {}
    for address, change in plan.changes.items():
        if change.action is Action.DELETE and change.type in NAMED:
            by_content.setdefault(_content(address, change.before or {}), []).append(address)
    hints = []
    for address, change in sorted(plan.changes.items()):
        if change.action is not Action.CREATE or change.type not in NAMED:
            continue
        alike = by_content.get(_content(address, change.after or {}), [])
        if alike:
            before = alike.pop(0)
            hints.append(
                f"{address} is {before} but for its name. If it was renamed, say so, and {NAMED[change.type]}: "
                f"`moved: [{{from: {before}, to: {address}}}]`"
            )
    return tuple(hints)


NAMED = {
    ResourceType.APP: "the new endpoint serves before the old one goes",
    ResourceType.HOST: "it stays as it is",
}
"""What has a name that may change, and what becomes of it then."""


def _content(address: str, inputs: JsonObject) -> str:
    """What something is and where, less its name and an app's endpoint."""
    where = address.rpartition(".")[0]
    return digest({"where": where, **{k: v for k, v in inputs.items() if k != "endpoint"}})
