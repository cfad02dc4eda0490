"""Apps that can't run where they may, because the Python of their environment or an engine for their image is not there. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from falplan.core.consequences import need_of
from falplan.core.findings import Finding, Source
from falplan.core.placement import Need, Slots, candidates, lacks
from falplan.core.plan import Action, Change, Plan
from falplan.core.plural import count
from falplan.core.resources import ResourceType
from falplan.core.spec.resolved import MachineType, ResolvedApp
from falplan.core.systems import System, how_to_have_an_engine, how_to_install

NAMED = 3
"""Machines that are named of those that lack the same; the rest is a number."""


def judge_interpreters(
    plan: Plan, apps: Iterable[ResolvedApp], machines: Sequence[Slots], types: Mapping[str, MachineType], python: str
) -> list[Finding]:
    """An objection for each app that no machine has the Python or an engine for, a warning for each that only some have it for.

    What is not known counts as if it were there. `python` is that of apps that ask for none. An app that the plan leaves as it is has
    its environment: it is only warned of.
    """
    known = {app.address: app for app in apps}
    found: list[Finding] = []
    places: dict[Need, _Places] = {}  # most apps ask for the same
    for address, change in sorted(plan.changes.items()):
        if address in plan.left_out:
            continue
        if change.type is ResourceType.APP and change.action is not Action.DELETE and change.after is not None:
            need = need_of(change, python)
            if need not in places:
                places[need] = _places(need, machines, types)
            if places[need].lacking:
                found.append(_finding(change, need, places[need], known.get(address)))
    return found


@dataclass(frozen=True, slots=True)
class _Places:
    """The machines that are `large` enough for a runner, those of them that lack its Python or engine, and whether others said nothing."""

    large: Sequence[Slots]
    lacking: Sequence[Slots]
    silent: bool


def _places(need: Need, machines: Sequence[Slots], types: Mapping[str, MachineType]) -> _Places:
    large = candidates(need, machines, types) if need.python or need.engine else []
    silent = any(m.unknown and not m.closed and _in_regions(need, m) for m in machines)
    return _Places(large, [m for m in large if lacks(need, m)], silent)


def _finding(change: Change, need: Need, places: _Places, app: ResolvedApp | None) -> Finding:
    large, lacking, silent = places.large, places.lacking, places.silent
    refuses = change.action.acts and len(lacking) == len(large) and not silent
    what = f"{change.address} needs {'Podman or Docker' if need.engine else f'Python {need.python}'}"
    if len(lacking) == len(large):
        message = f"{what}, which {_all(len(large), silent)}"
    else:
        message = f"{what}, which {len(lacking)} of the {len(large)} machines that it may be put on lack: it is put on the others"
    if need.engine:
        ways = (*_ways(need, lacking), "or other `regions` for the app")
        return Finding(Source.ENGINE, "engine", message, refuses, change.address, app.position if app else None, ways)
    setting = app.settings["python_version"] if app else None
    position = (setting.position if setting else None) or (app.position if app else None)
    advice = "or another `python_version` for the app, or other `regions`"
    return Finding(
        Source.INTERPRETER, need.python, message, refuses, change.address, position, (*_ways(need, lacking), advice)
    )


def _all(number: int, silent: bool) -> str:
    others = ", as far as they could be asked" if silent else ""
    if number == 1:
        return f"the only machine that it may be put on lacks{others}"
    return f"none of the {count(number, 'machine')} that it may be put on has{others}"


def _in_regions(need: Need, machine: Slots) -> bool:
    return need.regions is None or machine.region in need.regions


def _ways(need: Need, lacking: Iterable[Slots]) -> Iterator[str]:
    """What is there and how to install what is not, a line for all machines that are alike."""
    alike: dict[tuple[str, str], list[str]] = {}
    for machine in lacking:
        if machine.system is not None:
            way = _way(need, machine.system)
            alike.setdefault(way, []).append(machine.machine_id)
    for (there, command), names in alike.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        has = "has" if len(names) == 1 else "have"
        yield f"{', '.join(names[:NAMED])}{more} {has} {there}: {command}"


def _way(need: Need, system: System) -> tuple[str, str]:
    """(what there is, what installs the rest)."""
    if need.engine:
        return "neither that falplan's user there can use", how_to_have_an_engine(system)
    return system.pythons_text, how_to_install(system, need.python)
