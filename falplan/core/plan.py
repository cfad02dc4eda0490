"""What an apply would do, and why: the comparison of wanted, recorded and seen. Does nothing itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from falplan.core.diff import ABSENT, Absent, Difference, Path, count_leaves, differences
from falplan.core.errors import Position
from falplan.core.graph import dependency_graph, order
from falplan.core.reasons import because_of, forces_replacement, makes_revision
from falplan.core.resources import GATEWAY, PROVIDED, Resource, ResourceType, type_of
from falplan.core.rollout import Strategy
from falplan.core.spec.resolved import Origin
from falplan.core.state import Recorded, State, Status, operation_id
from falplan.core.values import Json, JsonObject, digest


class Action(StrEnum):
    """What is done to a resource. The values are Terraform's, joined as in its `actions` list."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "delete,create"
    REPLACE_CREATE_FIRST = "create,delete"
    DELETE = "delete"
    FORGET = "forget"  #: leaves state, stays in the world
    READ = "read"  #: looked at during apply, never changed
    NOOP = "no-op"

    @property
    def terraform(self) -> list[str]:
        """The list that `terraform show -json` prints."""
        return self.value.split(",")

    @property
    def acts(self) -> bool:
        """Whether something outside is asked for anything: a forgotten resource only leaves state."""
        return self not in (Action.NOOP, Action.FORGET)

    @property
    def replaces(self) -> bool:
        """Whether one is destroyed and another made, in either order."""
        return self in (Action.REPLACE, Action.REPLACE_CREATE_FIRST)

    @property
    def destroys(self) -> bool:
        """Whether something that is there is gone afterwards."""
        return self is Action.DELETE or self.replaces


class Reason(StrEnum):
    """Why an action was chosen, in Terraform's words (`action_reason`). Consumers must tolerate others."""

    CANNOT_UPDATE = "replace_because_cannot_update"
    TAINTED = "replace_because_tainted"
    REQUESTED = "replace_by_request"
    NOT_IN_SPEC = "delete_because_no_resource_config"
    DEPENDENCY_PENDING = "read_because_dependency_pending"


class Presence(StrEnum):
    """Whether something recorded is really there."""

    PRESENT = "present"
    ABSENT = "absent"
    STOPPED = "stopped"  #: there, but not running
    REPLACED = "replaced"  #: something else stands in its place, and knows nothing of what was applied
    ROLLED_BACK = "rolled back"  #: there, as it was some time ago
    UNKNOWN = "unknown"  #: could not be looked at: never treated as gone


@dataclass(frozen=True, slots=True)
class Override:
    """A setting that somebody made on the control plane, beside what was applied. `since` is RFC 3339, `by` the name of a key."""

    value: Json
    applied: Json
    since: str
    by: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What the world shows of one resource. `inputs` are those that could be read back, in the form of the spec's.

    `because` explains every presence but PRESENT. `overrides` are by the dotted path of an input, or `revision`. `unfinished` says
    what an update has to put right though no setting differs. `leftovers` are the provider's names of others that carry its mark.
    """

    presence: Presence
    inputs: JsonObject = field(default_factory=dict)
    because: str = ""
    overrides: Mapping[str, Override] = field(default_factory=dict)
    unfinished: str = ""
    leftovers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """One value that differs, with what follows from it and where the new value comes from (None: removed).

    `override`, of drift: somebody set it so on the control plane, and it knows who.
    """

    path: Path
    before: Json | Absent
    after: Json | Absent
    because: str = ""
    origin: Origin | None = None
    forces_replacement: bool = False
    override: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one resource.

    `dependencies` are direct ones: the wanted ones, or the recorded ones of a delete. `operation` is the id under which the
    outside world knows this change. `unchanged` counts the leaves that stay. `unknown` names outputs known after apply.
    `secrets` tells which value an app gets of each secret: address -> fingerprint, or version of a stored one. `rebuilt`: a
    change of something that it depends on makes a new revision of it. `previous_address` is the one that state knew it by,
    `importing` the id of something that exists already; both empty as a rule. `protected`: it may not be destroyed. `leftovers` are
    the provider's names of others that an interrupted operation left, and that go with this one.
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
    secrets: Mapping[str, str] = field(default_factory=dict)
    rebuilt: bool = False
    reason: Reason | None = None
    previous_address: str = ""
    importing: str = ""
    protected: bool = False
    leftovers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drift:
    """How one recorded resource was found to differ from what was applied, whatever the spec says by now.

    `presence` is what was seen; `attributes` go from recorded to seen. `since` (RFC 3339) and `by` tell when and by whom it was
    changed, where that is known. `ignored` is the spec's rule that keeps it from counting, empty if none does.
    """

    address: str
    type: ResourceType
    presence: Presence
    because: str
    attributes: tuple[AttributeChange, ...] = ()
    since: str = ""
    by: str = ""
    ignored: str = ""


@dataclass(frozen=True, slots=True)
class OutputChange:
    """What becomes of one output of the spec. `unknown`: its value is known after apply; then `after` is None."""

    name: str
    action: Action
    before: Json = None
    after: Json = None
    unknown: bool = False
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Every resource's change, by address, and the operations that each one waits for.

    `unknown` maps addresses that could not be looked at to the reason; a secret among them is left as it was applied.
    `drift` is by address. `left_out` maps addresses that would change, but are not targeted or are excluded, to the reason: such
    a plan is not complete. `refresh_only`: apply records what was seen, and changes nothing else. `hints` are for people.
    """

    project: str
    lineage: str
    serial: int
    changes: Mapping[str, Change]
    after: Mapping[str, tuple[str, ...]]
    unknown: Mapping[str, str] = field(default_factory=dict)
    drift: Mapping[str, Drift] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    refresh_only: bool = False
    hints: tuple[str, ...] = ()
    outputs: Mapping[str, OutputChange] = field(default_factory=dict)

    @property
    def operations(self) -> list[Change]:
        """The changes that do something, in an order in which they may run."""
        graph = dependency_graph(self.after)
        return [self.changes[name] for name in order(graph)]

    @property
    def is_empty(self) -> bool:
        """Whether apply would do nothing at all, not even to state."""
        drifted = self.refresh_only and bool(self.drift)
        return not self.after and not self.state_changes and not self.changed_outputs and not drifted

    @property
    def state_changes(self) -> list[Change]:
        """Changes that state alone sees: what is moved, imported or forgotten."""
        found = (c for c in self.changes.values() if c.previous_address or c.importing or c.action is Action.FORGET)
        return sorted(found, key=lambda c: c.address)

    @property
    def changed_outputs(self) -> list[OutputChange]:
        """Outputs that apply makes, changes or drops, by name."""
        return [self.outputs[name] for name in sorted(self.outputs) if self.outputs[name].action is not Action.NOOP]

    @property
    def blocked(self) -> dict[str, str]:
        """What is unknown and stands in the way of applying. A secret that can't be read here does not: it stays as it is."""
        return {a: because for a, because in self.unknown.items() if type_of(a) is not ResourceType.SECRET}

    def count(self, *actions: Action) -> int:
        """How many resources have one of these actions."""
        return sum(c.action in actions for c in self.changes.values())


GONE_FROM_SPEC = "it is no longer in the spec"
SETTINGS_DIFFER = "its settings differ"
REMADE = "`falplan taint` asked for it to be made anew"


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
        changes[address] = _change(wanted.get(address), recorded, seen.get(address), state, address)
        if changes[address].action is Action.DELETE:
            changes[address] = replace(changes[address], because=because_deleted)
        elif address in renewed:
            changes[address] = _renewed(changes[address], wanted.get(address))
    changes = _rebuild_dependents(_rekey(changes, rekeyed), state, rekeyed)
    changes = _with_operations(_with_secrets(_pending(changes)), state)
    unknown = {a: s.because for a, s in sorted(seen.items()) if s.presence is Presence.UNKNOWN}
    return Plan(state.project, state.lineage, state.serial, changes, operation_order(changes, state), unknown)


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


def _change(
    wanted: Resource | None, recorded: Recorded | None, seen: Seen | None, state: State, address: str
) -> Change:
    if wanted is None:
        if recorded is None:
            raise ValueError(f"{address} is neither wanted nor recorded")
        return _delete(recorded, seen)
    if not wanted.managed:
        return _reading(wanted, recorded, seen, state)
    if recorded is None:
        return _create(wanted, NEW if seen is None or seen.presence is Presence.UNKNOWN else TAKEN, state, seen)
    if seen is not None and seen.presence is Presence.ABSENT:
        was = "it was applied before" if recorded.generation else "it was begun before"
        if wanted.type in PROVIDED and not recorded.outputs.get("id"):
            was = "it was asked for before"
        return _create(wanted, f"{was}, but {seen.because}", state, seen)
    return _compare(wanted, recorded, seen or Seen(Presence.PRESENT))


NEW = "it is new in the spec"
TAKEN = "it exists already and carries this project's mark: it is taken"


def _reading(wanted: Resource, recorded: Recorded | None, seen: Seen | None, state: State) -> Change:
    """Something that exists without falplan: looked at when it is new or asked for otherwise, and left as it is."""
    if recorded is None:
        return replace(_create(wanted, "it is new in the spec, and only looked at", state, None), action=Action.READ)
    change = _compare(wanted, recorded, seen or Seen(Presence.PRESENT))
    if change.action is Action.NOOP:
        return change
    because = f"it is looked at again: {change.because}" if not change.reason else "another one is looked at"
    return replace(change, action=Action.READ, because=because, reason=None, unknown=wanted.known_after)


def _create(wanted: Resource, because: str, state: State, seen: Seen | None) -> Change:
    return Change(
        wanted.address,
        wanted.type,
        Action.CREATE,
        because,
        attributes=tuple(
            replace(a, because="", forces_replacement=False)
            for a in _attributes(wanted, differences(ABSENT, wanted.inputs))
        ),
        after=wanted.inputs,
        unknown=unknown_outputs(wanted),
        dependencies=wanted.dependencies,
        generation=state.generation(wanted.address) + 1,
        position=wanted.position,
        protected=wanted.protected,
        leftovers=seen.leftovers if seen else (),
    )


def _delete(recorded: Recorded, seen: Seen | None) -> Change:
    return Change(
        recorded.address,
        type_of(recorded.address),
        Action.DELETE,
        GONE_FROM_SPEC,
        before=recorded.inputs,
        outputs=recorded.outputs,
        dependencies=recorded.dependencies,
        generation=recorded.generation + 1,
        reason=Reason.NOT_IN_SPEC,
        protected=recorded.protected,
        leftovers=seen.leftovers if seen else (),
    )


def _compare(wanted: Resource, recorded: Recorded, seen: Seen) -> Change:
    live = _live(recorded.inputs, seen.inputs)
    attributes = tuple(_attributes(wanted, differences(live, wanted.inputs)))
    drift = tuple(AttributeChange(d.path, d.before, d.after) for d in differences(recorded.inputs, live))
    action, because, reason = _decide(wanted, recorded, seen, attributes, live_differs=bool(drift))
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
        unknown=_unknown_outputs(wanted, attributes) if changes and because not in RECORDED else (),
        unchanged=count_leaves(wanted.inputs) - sum(count_leaves(a.after) for a in attributes),
        dependencies=wanted.dependencies,
        generation=recorded.generation + 1,
        position=wanted.position,
        reason=reason,
        protected=wanted.protected or recorded.protected,
        leftovers=seen.leftovers,
    )


def _live(recorded: JsonObject, seen: JsonObject) -> JsonObject:
    """What is there: what was seen, and what was recorded of all else."""
    return recorded if seen is recorded or not seen else {**recorded, **seen}


def _decide(
    wanted: Resource, recorded: Recorded, seen: Seen, attributes: tuple[AttributeChange, ...], *, live_differs: bool
) -> tuple[Action, str, Reason | None]:
    kind = wanted.type
    if kind is ResourceType.SECRET and seen.presence is Presence.UNKNOWN:
        return Action.NOOP, "", None  # its value is not here: whatever is to be done waits for somebody who has it
    if any(a.forces_replacement for a in attributes):
        return replacing(wanted), "it cannot be changed in place", Reason.CANNOT_UPDATE
    if recorded.status is Status.REMAKE:  # also an interrupted one: what is asked for again is the same
        if kind in PROVIDED:
            return replacing(wanted), REMADE, Reason.TAINTED
        return Action.REPLACE if kind is ResourceType.APP else Action.UPDATE, REMADE, Reason.TAINTED
    if recorded.intent:
        return Action.UPDATE, f"an earlier {recorded.intent.action} was interrupted: it is finished now", None
    if recorded.status is Status.TAINTED:
        return Action.UPDATE, "the last operation on it failed: it is tried again", None
    if seen.presence in CURES:
        return Action.UPDATE, f"{seen.because}: {CURES[seen.presence]}", None
    if seen.unfinished:
        return Action.UPDATE, seen.unfinished, None
    if attributes:
        because = SETTINGS_DIFFER if kind is not ResourceType.SECRET else _secret_differs(attributes)
        return Action.UPDATE, because, None
    if live_differs and kind is not ResourceType.GATEWAY and kind is not ResourceType.BUILD:
        return Action.UPDATE, ABSORBED if seen.overrides else AS_WANTED, None
    made = seen.overrides.get("revision")
    if made is not None:
        return Action.UPDATE, f"revision {made.value} was chosen on the control plane, {made.applied} was applied", None
    return Action.NOOP, "", None


ABSORBED = "what was set on the control plane is what the spec says by now: it counts as applied"
AS_WANTED = "it was changed to what the spec says by now: it counts as applied"
RECORDED = (ABSORBED, AS_WANTED)
"""Why an update changes nothing but what is recorded."""
CURES = {
    Presence.STOPPED: "it is started again",
    Presence.REPLACED: "it is told everything anew",
    Presence.ROLLED_BACK: "it is told everything anew",
}
"""What apply does about something that is there, but not as it should be."""


def replacing(wanted: Resource) -> Action:
    """Which comes first: an app that rolls serves under its new endpoint before the old one goes."""
    if wanted.type in PROVIDED:
        return Action.REPLACE_CREATE_FIRST if wanted.create_first else Action.REPLACE
    settings = wanted.inputs.get("settings")
    rolls = isinstance(settings, dict) and settings.get("strategy") == Strategy.ROLLING
    return Action.REPLACE_CREATE_FIRST if rolls else Action.REPLACE


def _secret_differs(attributes: tuple[AttributeChange, ...]) -> str:
    return "its value differs" if any(a.path[0] in VALUE_PATHS for a in attributes) else "its source differs"


VALUE_PATHS = frozenset({"fingerprint", "version"})
"""Inputs of a secret that stand for its value."""

UNKNOWN_OUTPUTS: dict[ResourceType, tuple[str, ...]] = {
    ResourceType.GATEWAY: ("url", "id"),
    ResourceType.BUILD: ("lock",),
    ResourceType.SECRET: ("version",),
    ResourceType.APP: ("revision",),
}
"""Outputs that only apply brings; those of a provider's resource are its own affair."""


def unknown_outputs(wanted: Resource) -> tuple[str, ...]:
    """Outputs that are known once it is made."""
    return tuple(n for n in UNKNOWN_OUTPUTS.get(wanted.type, wanted.known_after) if n not in wanted.inputs)


def _unknown_outputs(wanted: Resource, attributes: tuple[AttributeChange, ...]) -> tuple[str, ...]:
    """Outputs that an update changes: none of the gateway's; an app's revision unless only runtime settings differ."""
    kind = wanted.type
    if kind in PROVIDED:
        return unknown_outputs(wanted) if any(a.forces_replacement for a in attributes) else ()
    if kind is ResourceType.GATEWAY:
        return ()
    if kind is ResourceType.APP and attributes and not _revises(attributes):
        return ()
    return unknown_outputs(wanted)


def _attributes(wanted: Resource, found: Iterable[Difference]) -> Iterable[AttributeChange]:
    for difference in found:
        for d in _leaves_of_new_object(difference):
            forces = _forces(wanted, d)
            yield AttributeChange(
                d.path,
                d.before,
                d.after,
                because=_consequence(wanted, d, forces),
                origin=_origin(wanted, d),
                forces_replacement=forces,
            )


def _origin(wanted: Resource, difference: Difference) -> Origin | None:
    if difference.after is ABSENT:
        return None
    return wanted.origins.get(".".join(difference.path[:2]), wanted.origins.get(".".join(difference.path[:1])))


def _consequence(wanted: Resource, difference: Difference, forces: bool) -> str:
    told = wanted.because.get(".".join(difference.path), "")
    if told or wanted.type not in PROVIDED:
        return told or because_of(wanted.type, difference)
    return "" if forces or difference.path == ("protect",) else because_of(wanted.type, difference)


def _forces(wanted: Resource, difference: Difference) -> bool:
    """Whether a difference means another resource: of something immutable, of a part of it, or of what it is part of."""
    if wanted.type not in PROVIDED:
        return difference.before is not ABSENT and forces_replacement(wanted.type, difference.path)
    dotted = ".".join(difference.path)
    return any(f"{dotted}.".startswith(f"{i}.") or f"{i}.".startswith(f"{dotted}.") for i in wanted.immutable)


def _leaves_of_new_object(difference: Difference) -> Iterable[Difference]:
    """A created object is shown leaf by leaf, like everything else."""
    if difference.before is ABSENT and isinstance(difference.after, dict) and difference.after:
        for key in sorted(difference.after):
            yield from _leaves_of_new_object(Difference((*difference.path, key), ABSENT, difference.after[key]))
    else:
        yield difference


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
        elif change.action is Action.UPDATE and change.attributes and not _revises(change.attributes):
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


def _revises(attributes: tuple[AttributeChange, ...]) -> bool:
    """Whether one of an app's differences makes a new revision by itself."""
    return any(a.forces_replacement or makes_revision(a.path) for a in attributes)


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


class _Needed:
    """What an operation waits for: the nearest acting ones that it depends on, also by way of resources that stay as they are."""

    def __init__(self, changes: Mapping[str, Change], acting: Collection[str]) -> None:
        self._changes, self._acting = changes, acting
        self._through: dict[str, set[str]] = {}

    def by(self, address: str) -> set[str]:
        self._look_through(address)
        return self._nearest(address)

    def _of(self, address: str) -> list[str]:
        found = (d for d in self._changes[address].dependencies if d in self._changes)
        return [d for d in found if self._changes[d].action is not Action.DELETE]

    def _nearest(self, address: str) -> set[str]:
        found: set[str] = set()
        for dependency in self._of(address):
            found |= {dependency} if dependency in self._acting else self._through[dependency]
        return found

    def _look_through(self, address: str) -> None:
        """Fill `_through` for every resting resource that lies on the way; without recursion, for chains may be long."""
        stack, entered = [address], {address}
        while stack:
            resting = [d for d in self._of(stack[-1]) if d not in self._acting and d not in self._through]
            ahead = [d for d in resting if d not in entered]
            if ahead:
                entered.update(ahead)
                stack += ahead
                continue
            for cyclic in resting:  # never in a graph that was checked
                self._through[cyclic] = set()
            done = stack.pop()
            if done not in self._acting and done not in self._through:
                self._through[done] = self._nearest(done)


def operation_order(changes: Mapping[str, Change], state: State) -> dict[str, tuple[str, ...]]:
    """Each operation, and those that must be done before it.

    Creates and updates come after what they depend on; a delete comes after everything that depended on it, whether that
    is deleted, too, or only stops depending on it.
    """
    acting = {a for a, c in changes.items() if c.action.acts}
    after: dict[str, set[str]] = {a: set() for a in acting}
    needed = _Needed(changes, acting)
    for address in acting:
        if changes[address].action is not Action.DELETE:
            after[address] |= needed.by(address)
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
