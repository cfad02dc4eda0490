"""What must hold in every state, whoever wrote it. Looks at values alone.

The rules are what apply and destroy really leave behind, at any instant:

* A resource is recorded under its own address, and as what that address names.
* Nothing depends on itself, however long the way round.
* A dependency of a recorded resource is recorded too, or it is retired. Creation goes from dependencies to dependants and removal the other
  way round, so a dependency is in state as long as anything needs it. What was destroyed or forgotten nevertheless (`state rm`, `removed:`)
  stands under `retired`. An address that is in neither place was never in this state: something was lost.
* Nothing is recorded and retired at once.
* Generations count operations that ended, so they are never negative, and that of an open intent is greater than the last that ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from falplan.core.state import Recorded, State


def problems(state: State) -> list[str]:
    """Everything that does not hold, sorted; empty for a sound state."""
    return sorted(_problems(state))


def _problems(state: State) -> Iterator[str]:
    if not state.lineage or not state.project:
        yield "it names no project or no lineage"
    if state.serial < 0:
        yield f"its serial is {state.serial}"
    for address, recorded in state.resources.items():
        if address != recorded.address:
            yield f"{recorded.address} stands under {address}"
        elif kind_of(address) != recorded.type:
            yield f"{address} is recorded as {recorded.type or 'nothing'}"
        yield from _of_resource(state, recorded)
    ring = ring_of(state.resources)
    if ring:
        yield f"{' depends on '.join(ring)}"
    for address, generation in state.retired.items():
        if address in state.resources:
            yield f"{address} is both there and retired"
        if generation < 0:
            yield f"{address} is retired with generation {generation}"


def kind_of(address: str) -> str:
    """What an address names: `host` of `host.dc1.gpu-01`."""
    return address.partition(".")[0]


def ring_of(resources: Mapping[str, Recorded]) -> list[str]:
    """Addresses each of which depends on the next one, the last of them the first again; empty if there is no such ring."""
    sorter = TopologicalSorter({a: [d for d in r.dependencies if d in resources] for a, r in resources.items()})
    try:
        sorter.prepare()
    except CycleError as exc:
        # Each stands before what depends on it.
        return [str(a) for a in reversed(exc.args[1])]
    return []


def _of_resource(state: State, recorded: Recorded) -> Iterator[str]:
    if recorded.generation < 0:
        yield f"{recorded.address} has generation {recorded.generation}"
    if recorded.intent and recorded.intent.generation <= recorded.generation:
        yield (
            f"{recorded.address} has an open operation of generation {recorded.intent.generation}, "
            f"but {recorded.generation} ended already"
        )
    for name in recorded.dependencies:
        if name not in state.resources and name not in state.retired:
            yield f"{recorded.address} depends on {name}, which this state never had"
