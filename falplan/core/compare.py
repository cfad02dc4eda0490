"""What becomes of one resource, and why: wanted, recorded and seen are compared. Knows nothing of the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from falplan.core.diff import ABSENT, Difference, count_leaves, differences, same
from falplan.core.plan import Action, AttributeChange, Change, Presence, Reason, Seen
from falplan.core.reasons import because_of, forces_replacement, makes_revision
from falplan.core.resources import PROVIDED, Resource, ResourceType, type_of
from falplan.core.rollout import Strategy
from falplan.core.spec.resolved import Origin
from falplan.core.state import Recorded, State, Status
from falplan.core.values import JsonObject

GONE_FROM_SPEC = "it is no longer in the spec"
SET_BACK = "it was changed since it was applied, and is set back"
REMADE = "`falplan taint` asked for it to be made anew"
NEW = "it is new in the spec"
TAKEN = "it exists already and carries this project's mark: it is taken"


def change_of(
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
    action, because, reason = _decide(wanted, recorded, seen, attributes, drift)
    made = seen.overrides.get("revision")
    if made is not None:
        drift = (*drift, AttributeChange(("revision",), made.applied, made.value, override=True))
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
    wanted: Resource,
    recorded: Recorded,
    seen: Seen,
    attributes: tuple[AttributeChange, ...],
    drift: tuple[AttributeChange, ...],
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
        because = _what_differs(attributes, drift) if kind is not ResourceType.SECRET else _secret_differs(attributes)
        return Action.UPDATE, because, None
    if drift and kind is not ResourceType.GATEWAY and kind is not ResourceType.BUILD:
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
    Presence.ALTERED: "it is set back",
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


def _what_differs(attributes: Sequence[AttributeChange], drift: Iterable[AttributeChange]) -> str:
    """What of it, where that is only one thing; or that others changed it, and the spec still says what was applied."""
    applied = {d.path: d.before for d in drift}
    if all(a.path in applied and same(applied[a.path], a.after) for a in attributes):
        return SET_BACK
    parts = {a.path[:1] for a in attributes}
    (part,) = parts.pop() if len(parts) == 1 else ("",)
    return f"its {DIFFERING.get(part, 'settings')} differ{'s' * (part in SINGULAR)}"


DIFFERING = {
    "files": "files",
    "protect": "protection",
    "command": "command",
    "image": "image",
    "port": "port",
    "entry": "entry",
    "regions": "regions",
}
SINGULAR = ("protect", "command", "image", "port", "entry")


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
    if wanted.type is ResourceType.BUILD and "image" in wanted.inputs:
        return ()  # it is what the spec says, by its digest
    return tuple(n for n in UNKNOWN_OUTPUTS.get(wanted.type, wanted.known_after) if n not in wanted.inputs)


def _unknown_outputs(wanted: Resource, attributes: tuple[AttributeChange, ...]) -> tuple[str, ...]:
    """Outputs that an update changes: none of the gateway's; an app's revision unless only runtime settings differ."""
    kind = wanted.type
    if kind in PROVIDED:
        return unknown_outputs(wanted) if any(a.forces_replacement for a in attributes) else ()
    if kind is ResourceType.GATEWAY:
        return ()
    if kind is ResourceType.APP and attributes and not revises(attributes):
        return ()
    return unknown_outputs(wanted)


def revises(attributes: tuple[AttributeChange, ...]) -> bool:
    """Whether one of an app's differences makes a new revision by itself."""
    return any(a.forces_replacement or makes_revision(a.path) for a in attributes)


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
