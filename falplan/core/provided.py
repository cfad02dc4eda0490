"""Resources that providers own, as values: what a region declares, what was found, and which is which. Asks nobody."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from falplan.core.errors import Position
from falplan.core.plan import Presence, Seen
from falplan.core.resources import GATEWAY, PROTECT, Resource, ResourceType
from falplan.core.spec.resolved import Origin
from falplan.core.state import Recorded, State
from falplan.core.values import Json, JsonObject


class ResourceKind(StrEnum):
    """The kinds of resource that providers may own; the first word of an address."""

    HOST = "host"
    NETWORK = "network"
    SECURITY_GROUP = "security_group"
    LAUNCH_TEMPLATE = "launch_template"


class Standing(StrEnum):
    """How something that was found stands."""

    UP = "up"
    STOPPED = "stopped"  #: there, and not usable until it is brought up again
    ALTERED = "altered"  #: somebody changed what falplan put there; an update sets that back
    UNKNOWN = "unknown"  #: it could not be asked; nothing is known, least of all that it is gone


@dataclass(frozen=True, slots=True)
class Concrete:
    """A resource as another tool knows it: its `type` is Terraform's, as `aws_security_group`, and `values` are those of that type."""

    type: str
    values: JsonObject


@dataclass(frozen=True, slots=True)
class Declared:
    """A resource that a region asks for, from the spec alone.

    `name` is unique among those of its kind in the region; empty for the only one. `inputs` are what is wanted, without secrets.
    `home` are the region's options that suffice to reach it after the region has left the spec. `depends_on` are others of this
    region as `(kind, name)`. `immutable` are dotted paths of inputs, or of parts above them, whose change means another resource;
    `create_first`: that one is made before the old one goes. `known_after` names outputs that only its creation brings. `managed`
    is False for something that is only looked at: it exists without falplan, and is neither changed nor removed. `protect`:
    nothing may destroy it. `because` maps a dotted path to what its change leads to, in words. `path` leads to it in the region's
    options, for messages with a position. `defaults` are the dotted paths of inputs that the spec leaves to the provider: a plan that
    makes the resource hides them. `concrete` is what it comes to for tools that judge plans of Terraform.
    """

    kind: ResourceKind
    name: str
    inputs: JsonObject
    home: JsonObject = field(default_factory=dict)
    depends_on: tuple[tuple[ResourceKind, str], ...] = ()
    immutable: frozenset[str] = frozenset()
    create_first: bool = False
    known_after: tuple[str, ...] = ()
    managed: bool = True
    protect: bool = False
    because: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    defaults: frozenset[str] = frozenset()
    concrete: Concrete | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A resource that is there. `identity` is the provider's own name of it, unique in the region and never used again.

    `inputs` are those that can be read back, in the form of `Declared.inputs`. `version` differs whenever anything about it does.
    `address` is the one that it is marked with, empty for one that nobody marked; `operation` is the id it was last made or
    changed under. `because` explains a standing other than UP. `joins` are the region's
    options by which a control plane finds it among its machines, with nothing of this computer in them; empty if it takes no runners.
    """

    address: str
    identity: str
    inputs: JsonObject
    outputs: JsonObject = field(default_factory=dict)
    version: str = ""
    operation: str = ""
    standing: Standing = Standing.UP
    because: str = ""
    joins: JsonObject = field(default_factory=dict)


HOST_KEY = "host_key"
"""The input of a host that holds the fingerprints of its keys, one of which it has to show."""

HOME = "home"
"""The input that holds what leads back to a resource whose region has left the spec."""

IDENTITY = "id"
"""The output that holds the provider's own name of a resource."""

OWN = ("provider", "home", "managed", "protect")
"""Inputs that falplan keeps beside those of the provider."""


def provided_address(kind: ResourceKind, region: str, name: str) -> str:
    """`host.dc1.gpu-01`, or `network.us-east` for the only one of its kind in a region."""
    return f"{kind.value}.{region}.{name}" if name else f"{kind.value}.{region}"


def resource_of(region: str, provider: str, wanted: Declared, position: Position | None = None) -> Resource:
    """What a region declares, as a resource of the plan. The control plane is there first: it is what uses it."""
    inputs: JsonObject = {**wanted.inputs, "provider": provider}
    if wanted.home:
        inputs["home"] = wanted.home
    if not wanted.managed:
        inputs["managed"] = False
    if wanted.protect:
        inputs |= PROTECT
    others = [provided_address(kind, region, name) for kind, name in wanted.depends_on]
    return Resource(
        provided_address(wanted.kind, region, wanted.name),
        ResourceType(wanted.kind.value),
        inputs,
        (GATEWAY, *others),
        {**dict.fromkeys(inputs, Origin.SPEC), **dict.fromkeys(wanted.defaults, Origin.DEFAULT)},
        position,
        protected=wanted.protect,
        immutable=wanted.immutable | {"provider"},
        create_first=wanted.create_first,
        known_after=wanted.known_after,
        managed=wanted.managed,
        because=wanted.because,
    )


def outputs_of(found: Found) -> JsonObject:
    """What state remembers of something that was found."""
    return {**found.outputs, IDENTITY: found.identity}


def remembered(recorded: Recorded) -> Found:
    """What state remembers, as a provider knows it."""
    inputs = {name: value for name, value in recorded.inputs.items() if name not in OWN}
    outputs = {name: value for name, value in recorded.outputs.items() if name != IDENTITY}
    return Found(recorded.address, identity_of(recorded), inputs, outputs)


def identity_of(recorded: Recorded) -> str:
    """The provider's own name of a recorded resource; empty if it never came to be."""
    return str(recorded.outputs.get(IDENTITY, ""))


@dataclass(frozen=True, slots=True)
class Sighted:
    """What a look at one region means. `seen` is by address, also of wanted ones that state does not know.

    `strays` carry the project's mark under an address that is neither recorded nor wanted: one each, the others are leftovers.
    `versions` are by address. `operations` are the ids that something was last made or changed under. `imported` are by the
    address that they are to have.
    """

    seen: Mapping[str, Seen] = field(default_factory=dict)
    strays: Mapping[str, Found] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    operations: frozenset[str] = frozenset()
    imported: Mapping[str, Found] = field(default_factory=dict)


NEVER_MADE = "an earlier attempt made nothing"
GONE = "it is not there any more"


def sight(
    recorded: Mapping[str, Recorded],
    wanted: Collection[str],
    found: Iterable[Found],
    state: State,
    imports: Mapping[str, str] = {},
) -> Sighted:
    """Tell which of what was found is which. `recorded` and `wanted` are those of the place that was looked at.

    State's own identity counts first, then that of an import (address -> identity), then the mark. What was forgotten on purpose is
    nobody's.
    """
    importing = {identity: address for address, identity in imports.items()}
    imported: dict[str, Found] = {}
    by_identity = {identity_of(r): a for a, r in recorded.items() if identity_of(r)}
    mine: dict[str, Found] = {}
    marked: dict[str, list[Found]] = {}
    for one in sorted(found, key=lambda f: (f.address, f.identity)):
        if one.identity in by_identity:
            mine[by_identity[one.identity]] = one
        elif one.identity in importing:
            imported[importing[one.identity]] = one
        elif one.address and (one.address in wanted or one.address not in state.forgotten):
            marked.setdefault(one.address, []).append(one)
    seen = {a: _seen(a, r, mine.get(a), marked.get(a, [])) for a, r in recorded.items()}
    strays: dict[str, Found] = {}
    for address, others in marked.items():
        if address not in recorded:
            first, *rest = others
            seen[address] = Seen(_standing(first), first.inputs, first.because, leftovers=_identities(rest))
            if address not in wanted:
                strays[address] = first
    known = {a: mine.get(a) or next(iter(marked.get(a, [])), None) for a in seen}
    versions = {a: f"{f.identity} {f.version}" for a, f in known.items() if f is not None}
    operations = frozenset(f.operation for f in (*mine.values(), *(f for fs in marked.values() for f in fs)))
    return Sighted(seen, strays, versions, operations - {""}, imported)


def _seen(address: str, recorded: Recorded, mine: Found | None, others: list[Found]) -> Seen:
    if mine is not None and recorded.inputs.get("managed") is False:
        # Whatever else it has is its owner's affair.
        asked = {n: v for n, v in mine.inputs.items() if n in recorded.inputs}
        return Seen(_standing(mine), asked, mine.because)
    if mine is not None:
        unfinished = f"it carries the mark of {mine.address}: it is marked anew" if mine.address != address else ""
        if others:
            unfinished = f"{_number(others)} its mark"
        return Seen(_standing(mine), mine.inputs, mine.because, unfinished=unfinished, leftovers=_identities(others))
    if others:  # made, and not recorded before whoever made it died
        first, *rest = others
        if identity_of(recorded):
            because = f"{GONE}; {first.identity} carries its mark and is taken in its place"
            return Seen(Presence.ABSENT, because=because, leftovers=_identities(others))
        return Seen(_standing(first), first.inputs, first.because, leftovers=_identities(rest))
    return Seen(Presence.ABSENT, because=GONE if identity_of(recorded) else NEVER_MADE)


def _number(others: list[Found]) -> str:
    return f"{others[0].identity} also carries" if len(others) == 1 else f"{len(others)} others also carry"


def _identities(found: Iterable[Found]) -> tuple[str, ...]:
    return tuple(f.identity for f in found)


def _standing(found: Found) -> Presence:
    return _PRESENCE[found.standing]


_PRESENCE = {
    Standing.UP: Presence.PRESENT,
    Standing.STOPPED: Presence.STOPPED,
    Standing.ALTERED: Presence.ALTERED,
    Standing.UNKNOWN: Presence.UNKNOWN,
}


def imported_as(address: str, found: Found, wanted: JsonObject, own: JsonObject, state: State) -> tuple[Recorded, Seen]:
    """How an import stands in state, and how it is seen: it carries no mark yet.

    What can't be read back is taken to be as it is `wanted`: an unknown value is no reason to destroy what was just imported.
    """
    kind = address.partition(".")[0]
    inputs = {**wanted, **found.inputs, **own}
    recorded = Recorded(address, kind, inputs, outputs_of(found), (GATEWAY,), state.generation(address))
    return recorded, Seen(_standing(found), found.inputs, found.because, unfinished=_unmarked(address, found))


def _unmarked(address: str, found: Found) -> str:
    """What an import has to put right of its mark; empty where it was forgotten and is this address's still."""
    if found.address == address:
        return ""
    if found.address:
        return f"it carries the mark of {found.address}: it is marked anew"
    return "it carries no mark of this project: it is marked"


def with_strays(state: State, strays: Mapping[str, tuple[Found, JsonObject]]) -> State:
    """State with what carries the project's mark and is in no record: it is planned like everything else that left the spec.

    Each comes with the inputs that falplan keeps beside the provider's, which say how to reach it.
    """
    found = {
        address: Recorded(
            address,
            address.partition(".")[0],
            {**stray.inputs, **own},
            outputs_of(stray),
            (GATEWAY,),
            state.generation(address),
        )
        for address, (stray, own) in strays.items()
        if address not in state.resources and address not in state.forgotten
    }
    return replace(state, resources={**state.resources, **found}) if found else state


def unmanaged_gone(state: State, wanted: Collection[str]) -> dict[str, Recorded]:
    """What was only looked at and has left the spec: it is forgotten, never destroyed."""
    return {a: r for a, r in state.resources.items() if r.inputs.get("managed") is False and a not in wanted}


def differing(wanted: Mapping[str, Json], found: Found) -> list[str]:
    """Names of wanted inputs that were read back otherwise, sorted."""
    return sorted(n for n, value in wanted.items() if n in found.inputs and found.inputs[n] != value)
