"""What the providers of a spec's regions declare, and what is there of it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from falplan import registry
from falplan.core.errors import FalplanError, Refused, SpecInvalid
from falplan.core.plan import Plan, Presence, Seen
from falplan.core.provided import (
    HOST_KEY,
    OWN,
    Declared,
    Found,
    ResourceKind,
    Sighted,
    identity_of,
    provided_address,
    remembered,
    resource_of,
    sight,
)
from falplan.core.resources import PROVIDED, ByProviders, ResourceType, type_of
from falplan.core.spec.codes import Code
from falplan.core.spec.resolved import ResolvedRegion, ResolvedSpec
from falplan.core.state import Recorded, State
from falplan.core.values import Json, JsonObject, digest
from falplan.sdk.abreast import each
from falplan.sdk.resources import HostRegion, Resolving, Resources


@dataclass(frozen=True, slots=True)
class Place:
    """A region as a provider knows it: one of the spec's, or one that state remembers. `home` leads back to it."""

    region: str
    provider: str
    resources: Resources
    declared: Mapping[str, Declared] = field(default_factory=dict)  #: by address
    home: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Provided:
    """Everything that the regions of a spec declare, by region. Regions whose provider owns no resources are not there."""

    places: Mapping[str, Place] = field(default_factory=dict)
    regions: Mapping[str, ResolvedRegion] = field(default_factory=dict)

    def declared(self, address: str) -> Declared:
        """What the spec wants at an address.

        Raises:
            KeyError: nothing is.
        """
        return self.places[address.split(".")[1]].declared[address]

    @property
    def wanted(self) -> ByProviders:
        """The same as resources of a plan."""
        resources, options = {}, {}
        for name, place in self.places.items():
            at = self.regions[name].position
            resources[name] = tuple(resource_of(name, place.provider, d, at) for d in place.declared.values())
            options[name] = _declaring(self.regions[name], place.declared.values())
        return ByProviders(resources, options)


Trust = Mapping[str, Sequence[str]]
"""Host keys that count although the spec does not name them: address -> fingerprints."""


def provided_by(spec: ResolvedSpec, trust: Mapping[str, Sequence[str]] = {}) -> Provided:
    """Ask each region's provider what it declares. The spec's own host keys come before those of `trust`.

    Raises:
        SpecInvalid: options without a meaning, of all regions, where the region stands.
        Refused: a provider declares what can't be planned.
    """
    places, wrong = {}, {}
    for name, region in spec.regions.items():
        try:
            made: object = registry.provider_of(region.provider, name, region.options)
            if isinstance(made, HostRegion):
                made = made.with_trust(
                    {host: trust.get(provided_address(ResourceKind.HOST, name, host), ()) for host in made.untrusted()}
                )
            if isinstance(made, Resources):
                places[name] = _place(region, made)
        except Refused:
            raise
        except FalplanError as exc:
            wrong[name] = exc
    if wrong:
        raise _invalid(spec, wrong)
    return Provided(places, spec.regions)


def resolved(provided: Provided, known: Mapping[str, Found], *, ask: bool) -> Provided:
    """The same with what options stand for, such as an image; what is `known` by address stays. Without `ask` nobody is asked.

    Raises:
        FalplanError: there is no such thing, or nobody answers.
    """
    places = dict(provided.places)
    for name, place in provided.places.items():
        if isinstance(place.resources, Resolving):
            places[name] = _place(provided.regions[name], place.resources.resolved(known, ask=ask))
    return replace(provided, places=places)


def known_in(state: State) -> dict[str, Found]:
    """What state remembers of resources that providers own, by address."""
    return {a: remembered(r) for a, r in state.resources.items() if type_of(a) in PROVIDED}


def known_by(plan: Plan) -> dict[str, Found]:
    """What a plan is about to make of them: to carry it out is to make just that."""
    return {a: Found(a, "", c.after) for a, c in plan.changes.items() if c.type in PROVIDED and c.after}


def pinned(state: State) -> Trust:
    """The host keys that state remembers: they were confirmed when their hosts were made."""
    found = {a: r.inputs.get(HOST_KEY) for a, r in state.resources.items() if type_of(a) is ResourceType.HOST}
    return {a: tuple(map(str, keys)) for a, keys in found.items() if isinstance(keys, list)}


def trusted_in(plan: Plan) -> Trust:
    """The host keys that a plan is about: to carry it out is to trust them."""
    found = {
        a: (c.after or c.before or {}).get(HOST_KEY) for a, c in plan.changes.items() if c.type is ResourceType.HOST
    }
    return {a: tuple(map(str, keys)) for a, keys in found.items() if isinstance(keys, list)}


def scan_keys(provided: Provided) -> tuple[dict[str, str], dict[str, str]]:
    """Ask hosts of which nobody knows a key for the one they show. (address -> fingerprint, address -> why it shows none)."""
    shown: dict[str, str] = {}
    silent: dict[str, str] = {}
    regions = [p for p in provided.places.values() if isinstance(p.resources, HostRegion)]
    for place in regions:
        assert isinstance(place.resources, HostRegion)  # noqa: S101 - narrows the type
        for name, answer in place.resources.scan(place.resources.untrusted()).items():
            address = provided_address(ResourceKind.HOST, place.region, name)
            if isinstance(answer, FalplanError):
                silent[address] = f"{answer.summary}: {answer.detail}".rstrip(".")
            else:
                shown[address] = answer
    return shown, silent


def _invalid(spec: ResolvedSpec, wrong: Mapping[str, FalplanError]) -> SpecInvalid:
    from falplan.stores.spec.findings import findings_in

    findings = findings_in(Path(spec.folder), spec.sources)
    for name, error in wrong.items():
        findings.add(Code.RANGE, f"{error.summary}: {error.detail}", spec.regions[name].position)
    return SpecInvalid(findings.sorted())


def _place(region: ResolvedRegion, resources: Resources) -> Place:
    declared = _declared(region.name, resources)
    declaring = _declaring(region, declared.values())
    home = {k: v for k, v in region.options.items() if k not in declaring}
    return Place(region.name, region.provider, resources, declared, home)


def _declaring(region: ResolvedRegion, declared: Iterable[Declared]) -> frozenset[str]:
    """The options of a region that declare resources of their own, or would if they were not empty."""
    empty = {k for k, v in region.options.items() if v is None or v in ({}, [])}
    return frozenset({d.path[0] for d in declared if d.path} | empty)


def _declared(region: str, resources: Resources) -> dict[str, Declared]:
    found: dict[str, Declared] = {}
    for one in resources.declared():
        address = provided_address(one.kind, region, one.name)
        taken = sorted(set(one.inputs) & set(OWN))
        if address in found or taken:
            because = f"it declares the inputs {', '.join(taken)}" if taken else "it is declared twice"
            raise Refused("A provider declares what can't be planned", f"{address}: {because}.")
        found[address] = one
    return found


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen of resources that providers own, by address.

    `strays` and `imported` come with falplan's own inputs, which lead back to them.
    """

    seen: Mapping[str, Seen] = field(default_factory=dict)
    strays: Mapping[str, tuple[Found, JsonObject]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    operations: frozenset[str] = frozenset()
    imported: Mapping[str, tuple[Found, JsonObject]] = field(default_factory=dict)


def look_at(provided: Provided, state: State, imports: Mapping[str, str] = {}, *, at_a_time: int) -> Looked:
    """Look at every region of the spec and of state whose provider owns resources. `imports` are identities by address.

    A region that can't be looked at leaves everything in it unknown.
    """
    places = _places(provided, state)
    if not places:
        return Looked()
    found = each(places, lambda p: _look(p[0], p[1], state, imports), at_a_time, "look")
    seen: dict[str, Seen] = {}
    strays: dict[str, tuple[Found, JsonObject]] = {}
    versions: dict[str, str] = {}
    operations: frozenset[str] = frozenset()
    imported: dict[str, tuple[Found, JsonObject]] = {}
    for (place, recorded), sighted in zip(places, found, strict=True):
        # What is recorded of one place may be seen from another one with the same provider: the record says which counts.
        seen = {**{a: s for a, s in sighted.seen.items() if a not in seen}, **seen}
        seen |= {a: s for a, s in sighted.seen.items() if a in recorded}
        strays |= {a: (f, _own(place, f)) for a, f in sighted.strays.items() if a not in strays}
        versions = {**sighted.versions, **versions}
        operations |= sighted.operations
        imported |= {a: (f, _own(place, f)) for a, f in sighted.imported.items()}
    strays = {a: s for a, s in strays.items() if a not in state.resources}
    return Looked(seen, strays, versions, operations, imported)


def _places(provided: Provided, state: State) -> list[tuple[Place | FalplanError, dict[str, Recorded]]]:
    """Each place with what state knows of it: the spec's regions, then those that only state remembers."""
    recorded = {a: r for a, r in state.resources.items() if type_of(a) in PROVIDED}
    found: list[tuple[Place | FalplanError, dict[str, Recorded]]] = []
    homes: dict[str, str] = {}  # where a recorded home is looked at: in the spec's own place as long as it leads there
    for name, place in provided.places.items():
        homes[_home(name, place.provider, place.home)] = name
        for one in place.declared.values():
            homes[_home(name, place.provider, one.home)] = name
    groups: dict[str, dict[str, Recorded]] = {}
    for address, r in recorded.items():
        groups.setdefault(_home(address.split(".")[1], str(r.inputs.get("provider")), r.inputs.get("home", {})), {})[
            address
        ] = r
    mine: dict[str, dict[str, Recorded]] = {}
    for home, rs in groups.items():
        if home in homes:
            mine.setdefault(homes[home], {}).update(rs)
        else:
            found.append((place_of(next(iter(rs.values()))), rs))
    return [*((p, mine.get(n, {})) for n, p in provided.places.items()), *found]


def _home(region: str, provider: str, home: Json) -> str:
    return digest([region, provider, home])


def place_of(recorded: Recorded) -> Place | FalplanError:
    """The place that a recorded resource is in, from what state remembers of it; or why there is no way to it."""
    region, provider = recorded.address.split(".")[1], str(recorded.inputs.get("provider", ""))
    home = recorded.inputs.get("home", {})
    try:
        made = registry.provider_of(provider, region, home if isinstance(home, dict) else {})
    except FalplanError as exc:
        return exc
    if not isinstance(made, Resources):
        return FalplanError(
            "Not a provider of resources", f"{provider} owns none, and {recorded.address} is one of its."
        )
    return Place(region, provider, made)


def _look(
    place: Place | FalplanError, recorded: dict[str, Recorded], state: State, imports: Mapping[str, str]
) -> Sighted:
    if isinstance(place, FalplanError):
        return _unknown(place, recorded)
    known = {a: remembered(r) for a, r in recorded.items() if identity_of(r)}
    known |= {a: Found(a, i, {}) for a, i in imports.items() if a.split(".")[1:2] == [place.region] and a not in known}
    try:
        found = place.resources.look(state.lineage, known)
    except Refused:
        raise  # somebody else may answer in a host's place: that is no reason to go on without it
    except FalplanError as exc:
        return _unknown(exc, [*recorded, *place.declared])
    here = [f for f in found if not f.address or _inside(f.address, place.region) or f.identity in imports.values()]
    return sight(recorded, place.declared, here, state, imports)


def _inside(address: str, region: str) -> bool:
    kind, _, rest = address.partition(".")
    return kind in {t.value for t in PROVIDED} and rest.split(".")[0] == region


def _unknown(exc: FalplanError, addresses: Sequence[str] | Mapping[str, Recorded]) -> Sighted:
    because = f"{exc.summary}: {exc.detail}" if exc.detail else exc.summary
    return Sighted({a: Seen(Presence.UNKNOWN, because=because.rstrip(".")) for a in addresses})


def _own(place: Place | FalplanError, stray: Found) -> JsonObject:
    """How to reach something that is in no record: like its neighbours of the same region."""
    assert isinstance(place, Place)  # noqa: S101 - nothing is found in a place that there is no way to
    own: JsonObject = {"provider": place.provider}
    return {**own, "home": place.home} if place.home else own
