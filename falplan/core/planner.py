"""Makes a plan: each resource's change, what it means for those that depend on it, and the ids of operations. Does nothing itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from falplan.core.compare import (
    GONE_FROM_SPEC,
    UNKNOWN_OUTPUTS,
    VALUE_PATHS,
    change_of,
    replacing,
    revises,
    unknown_outputs,
)
from falplan.core.plan import Action, Change, Plan, Presence, Reason, Seen
from falplan.core.plan_order import operation_order
from falplan.core.resources import GATEWAY, PROVIDED, Resource, ResourceType, type_of
from falplan.core.state import State, operation_id
from falplan.core.values import digest


def make_plan(
    wanted: Mapping[str, Resource],
    state: State,
    seen: Mapping[str, Seen],
    *,
    because_deleted: str = GONE_FROM_SPEC,
    rekeyed: Collection[str] = (),
    renewed: Collection[str] = (),
) -> Plan:
    """Compare wanted with recorded and seen. `wanted` is empty for a destroy; `because_deleted` is the reason of deletes.

    Addresses missing in `seen` were not looked at because nothing is recorded of them. `rekeyed` are secrets whose fingerprint is of
    another key, and whose value is the recorded one: nothing else changes because of them. `renewed` are replaced because somebody
    asked for it.
    """
    changes = {}
    for address in sorted(wanted.keys() | state.resources.keys()):
        recorded = state.resources.get(address)
        changes[address] = change_of(wanted.get(address), recorded, seen.get(address), state, address)
        if changes[address].action is Action.DELETE:
            changes[address] = replace(changes[address], because=because_deleted)
        elif address in renewed:
            changes[address] = _renewed(changes[address], wanted.get(address))
    changes = _rebuild_dependents(_rekey(changes, rekeyed), state, rekeyed)
    changes = _with_operations(_with_secrets(_pending(changes)), state)
    unknown = {a: s.because for a, s in sorted(seen.items()) if s.presence is Presence.UNKNOWN}
    return Plan(state.project, state.lineage, state.serial, changes, operation_order(changes, state), unknown)


def explain_missing(plan: Plan, missing: Mapping[str, str]) -> Plan:
    """The same plan, in which secrets that are to be made say why their value is not here. `missing` is address -> reason."""
    changes, unknown = dict(plan.changes), dict(plan.unknown)
    for address, because in missing.items():
        change = changes[address]
        if change.action.acts:
            reason = f"{change.because}; unknown (source not here): {because}"
            changes[address] = replace(change, because=reason, unknown=("fingerprint", *change.unknown))
            unknown.setdefault(address, f"unknown (source not here): {because}; apply needs it")
    return replace(plan, changes=changes, unknown=unknown)


def only_deletes(plan: Plan, state: State, *, start: str = GATEWAY) -> Plan:
    """The same plan without anything but its deletes, and the start of what they need to be running."""
    changes = {}
    for address, change in plan.changes.items():
        keep = change.action is Action.DELETE or (
            address == start and change.action is Action.UPDATE and not change.attributes
        )
        changes[address] = change if keep else replace(change, action=Action.NOOP, attributes=(), operation="")
    return replace(plan, changes=changes, after=operation_order(changes, state))


def _pending(changes: Mapping[str, Change]) -> dict[str, Change]:
    """Say of what is read that something it depends on is only known after apply."""
    result = dict(changes)
    for address, change in changes.items():
        before = [changes[d] for d in change.dependencies if d in changes] if change.action is Action.READ else []
        if any(c.action.acts and c.type in PROVIDED for c in before):
            result[address] = replace(change, reason=Reason.DEPENDENCY_PENDING)
    return result


def _renewed(change: Change, wanted: Resource | None) -> Change:
    """The change, made a replacement if it is not one already."""
    if wanted is None or not wanted.managed or change.action not in (Action.NOOP, Action.UPDATE):
        return change
    because = "it was asked for with --replace"
    action = replacing(wanted) if wanted.type in PROVIDED else Action.REPLACE
    return replace(change, action=action, because=because, reason=Reason.REQUESTED, unknown=unknown_outputs(wanted))


REKEYED = "the project has a new key; the value is the same"
REBUILDING = frozenset({ResourceType.BUILD, ResourceType.SECRET})
"""Types whose change makes a new revision of the apps that use them."""


def _rekey(changes: Mapping[str, Change], rekeyed: Collection[str]) -> dict[str, Change]:
    result = dict(changes)
    for address in rekeyed:
        change = changes[address]
        if change.action is Action.UPDATE:
            attributes = tuple(
                replace(a, because=REKEYED) if a.path == ("fingerprint",) else a for a in change.attributes
            )
            result[address] = replace(change, because=REKEYED, attributes=attributes, unknown=())
    return result


def _rebuild_dependents(changes: Mapping[str, Change], state: State, rekeyed: Collection[str]) -> dict[str, Change]:
    """An app whose build or secret changes gets a new revision, although its own inputs are the same."""
    result = dict(changes)
    for address, change in changes.items():
        because = _dependency_changes(change, changes, rekeyed) or _older_secrets(change, state)
        if not because or change.type is not ResourceType.APP:
            continue
        unknown = UNKNOWN_OUTPUTS[change.type]
        if change.action is Action.NOOP:
            result[address] = replace(change, action=Action.UPDATE, because=because, rebuilt=True, unknown=unknown)
        elif change.action is Action.UPDATE and change.attributes and not revises(change.attributes):
            because = f"{change.because}, and {because}"
            result[address] = replace(change, because=because, rebuilt=True, unknown=unknown)
    return result


def _dependency_changes(change: Change, changes: Mapping[str, Change], rekeyed: Collection[str]) -> str:
    for address in change.dependencies:
        found = changes.get(address)
        if found and address not in rekeyed and _remakes_apps(found):
            return f"{address} changes"
    return ""


def _remakes_apps(change: Change) -> bool:
    """Whether a change makes a new revision of the apps that use the resource: not if only a secret's source differs."""
    paths = {a.path[0] for a in change.attributes}
    keeps_value = change.type is ResourceType.SECRET and bool(paths) and not paths & VALUE_PATHS
    return change.type in REBUILDING and change.action is not Action.NOOP and not keeps_value


def _older_secrets(change: Change, state: State) -> str:
    """An app that was not deployed since one of its secrets got a new version, as after an apply that was killed in between."""
    deployed = change.outputs.get("secrets")
    if not isinstance(deployed, dict):
        return ""
    for address in change.dependencies:
        recorded = state.resources.get(address) if type_of(address) is ResourceType.SECRET else None
        if recorded and deployed.get(address.rpartition(".")[2]) != recorded.outputs.get("version"):
            return f"{address} changed since it was deployed"
    return ""


def _with_secrets(changes: Mapping[str, Change]) -> dict[str, Change]:
    """Tell each app's change which values it is to get, so that the same operation id always stands for the same values."""
    result = dict(changes)
    for address, change in changes.items():
        if change.type is ResourceType.APP and change.action not in (Action.NOOP, Action.DELETE):
            found = [changes[d] for d in change.dependencies if d in changes]
            used = {c.address: _value_of(c) for c in found if c.type is ResourceType.SECRET}
            result[address] = replace(change, secrets=used)
    return result


def _value_of(change: Change) -> str:
    inputs = (change.before if change.action is Action.NOOP else change.after) or {}
    return str(inputs.get("fingerprint", inputs.get("version", "")))


def _with_operations(changes: Mapping[str, Change], state: State) -> dict[str, Change]:
    result = {}
    for address, change in changes.items():
        generation = change.generation
        recorded = state.resources.get(address)
        if recorded and recorded.intent:
            same = recorded.intent.inputs_digest == inputs_digest(change)
            generation = recorded.intent.generation + (0 if same else 1)
        operation = operation_id(state.lineage, address, generation) if change.action.acts else ""
        if (generation, operation) != (change.generation, change.operation):
            change = replace(change, generation=generation, operation=operation)
        result[address] = change
    return result


def inputs_digest(change: Change) -> str:
    """What an intent remembers of the inputs it was begun with, to tell whether a later plan asks for the same."""
    if change.action is Action.DELETE:
        return ""
    if change.secrets:
        return digest([change.after or {}, dict(change.secrets)])
    return digest(change.after or {})
