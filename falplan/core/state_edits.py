"""Edits of saved state that touch nothing in the world: which are possible, and what follows. Reads and writes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from falplan.core.errors import FalplanError, Refused
from falplan.core.moves import forget as without
from falplan.core.resources import ResourceType
from falplan.core.spec.words import NAME_RULE, is_name, nearest
from falplan.core.state import Intent, Recorded, State, Status

SHAPES = {
    ResourceType.GATEWAY: "gateway",
    ResourceType.APP: "app.<environment>.<name>",
    ResourceType.BUILD: "build.<environment>.<name>",
    ResourceType.SECRET: "secret.<environment>.<NAME>",
    ResourceType.HOST: "host.<region>.<name>",
    ResourceType.NETWORK: "network.<region>",
}
"""How an address of each type is written."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A state to be saved, what changes in it (a line each), and what a person should know before."""

    state: State
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def matching(state: State, pattern: str | None) -> list[str]:
    """Addresses that a pattern names: itself, everything below it (`app.staging`), or with `*` and `?`. All without one. Sorted."""
    if not pattern:
        return sorted(state.resources)
    return sorted(a for a in state.resources if a == pattern or a.startswith(f"{pattern}.") or fnmatchcase(a, pattern))


def find(state: State, address: str) -> Recorded:
    """The resource in state.

    Raises:
        FalplanError: there is none; the message names the nearest.
    """
    recorded = state.resources.get(address)
    if recorded is None:
        close = nearest(address, state.resources)
        hint = f" Did you mean {close}?" if close else " `falplan state list` prints those there are."
        raise FalplanError("No such resource in state", f"{address} is not there.{hint}")
    return recorded


def dependents(state: State, addresses: Collection[str]) -> dict[str, list[str]]:
    """address -> the resources that depend on it directly, less those that are named themselves. Only where there are any."""
    found: dict[str, list[str]] = {}
    for other in sorted(state.resources):
        if other not in addresses:
            for dependency in state.resources[other].dependencies:
                if dependency in addresses:
                    found.setdefault(dependency, []).append(other)
    return found


def move(state: State, source: str, target: str) -> Edit:
    """The same resource under another address; whatever depends on it depends on the new one.

    Raises:
        FalplanError: there is no such resource. Refused: the new address is taken, of another type or not one.
    """
    recorded = find(state, source)
    _check_target(state, recorded, target)
    if recorded.intent:
        raise _interrupted(recorded, "moved")
    moved = replace(
        recorded,
        address=target,
        # Operation ids are made of address and generation: none that either address ever had is used again.
        generation=max(recorded.generation, state.generation(target)),
    )
    resources = {
        a: replace(r, dependencies=tuple(target if d == source else d for d in r.dependencies))
        for a, r in state.resources.items()
        if a != source
    }
    retired = {a: g for a, g in state.retired.items() if a != target} | {source: recorded.generation}
    rewritten = sorted(a for a, r in state.resources.items() if source in r.dependencies)
    changes = [f"{source} -> {target}", *(f"{a} depends on {target}, no longer on {source}" for a in rewritten)]
    edited = replace(state, resources=resources | {target: moved}, retired=retired)
    return Edit(edited, tuple(changes), tuple(_after_move(recorded, target)))


def _after_move(recorded: Recorded, target: str) -> Iterable[str]:
    endpoint = recorded.inputs.get("endpoint")
    if endpoint:
        yield (
            f"The app goes on serving as {endpoint}, which it was applied as. If the spec gives {target} another endpoint, the next "
            "apply replaces it: `falplan plan` shows that."
        )
    if recorded.type in (ResourceType.SECRET, ResourceType.BUILD):
        yield f"The control plane knows it as {recorded.address} until the next apply, which makes {target} there."


def _check_target(state: State, recorded: Recorded, target: str) -> None:
    kind, _, rest = target.partition(".")
    if kind != recorded.type:
        shape = SHAPES[ResourceType(recorded.type)]
        raise Refused("A resource keeps its type", f"{recorded.address} is moved to an address such as {shape}.")
    if recorded.type == ResourceType.GATEWAY:
        raise Refused("The gateway can't be moved", "There is one in each project, and `gateway` is its address.")
    environment, dot, name = rest.partition(".")
    if recorded.type == ResourceType.NETWORK and not dot:
        dot, name = ".", environment  # the only one of its kind in a region
    named = name.isascii() and name.isidentifier() if recorded.type == ResourceType.SECRET else is_name(name)
    if not dot or not is_name(environment) or not named:
        detail = f"{target} is none. Write {SHAPES[ResourceType(recorded.type)]}; a name is {NAME_RULE}."
        raise Refused("Not an address", detail)
    if target == recorded.address:
        raise Refused("It is there already", f"{target} is where it is moved from.")
    if target in state.resources:
        detail = f"{target} is in state already. Move that one away, or let `falplan state rm {target}` forget it."
        raise Refused("The address is taken", detail)


def forget(state: State, addresses: Collection[str]) -> Edit:
    """State without these resources, which stay in the world.

    Raises:
        FalplanError: one of them is not there. Refused: an operation on one was interrupted, and apply can find out what became of it.
    """
    found = [find(state, address) for address in sorted(set(addresses))]
    for recorded in found:
        # A host may never answer again; and what was begun there costs nothing by itself.
        if recorded.intent and recorded.type != ResourceType.HOST:
            raise _interrupted(recorded, "forgotten")
    gone = [r.address for r in found]
    notes = [line for recorded in found for line in _goes_on(recorded)]
    for address, users in dependents(state, gone).items():
        notes.append(f"{', '.join(users)} still depend{'s' * (len(users) == 1)} on {address}.")
    changes = [f"{address} is forgotten" for address in gone]
    return Edit(without(state, gone), tuple(changes), tuple(notes))


def _goes_on(recorded: Recorded) -> Iterable[str]:
    """What forgetting leaves behind, and what the next apply makes of it."""
    again = "If it is in the spec, the next apply makes it again"
    match recorded.type:
        case ResourceType.APP:
            yield (
                f"{recorded.address} goes on serving as {recorded.inputs.get('endpoint')}. "
                "Plans leave it alone until it is in the spec again, or imported."
            )
        case ResourceType.GATEWAY:
            yield (
                f"The control plane at {recorded.outputs.get('url', 'its address')} goes on with everything it runs. Nothing here "
                "knows its address any more, and `falplan destroy` does not end it."
            )
        case ResourceType.SECRET:
            yield f"{recorded.address} stays on the control plane, and apps keep its value. {again}: it is delivered anew."
        case ResourceType.HOST:
            if recorded.intent:
                yield f"Nobody knows whether the {recorded.intent.action} of {recorded.address} was done."
            yield f"What falplan has put on {recorded.address} stays there, with its mark. {again}: it takes what carries its mark."
            yield "Otherwise the next apply has the control plane give it up, and put runners elsewhere."
        case ResourceType.NETWORK:
            yield f"{recorded.address} stays as it is, with its mark and its price. {again}: it takes what carries its mark."
        case _:
            yield f"{recorded.address} stays on the control plane. {again}, from its cache where that is possible."


def taint(state: State, address: str) -> Edit:
    """The resource is made anew by the next apply.

    Raises:
        FalplanError: there is none. Refused: it is made again anyway.
    """
    recorded = find(state, address)
    if recorded.status is Status.REMAKE:
        raise Refused("It is tainted already", f"The next apply makes {address} anew.")
    if recorded.intent:
        raise _interrupted(recorded, "tainted")
    return Edit(_with_status(state, recorded, Status.REMAKE), (f"{address} is tainted", *_remaking(recorded)))


def _remaking(recorded: Recorded) -> Iterable[str]:
    match recorded.type:
        case ResourceType.APP:
            yield f"the next apply removes {recorded.inputs.get('endpoint')} and deploys it again: its callers get errors in between"
        case ResourceType.BUILD:
            yield "the next apply locks its requirements anew; if other versions come of it, its app gets a new revision"
        case ResourceType.SECRET:
            yield "the next apply delivers its value again, as a new version, and the apps that use it get a new revision"
        case ResourceType.HOST | ResourceType.NETWORK:
            yield "the next apply destroys it and makes another one"
        case _:
            yield "the next apply tells the control plane its settings again"


def untaint(state: State, address: str) -> Edit:
    """The resource counts as applied.

    Raises:
        FalplanError: there is none. Refused: it is not tainted, or never came to be.
    """
    recorded = find(state, address)
    if recorded.status is Status.APPLIED:
        raise Refused("It is not tainted", f"The last operation on {address} succeeded, and nobody tainted it since.")
    if recorded.status is Status.TAINTED and not recorded.outputs:
        detail = f"The operation that was to make {address} failed, and there is nothing to count as applied. `falplan apply` tries again."
        raise Refused("It never came to be", detail)
    notes: tuple[str, ...] = ()
    if recorded.status is Status.TAINTED:
        notes = ("The last operation on it failed. Whether it is as it should be, only you know.",)
    return Edit(_with_status(state, recorded, Status.APPLIED), (f"{address} counts as applied",), notes)


def _with_status(state: State, recorded: Recorded, status: Status) -> State:
    return replace(state, resources={**state.resources, recorded.address: replace(recorded, status=status)})


def _interrupted(recorded: Recorded, done: str) -> Refused:
    action = recorded.intent.action if recorded.intent else ""
    detail = f"{recorded.address}: nobody knows yet whether its {action} was done. `falplan apply` finds out; it can be {done} then."
    return Refused("An operation on it was interrupted", detail)


@dataclass(frozen=True, slots=True)
class Difference:
    """How one state differs from another, by address. `intents`: interrupted operations that only the older one knows."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    intents: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def lines(self) -> list[str]:
        """For people: a line each."""
        marked: Mapping[str, Iterable[str]] = {"+": self.added, "-": self.removed, "~": self.changed}
        return [f"  {mark} {address}" for mark, addresses in marked.items() for address in addresses]


def difference(before: State, after: State) -> Difference:
    """What putting `after` in the place of `before` changes."""
    old, new = before.resources, after.resources
    lost = [a for a, r in old.items() if r.intent and not _knows(after, a, r.intent)]
    return Difference(
        tuple(sorted(new.keys() - old.keys())),
        tuple(sorted(old.keys() - new.keys())),
        tuple(sorted(a for a in old.keys() & new.keys() if old[a] != new[a])),
        tuple(sorted(lost)),
    )


def _knows(state: State, address: str, intent: Intent) -> bool:
    """Whether state has the operation open as well, or knows its end."""
    recorded = state.resources.get(address)
    if recorded is not None and recorded.intent is not None:
        return recorded.intent == intent
    return state.generation(address) >= intent.generation


def continues(later: State, state: State) -> bool:
    """Whether `later` knows all that `state` does, and what became of whatever is open in that. Serials say nothing of it: who takes
    the lock of a holder that never gave it back writes the same state anew, with the next one.
    """
    if (later.lineage, later.outputs, later.forgotten) != (state.lineage, state.outputs, state.forgotten):
        return False
    if any(later.generation(address) < generation for address, generation in state.retired.items()):
        return False
    return all(
        later.resources.get(address) == recorded
        or (recorded.intent is not None and later.generation(address) >= recorded.intent.generation)
        for address, recorded in state.resources.items()
    )


def objections(current: State | None, pushed: State, *, seen: int) -> list[str]:
    """Why putting `pushed` in the place of `current` would lose something, a sentence each. `seen`: the lineage's highest serial."""
    if (
        current is not None
        and current.serial >= seen
        and current.resources != pushed.resources
        and continues(pushed, current)
    ):
        return []  # it knows what became of operations that are open there
    if current is not None and pushed.lineage != current.lineage:
        return [f"It is of another lineage: {pushed.lineage}, and not {current.lineage}."]
    if current is not None and pushed.serial < current.serial:
        return [f"Its serial is {pushed.serial}, and the state has {current.serial}: it is older."]
    if pushed.serial < seen:
        return [f"Its serial is {pushed.serial}, and this machine has seen {seen}: it is older."]
    return []
