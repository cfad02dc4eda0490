"""Which runners a plan launches and drains: the controller's own rules, applied before anything happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, cast

from falplan.core.placement import Need, NoRoom, Placed, Slots, give_back, is_astray, place, take
from falplan.core.plan import Action, Change, Plan
from falplan.core.reasons import makes_revision
from falplan.core.resources import ResourceType, machine_of
from falplan.core.rollout import Strategy
from falplan.core.spec.resolved import AppKind, MachineType
from falplan.core.values import JsonObject


class Effect(StrEnum):
    """What happens to runners."""

    LAUNCH = "launch"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Consequence:
    """Runners that follow from a change. `where` names machine and machine type of a launch, `placed` each runner's place."""

    address: str
    effect: Effect
    count: int
    because: str
    where: str = ""
    placed: tuple[Placed, ...] = ()


@dataclass(frozen=True, slots=True)
class NoPlace:
    """A runner that has to be launched fits nowhere. `advice` says what would help; `unknown`: some machines could not be asked;
    `lacking`: they lack what it is run with.
    """

    address: str
    reasons: tuple[str, ...]
    advice: str
    unknown: bool = False
    lacking: bool = False


NAMED = 3
"""Apps that are named of those that find no room for the same reasons; the rest is a number."""


def alike(missing: Iterable[NoPlace]) -> list[tuple[str, NoPlace]]:
    """Those without room, one for all that have the same reasons and the same advice, and who they are in words."""
    found: dict[tuple[str, tuple[str, ...]], list[NoPlace]] = {}
    for one in missing:
        found.setdefault((one.advice, one.reasons), []).append(one)
    return [(_named([o.address for o in group]), group[0]) for group in found.values()]


def _named(addresses: Sequence[str]) -> str:
    names = list(dict.fromkeys(addresses))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


@dataclass(frozen=True, slots=True)
class LiveRunner:
    """A runner that takes room now.

    `serving`: its revision is the one that serves; one that is not verifies a deploy under way. `leaving`: it is ending already.
    """

    address: str
    revision: str
    placed: Placed | None = None
    serving: bool = True
    leaving: bool = False


class Sells(Protocol):
    """Who sells machines for runners without room."""

    def room_for(self, who: str, need: Need, missing: int) -> Slots | tuple[str, ...]:
        """The room of one more machine for so many runners; why there is none otherwise."""
        ...

    def is_unsure(self, need: Need) -> bool:
        """Whether somebody else might sell one, and could not be asked."""
        ...


def consequences(
    plan: Plan,
    runners: Iterable[LiveRunner],
    machines: Sequence[Slots],
    types: Mapping[str, MachineType],
    python: str = "",
    shop: Sells | None = None,
) -> tuple[list[Consequence], list[NoPlace]]:
    """What the controller will do once the plan is applied, in the order of addresses. `python` is as for `need_of`.

    `shop` has the machines that are bought for runners without room.

    Launches are placed one after the other, so that two apps that fit one by one but not together are found. Drains free
    room only after the launches of a rolling deploy; but launches wait for runners that are ending, or that verify what the
    plan overtakes.
    """
    live: dict[str, list[LiveRunner]] = {}
    room = list(machines)
    for runner in runners:
        if runner.leaving or (not runner.serving and overtakes(plan.changes.get(runner.address))):
            free(room, [runner])
        else:
            live.setdefault(runner.address, []).append(runner)
    up = {address: len(found) for address, found in live.items()}
    found: list[Consequence] = []
    missing: list[NoPlace] = []
    for address, change in sorted(plan.changes.items()):
        if change.type is not ResourceType.APP or not change.action.acts:
            continue
        if change.action is Action.DELETE:
            found += _drains(change, up.get(address, 0), "the app is removed")
            continue
        if rolls(change) and _settings(change)["strategy"] == Strategy.RECREATE:
            free(room, live.get(address, []))
        astray = sum(leaves_its_region(change, r, machines) for r in live.get(address, []))
        launches, drains = (
            _rollout(change, up.get(address, 0)) if rolls(change) else _rescale(change, up.get(address, 0), astray)
        )
        for count, because in launches:
            placed = _placed(address, need_of(change, python), count, room, types, shop)
            if isinstance(placed, NoRoom):
                missing.append(
                    NoPlace(address, placed.reasons, _advice(change, placed), placed.unknown, placed.lacking)
                )
            else:
                found.append(Consequence(address, Effect.LAUNCH, count, because, _where(placed), placed))
        for count, because in drains:
            found += _drains(change, count, because)
    return [*found, *_of_hosts(plan, live)], missing


def going(plan: Plan) -> dict[str, str]:
    """Machines whose runners are drained because of their host, by machine id, and why."""
    words = dict.fromkeys((Action.REPLACE, Action.REPLACE_CREATE_FIRST), "replaced")
    words |= {Action.DELETE: "removed", Action.FORGET: "forgotten"}
    hosts = [c for c in plan.changes.values() if c.type is ResourceType.HOST and c.action in words]
    return {machine_of(c.address): f"{c.address} is {words[c.action]}" for c in hosts}


def _of_hosts(plan: Plan, live: Mapping[str, Iterable[LiveRunner]]) -> list[Consequence]:
    """Runners of apps that stay as they are, drained because their host does not."""
    machines = going(plan)
    found = []
    for address, runners in sorted(live.items()):
        change = plan.changes.get(address)
        if change is not None and (change.action is Action.DELETE or (change.action.acts and rolls(change))):
            continue  # all of them are drained as it is
        there = Counter(r.placed.machine_id for r in runners if r.placed and r.placed.machine_id in machines)
        found += [Consequence(address, Effect.DRAIN, there[m], machines[m]) for m in sorted(there)]
    return found


def overtakes(change: Change | None) -> bool:
    """Whether the change ends a deploy of the app that is under way."""
    return change is not None and change.action.acts and (change.action is Action.DELETE or rolls(change))


Counts = list[tuple[int, str]]
VERIFIES = "verifies the new revision"
"""How the reason of a launch begins without which a deploy fails."""


def rolls(change: Change) -> bool:
    """Whether the change makes a new revision. An app whose build changes has no differing attributes of its own."""
    if change.action is Action.CREATE or change.action.replaces or change.rebuilt:
        return True
    if not change.attributes:
        return bool(change.unknown)  # what is made again; not what is only recorded
    return any(makes_revision(a.path) for a in change.attributes)


def recreated(plan: Plan) -> frozenset[str]:
    """Addresses of the apps whose old runners stop before new ones start."""
    apps = [c for c in plan.changes.values() if c.type is ResourceType.APP and c.action is not Action.NOOP and c.after]
    return frozenset(c.address for c in apps if rolls(c) and _settings(c)["strategy"] == Strategy.RECREATE)


def _rollout(change: Change, up: int) -> tuple[Counts, Counts]:
    settings = _settings(change)
    least = int(cast("int", settings["min_concurrency"]))
    rolling = settings["strategy"] == Strategy.ROLLING
    launches: Counts = []
    if rolling:
        then = "" if least else f"; stops after {settings['keep_alive']} s without a request (min_concurrency 0)"
        launches.append((1, f"{VERIFIES} before traffic moves{then}"))
    rest = least - 1 if rolling else least
    if rest > 0:
        launches.append((rest, f"min_concurrency {least}"))
    because = "once the new revision serves" if rolling else "traffic moves at once (recreate)"
    return launches, [(up, because)] if up else []


def _rescale(change: Change, up: int, astray: int) -> tuple[Counts, Counts]:
    """`astray` of those that are up are to be replaced."""
    settings = _settings(change)
    least, most = int(cast("int", settings["min_concurrency"])), int(cast("int", settings["max_concurrency"]))
    up -= astray
    where = " where it may run now" if astray else ""
    drains = [(astray, "its region is none of the app's `regions` any more")] if astray else []
    if up < least:
        return [(least - up, f"min_concurrency {least}, {up} are up{where}")], drains
    if up > most:
        return [], [*drains, (up - most, f"max_concurrency {most}, {up} are up{where}")]
    return [], drains


def leaves_its_region(change: Change | None, runner: LiveRunner, machines: Iterable[Slots]) -> bool:
    """Whether a runner is where its app may not run any more once this is applied."""
    if change is None or not change.action.acts or change.after is None or runner.placed is None:
        return False
    return is_astray(_settings(change).get("regions"), runner.placed.machine_id, machines)


def _drains(change: Change, count: int, because: str) -> list[Consequence]:
    return [Consequence(change.address, Effect.DRAIN, count, because)] if count else []


def need_of(change: Change, python: str = "") -> Need:
    """What a runner of the app asks for once this is applied. `python` is what its environment is made with unless it says so itself;
    empty if that is not known."""
    settings = _settings(change)
    regions = cast("list[str] | None", settings.get("regions"))
    inputs = change.after or {}
    contained = inputs.get("kind") == AppKind.IMAGE
    built = not contained and any(d.startswith(f"{ResourceType.BUILD}.") for d in change.dependencies)
    return Need(
        tuple(cast("list[str]", settings["machine_type"])),
        cast("int | None", settings.get("num_gpus")),
        tuple(regions) if regions is not None else None,
        str(settings.get("python_version") or python) if built else "",
        contained,
    )


def place_all(
    need: Need, count: int, room: list[Slots], types: Mapping[str, MachineType]
) -> tuple[Placed, ...] | NoRoom:
    """Places of that many runners, one after the other; `room` is what they leave. Those before one without room keep theirs."""
    found: list[Placed] = []
    for _ in range(count):
        placed = place(need, room, types)
        if isinstance(placed, NoRoom):
            return placed
        occupy(room, placed)
        found.append(placed)
    return tuple(found)


def _placed(
    who: str, need: Need, count: int, room: list[Slots], types: Mapping[str, MachineType], shop: Sells | None
) -> tuple[Placed, ...] | NoRoom:
    """As `place_all`, on machines that are bought where those that are there do not suffice."""
    found: list[Placed] = []
    while len(found) < count:
        placed = place(need, room, types)
        if isinstance(placed, Placed):
            occupy(room, placed)
            found.append(placed)
            continue
        more = shop.room_for(who, need, count - len(found)) if shop else ()
        if not isinstance(more, Slots):
            unsure = placed.unknown or (shop is not None and shop.is_unsure(need))
            ever = placed.ever or bool(more)
            return replace(placed, reasons=(*placed.reasons, *more), unknown=unsure, ever=ever)
        room.append(more)
    return tuple(found)


def _where(places: Iterable[Placed]) -> str:
    return ", ".join(dict.fromkeys(f"{placed.machine_id} ({placed.machine_type})" for placed in places))


def occupy(room: list[Slots], placed: Placed) -> None:
    """The runner takes its place."""
    for index, machine in enumerate(room):
        if machine.machine_id == placed.machine_id:
            room[index] = take(machine, placed)


def free(room: list[Slots], leaving: Iterable[LiveRunner]) -> None:
    """Runners give their places back. `recreate` needs no room beside the old ones: theirs is free before the new ones start."""
    for runner in leaving:
        for index, machine in enumerate(room):
            if runner.placed and machine.machine_id == runner.placed.machine_id:
                room[index] = give_back(machine, runner.placed)


def _advice(change: Change, no_room: NoRoom) -> str:
    if no_room.lacking:
        return "No machine that is large enough has what it is run with."
    if not no_room.ever:
        return "No machine of the spec is ever large enough: choose another machine_type or add a machine."
    if change.action is Action.UPDATE and _settings(change)["strategy"] == Strategy.ROLLING:
        return "There is no room for old and new together: `strategy: recreate` stops the old runners first."
    if not _settings(change)["min_concurrency"]:
        return "It is started to verify the revision: deploy fewer apps at a time (--target), or add a machine."
    return "Lower min_concurrency of an app, or add a machine."


def _settings(change: Change) -> JsonObject:
    return cast("JsonObject", (change.after or {})["settings"])
