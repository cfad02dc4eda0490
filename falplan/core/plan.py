"""What an apply would do, and why: the comparison of wanted, recorded and seen. Does nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from falplan.core.diff import ABSENT, Absent, Difference, Path, count_leaves, differences
from falplan.core.errors import Position
from falplan.core.graph import dependency_graph, order
from falplan.core.reasons import because_of, forces_replacement, makes_revision
from falplan.core.resources import GATEWAY, Resource, ResourceType, type_of
from falplan.core.spec.resolved import Origin
from falplan.core.state import Recorded, State, Status, operation_id
from falplan.core.values import Json, JsonObject, digest


class Action(StrEnum):
    """What is done to a resource. The values are Terraform's, joined as in its `actions` list."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "delete,create"
    DELETE = "delete"
    NOOP = "no-op"

    @property
    def terraform(self) -> list[str]:
        """The list that `terraform show -json` prints."""
        return self.value.split(",")


class Presence(StrEnum):
    """Whether something recorded is really there."""

    PRESENT = "present"
    ABSENT = "absent"
    STOPPED = "stopped"  #: there, but not running
    REPLACED = "replaced"  #: something else stands in its place, and knows nothing of what was applied
    ROLLED_BACK = "rolled back"  #: there, as it was some time ago
    UNKNOWN = "unknown"  #: could not be looked at: never treated as gone


@dataclass(frozen=True, slots=True)
class Seen:
    """What the world shows of one resource. `inputs` are those that could be read back, in the form of the spec's.

    `because` explains every presence but PRESENT.
    """

    presence: Presence
    inputs: JsonObject = field(default_factory=dict)
    because: str = ""


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """One value that differs, with what follows from it and where the new value comes from (None: removed)."""

    path: Path
    before: Json | Absent
    after: Json | Absent
    because: str = ""
    origin: Origin | None = None
    forces_replacement: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one resource.

    `dependencies` are direct ones: the wanted ones, or the recorded ones of a delete. `operation` is the id under which the
    outside world knows this change. `unchanged` counts the leaves that stay. `unknown` names outputs known after apply.
    """

    address: str
    type: ResourceType
    action: Action
    because: str
    attributes: tuple[AttributeChange, ...] = ()
    drift: tuple[AttributeChange, ...] = ()
    before: JsonObject | None = None
    after: JsonObject | None = None
    outputs: JsonObject = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    unchanged: int = 0
    dependencies: tuple[str, ...] = ()
    generation: int = 1
    operation: str = ""
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Every resource's change, by address, and the operations that each one waits for.

    `unknown` maps addresses that could not be looked at to the reason.
    """

    project: str
    lineage: str
    serial: int
    changes: Mapping[str, Change]
    after: Mapping[str, tuple[str, ...]]
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def operations(self) -> list[Change]:
        """The changes that do something, in an order in which they may run."""
        graph = dependency_graph(self.after)
        return [self.changes[name] for name in order(graph)]

    @property
    def is_empty(self) -> bool:
        """Whether apply would do nothing at all."""
        return not self.after

    def count(self, *actions: Action) -> int:
        """How many resources have one of these actions."""
        return sum(c.action in actions for c in self.changes.values())


GONE_FROM_SPEC = "it is no longer in the spec"


def make_plan(
    wanted: Mapping[str, Resource], state: State, seen: Mapping[str, Seen], *, because_deleted: str = GONE_FROM_SPEC
) -> Plan:
    """Compare wanted with recorded and seen. `wanted` is empty for a destroy; `because_deleted` is the reason of deletes.

    Addresses missing in `seen` were not looked at because nothing is recorded of them.
    """
    changes = {}
    for address in sorted(wanted.keys() | state.resources.keys()):
        recorded = state.resources.get(address)
        changes[address] = _change(wanted.get(address), recorded, seen.get(address), state, address)
        if changes[address].action is Action.DELETE:
            changes[address] = replace(changes[address], because=because_deleted)
    changes = _with_operations(_rebuild_dependents(changes), state, wanted)
    unknown = {a: s.because for a, s in sorted(seen.items()) if s.presence is Presence.UNKNOWN}
    return Plan(state.project, state.lineage, state.serial, changes, operation_order(changes, state), unknown)


def only_deletes(plan: Plan, state: State, *, start: str = GATEWAY) -> Plan:
    """The same plan without anything but its deletes, and the start of what they need to be running."""
    changes = {}
    for address, change in plan.changes.items():
        keep = change.action is Action.DELETE or (
            address == start and change.action is Action.UPDATE and not change.attributes
        )
        changes[address] = change if keep else replace(change, action=Action.NOOP, attributes=(), operation="")
    return replace(plan, changes=changes, after=operation_order(changes, state))


def _change(
    wanted: Resource | None, recorded: Recorded | None, seen: Seen | None, state: State, address: str
) -> Change:
    if wanted is None:
        if recorded is None:
            raise ValueError(f"{address} is neither wanted nor recorded")
        return _delete(recorded)
    if recorded is None:
        return _create(wanted, "it is new in the spec", state)
    if seen is not None and seen.presence is Presence.ABSENT:
        return _create(wanted, f"it was applied before, but {seen.because}", state)
    return _compare(wanted, recorded, seen or Seen(Presence.PRESENT))


def _create(wanted: Resource, because: str, state: State) -> Change:
    return Change(
        wanted.address,
        wanted.type,
        Action.CREATE,
        because,
        attributes=tuple(replace(a, because="") for a in _attributes(wanted, differences(ABSENT, wanted.inputs))),
        after=wanted.inputs,
        unknown=UNKNOWN_OUTPUTS[wanted.type],
        dependencies=wanted.dependencies,
        generation=state.generation(wanted.address) + 1,
        position=wanted.position,
    )


def _delete(recorded: Recorded) -> Change:
    return Change(
        recorded.address,
        type_of(recorded.address),
        Action.DELETE,
        GONE_FROM_SPEC,
        before=recorded.inputs,
        outputs=recorded.outputs,
        dependencies=recorded.dependencies,
        generation=recorded.generation + 1,
    )


def _compare(wanted: Resource, recorded: Recorded, seen: Seen) -> Change:
    live = {**recorded.inputs, **seen.inputs}
    attributes = tuple(_attributes(wanted, differences(live, wanted.inputs)))
    drift = tuple(AttributeChange(d.path, d.before, d.after) for d in differences(recorded.inputs, live))
    action, because = _decide(recorded, seen, attributes)
    changes = action is not Action.NOOP
    return Change(
        wanted.address,
        wanted.type,
        action,
        because,
        attributes,
        drift,
        before=live,
        after=wanted.inputs,
        outputs=recorded.outputs,
        unknown=_unknown_outputs(wanted.type, attributes) if changes else (),
        unchanged=count_leaves(wanted.inputs) - sum(count_leaves(a.after) for a in attributes),
        dependencies=wanted.dependencies,
        generation=recorded.generation + 1,
        position=wanted.position,
    )


def _decide(recorded: Recorded, seen: Seen, attributes: tuple[AttributeChange, ...]) -> tuple[Action, str]:
    if any(a.forces_replacement for a in attributes):
        return Action.REPLACE, "it cannot be changed in place"
    if recorded.intent:
        return Action.UPDATE, f"an earlier {recorded.intent.action} was interrupted: it is finished now"
    if recorded.status is Status.TAINTED:
        return Action.UPDATE, "the last operation on it failed: it is tried again"
    if seen.presence in (Presence.STOPPED, Presence.REPLACED, Presence.ROLLED_BACK):
        return Action.UPDATE, seen.because
    if attributes:
        return Action.UPDATE, "its settings differ"
    return Action.NOOP, ""


UNKNOWN_OUTPUTS: dict[ResourceType, tuple[str, ...]] = {
    ResourceType.GATEWAY: ("url", "id"),
    ResourceType.BUILD: ("lock",),
    ResourceType.APP: ("revision",),
}


def _unknown_outputs(kind: ResourceType, attributes: tuple[AttributeChange, ...]) -> tuple[str, ...]:
    """Outputs that an update changes: none of the gateway's; an app's revision unless only runtime settings differ."""
    if kind is ResourceType.GATEWAY:
        return ()
    if (
        kind is ResourceType.APP
        and attributes
        and not any(a.forces_replacement or makes_revision(a.path) for a in attributes)
    ):
        return ()
    return UNKNOWN_OUTPUTS[kind]


def _attributes(wanted: Resource, found: Iterable[Difference]) -> Iterable[AttributeChange]:
    for difference in found:
        for d in _leaves_of_new_object(difference):
            yield AttributeChange(
                d.path,
                d.before,
                d.after,
                because=because_of(wanted.type, d),
                origin=wanted.origins.get(".".join(d.path[:2]), wanted.origins.get(".".join(d.path[:1]))),
                forces_replacement=d.before is not ABSENT and forces_replacement(wanted.type, d.path),
            )


def _leaves_of_new_object(difference: Difference) -> Iterable[Difference]:
    """A created object is shown leaf by leaf, like everything else."""
    if difference.before is ABSENT and isinstance(difference.after, dict) and difference.after:
        for key in sorted(difference.after):
            yield from _leaves_of_new_object(Difference((*difference.path, key), ABSENT, difference.after[key]))
    else:
        yield difference


def _rebuild_dependents(changes: dict[str, Change]) -> dict[str, Change]:
    """An app whose build changes gets a new revision, although its own inputs are the same."""
    result = dict(changes)
    for address, change in changes.items():
        rebuilt = [
            d
            for d in change.dependencies
            if d in changes and changes[d].type is ResourceType.BUILD and changes[d].action is not Action.NOOP
        ]
        if change.action is Action.NOOP and change.type is ResourceType.APP and rebuilt:
            result[address] = replace(
                change, action=Action.UPDATE, because=f"{rebuilt[0]} changes", unknown=UNKNOWN_OUTPUTS[change.type]
            )
    return result


def _with_operations(changes: Mapping[str, Change], state: State, wanted: Mapping[str, Resource]) -> dict[str, Change]:
    result = {}
    for address, change in changes.items():
        generation = change.generation
        recorded = state.resources.get(address)
        if recorded and recorded.intent:
            same = recorded.intent.inputs_digest == inputs_digest(change)
            generation = recorded.intent.generation + (0 if same else 1)
        operation = operation_id(state.lineage, address, generation) if change.action is not Action.NOOP else ""
        result[address] = replace(change, generation=generation, operation=operation)
    return result


def inputs_digest(change: Change) -> str:
    """What an intent remembers of the inputs it was begun with, to tell whether a later plan asks for the same."""
    if change.action is Action.DELETE:
        return ""
    return digest(change.after or {})


def operation_order(changes: Mapping[str, Change], state: State) -> dict[str, tuple[str, ...]]:
    """Each operation, and those that must be done before it.

    Creates and updates come after what they depend on; a delete comes after everything that depended on it, whether that
    is deleted, too, or only stops depending on it.
    """
    acting = {a for a, c in changes.items() if c.action is not Action.NOOP}
    after: dict[str, set[str]] = {a: set() for a in acting}
    for address in acting:
        if changes[address].action is not Action.DELETE:
            after[address] |= {
                d for d in changes[address].dependencies if d in acting and changes[d].action is not Action.DELETE
            }
        elif GATEWAY in acting and changes[GATEWAY].action is not Action.DELETE:
            after[address].add(GATEWAY)  # whatever is removed is removed by a running control plane
        recorded = state.resources.get(address)
        for dependency in recorded.dependencies if recorded else ():
            if dependency in acting and changes[dependency].action is Action.DELETE:
                after[dependency].add(address)
    # Removing a build tidies up what no app uses: it waits until every app uses what it is going to use.
    deployed = {a for a in acting if changes[a].type is ResourceType.APP and changes[a].action is not Action.DELETE}
    for address in acting:
        if changes[address].type is ResourceType.BUILD and changes[address].action is Action.DELETE:
            after[address] |= deployed
    return {a: tuple(sorted(after[a])) for a in sorted(after)}
