"""A plan as a value: every resource's change, what was seen, and what differs. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from falplan.core.diff import Absent, Path
from falplan.core.errors import Position
from falplan.core.graph import dependency_graph, order
from falplan.core.resources import ResourceType, type_of
from falplan.core.spec.resolved import Origin
from falplan.core.values import Json, JsonObject


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
    ALTERED = "altered"  #: there, but somebody changed what falplan put there
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
    the provider's names of others that an interrupted operation left, and that go with this one. `trust` is the fingerprint of a host key
    that was just scanned and that nobody has confirmed: to carry the change out is to trust it.
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
    trust: str = ""


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
    def unseen(self) -> dict[str, str]:
        """What is unknown although it could be looked at from here. A secret that can't be read here stays as it is."""
        return {a: because for a, because in self.unknown.items() if type_of(a) is not ResourceType.SECRET}

    @property
    def blocked(self) -> dict[str, str]:
        """What is unknown and stands in the way of applying. A host to which nothing is to be done does not: others do its work."""
        return {a: because for a, because in self.unseen.items() if self.refresh_only or not self._may_stay(a)}

    def _may_stay(self, address: str) -> bool:
        change = self.changes.get(address)
        return type_of(address) is ResourceType.HOST and change is not None and not change.action.acts

    def count(self, *actions: Action) -> int:
        """How many resources have one of these actions."""
        return sum(c.action in actions for c in self.changes.values())
