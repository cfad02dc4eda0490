"""How the world differs from what was applied, whatever the spec says by now. Compares values; asks and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from falplan.core.diff import ABSENT, Difference, differences, same
from falplan.core.plan import AttributeChange, Drift, Override, Presence, Seen
from falplan.core.resources import PROVIDED, type_of
from falplan.core.spec.declared import IgnoreRule
from falplan.core.state import Recorded, State, Status
from falplan.core.values import JsonObject

INTERRUPTED = "an earlier {action} was interrupted: only the next apply finds out what became of it"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look at the world brought. `drift` is by address, ignored ones included; `unknown` maps addresses to the reason."""

    drift: Mapping[str, Drift] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def alarming(self) -> list[Drift]:
        """Drift and overrides that no rule ignores, by address."""
        return [d for _, d in sorted(self.drift.items()) if not d.ignored]


def drifted(found: Iterable[Drift]) -> list[Drift]:
    """What differs though nobody set it so, by address. Of a resource with overrides beside it, all but those."""
    return [part for d in sorted(found, key=_by_address) if (part := _part(d, override=False))]


def overridden(found: Iterable[Drift]) -> list[Drift]:
    """What was set so on the control plane, by address."""
    return [part for d in sorted(found, key=_by_address) if (part := _part(d, override=True))]


def _by_address(drift: Drift) -> str:
    return drift.address


def _part(drift: Drift, *, override: bool) -> Drift | None:
    """What of it is an override, or is none; None if nothing is."""
    chosen = tuple(a for a in drift.attributes if a.override is override)
    present, whole = drift.presence is Presence.PRESENT, len(chosen) == len(drift.attributes)
    if override:
        if present and whole and chosen:
            return drift
        return replace(drift, presence=Presence.PRESENT, attributes=chosen, because=OVERRIDDEN) if chosen else None
    if whole:
        return drift
    if present and not chosen:
        return None
    return replace(drift, attributes=chosen, because=CHANGED if present else drift.because, since="", by="")


OVERRIDDEN = "it is overridden on the control plane"
CHANGED = "its settings were changed"


def find_drift(
    state: State, seen: Mapping[str, Seen], *, rules: Iterable[IgnoreRule] = (), today: str = ""
) -> Findings:
    """Compare every recorded resource with what was seen of it. `today` is a date such as 2026-11-21, in UTC."""
    drift, unknown, known = {}, {}, tuple(rules)
    for address, recorded in sorted(state.resources.items()):
        look = seen.get(address)
        if look is None:
            continue
        if look.presence is Presence.UNKNOWN:
            unknown[address] = look.because
        elif look.presence is Presence.ABSENT and _never_was(recorded):
            continue  # a creation that failed: no apply ever made it
        elif recorded.intent is not None:
            unknown[address] = INTERRUPTED.format(action=recorded.intent.action)
        else:
            found = _drift(recorded, look, [r for r in known if r.holds(address, today)])
            if found is not None:
                drift[address] = found
    return Findings(drift, unknown)


def _never_was(recorded: Recorded) -> bool:
    of_provider = type_of(recorded.address) in PROVIDED
    return of_provider and recorded.status is Status.TAINTED and not recorded.intent and not recorded.outputs.get("id")


def as_seen(state: State, seen: Mapping[str, Seen]) -> State:
    """State as it is seen, for what was looked at: settings as they are, and without what is gone.

    Nothing is learned of what could not be looked at, or was being changed by an apply that was interrupted.
    """
    resources, retired = {}, dict(state.retired)
    for address, recorded in state.resources.items():
        look = seen.get(address)
        if look is None or recorded.intent is not None or look.presence is Presence.UNKNOWN:
            resources[address] = recorded
        elif look.presence is Presence.ABSENT:
            retired[address] = recorded.generation
        else:
            live = {name: value for name, value in look.inputs.items() if name in recorded.inputs}
            resources[address] = replace(recorded, inputs={**recorded.inputs, **live})
    return replace(state, resources=resources, retired=retired)


def _drift(recorded: Recorded, seen: Seen, rules: list[IgnoreRule]) -> Drift | None:
    attributes = tuple(_attributes(recorded, seen))
    if seen.presence is Presence.PRESENT and not attributes:
        return None
    since = min((o.since for o in seen.overrides.values() if o.since), default="")
    by = ", ".join(sorted({o.by for o in seen.overrides.values() if o.by}))
    return Drift(
        recorded.address,
        type_of(recorded.address),
        seen.presence,
        seen.because or _because(attributes, seen),
        attributes,
        since,
        by,
        _ignored(seen, attributes, rules),
    )


REVISION = "revision"
"""The override that is none of a setting."""


def _because(attributes: tuple[AttributeChange, ...], seen: Seen) -> str:
    """A deliberate setting on the control plane is told apart from a change that nobody accounts for."""
    if REVISION in seen.overrides:
        return "another revision was chosen on the control plane"  # whatever else differs came with it, or is told beside it
    found = [a for a in attributes if a.override]
    if len(found) == len(attributes):
        return OVERRIDDEN
    return CHANGED if not found else f"{CHANGED}, some by an override"


def _attributes(recorded: Recorded, seen: Seen) -> Iterable[AttributeChange]:
    """What differs among the inputs that were recorded: one that state never knew of is no drift. Outputs only as overrides."""
    told = set()
    for d in _differing(recorded.inputs, seen.inputs):
        path = ".".join(d.path)
        told.add(path)
        # With another revision come all its settings.
        override = path in seen.overrides or REVISION in seen.overrides
        yield AttributeChange(d.path, d.before, d.after, because=_told(seen.overrides.get(path)), override=override)
    for path, made in sorted(seen.overrides.items()):
        if path not in told and not _is_recorded(recorded, path, made):
            yield AttributeChange((path,), made.applied, made.value, because=_told(made), override=True)


def _differing(recorded: JsonObject, seen: JsonObject) -> Iterable[Difference]:
    if seen is recorded:
        return ()  # as for most of many apps
    live = {name: value for name, value in seen.items() if name in recorded}
    return differences({name: recorded[name] for name in live}, live)


def _is_recorded(recorded: Recorded, path: str, override: Override) -> bool:
    """Whether the override was taken into state since, as `apply --refresh-only` does."""
    value: object = recorded.inputs
    for name in path.split("."):
        value = value.get(name, ABSENT) if isinstance(value, dict) else ABSENT
    return same(value, override.value)  # type: ignore[arg-type]  # what a JSON object holds, or ABSENT


def _told(override: Override | None) -> str:
    """Who made it so, and when."""
    if override is None or not override.by:
        return ""
    return f"set by {override.by} at {override.since}"


def _ignored(seen: Seen, attributes: tuple[AttributeChange, ...], rules: list[IgnoreRule]) -> str:
    """The rules that cover all of it, as text; empty if anything remains to be told."""
    whole = [r for r in rules if not r.attribute]
    if whole:
        return str(whole[0])
    if seen.presence is not Presence.PRESENT:
        return ""
    used = []
    for a in attributes:
        rule = next((r for r in rules if fnmatchcase(".".join(a.path), r.attribute)), None)
        if rule is None:
            return ""
        used.append(str(rule))
    return ", ".join(dict.fromkeys(used))
