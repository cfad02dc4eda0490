"""A part of a plan: what was targeted with all that it needs, or everything but what was excluded. Decides from the graph alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from falplan.core.diff import count_leaves
from falplan.core.graph import dependency_graph, downstream_of, needed_by
from falplan.core.plan import Action, Change, Plan
from falplan.core.plural import count
from falplan.core.resources import environment_of

NOT_TARGETED = "it is not targeted"
EXCLUDED = "it is excluded"


def target(plan: Plan, addresses: Collection[str], *, because: str = NOT_TARGETED) -> Plan:
    """The plan with nothing but these addresses and all that their operations wait for.

    The rules are OpenTofu's for `-target`: of something that is made, what it depends on comes along; of something that is
    destroyed, what depends on it.
    """
    graph = dependency_graph({a: _standing(plan, c) for a, c in plan.changes.items()})
    wanted = needed_by(graph, [a for a in addresses if a in graph])
    operations = dependency_graph(plan.after)
    kept = needed_by(operations, wanted & plan.after.keys()) | wanted
    left = {a: because for a in _moving(plan) if a not in kept}
    return _without(plan, left)


def exclude(plan: Plan, addresses: Collection[str]) -> Plan:
    """The plan without these addresses and what their operations hold up.

    The rules are OpenTofu's for `-exclude`: what depends on something excluded is not made or changed either; and what something
    excluded depends on is not destroyed.
    """
    graph = dependency_graph({a: _standing(plan, c) for a, c in plan.changes.items()})
    below = downstream_of(graph, [a for a in addresses if a in graph])
    held = {a for a in below if plan.changes[a].action is not Action.DELETE} | set(addresses)
    operations = dependency_graph(plan.after)
    dropped = downstream_of(operations, held & plan.after.keys()) | held
    chosen = frozenset(addresses)
    left = {a: EXCLUDED if a in chosen else _because(addresses) for a in _moving(plan) if a in dropped}
    return _without(plan, left)


def in_environment(plan: Plan, name: str) -> Plan:
    """The plan of one environment, and what the project shares as far as it is needed for that. It counts as complete."""
    chosen = [a for a in plan.changes if environment_of(a) == name]
    kept = target(plan, chosen)
    elsewhere = len(kept.left_out)
    hints = (f"{count(elsewhere, 'change')} outside environment {name} not shown.",) if elsewhere else ()
    return replace(kept, left_out=plan.left_out, hints=(*kept.hints, *hints))


def _because(addresses: Collection[str]) -> str:
    return f"it hangs together with {', '.join(sorted(addresses))}, which is excluded"


def _moving(plan: Plan) -> Iterable[str]:
    return (a for a, c in plan.changes.items() if c.action.acts)


def _standing(plan: Plan, change: Change) -> list[str]:
    """What a resource that stays or comes depends on; one that goes needs nothing to go."""
    if change.action is Action.DELETE:
        return []
    return [d for d in change.dependencies if d in plan.changes]


def _without(plan: Plan, left: Mapping[str, str]) -> Plan:
    """The plan in which these stay as they are recorded, or do not come to be."""
    if not left:
        return plan
    changes = {}
    for address, change in plan.changes.items():
        if address not in left:
            changes[address] = change
        elif change.action is not Action.CREATE:
            changes[address] = at_rest(change)
    after = {a: tuple(b for b in before if b not in left) for a, before in plan.after.items() if a not in left}
    return replace(plan, changes=changes, after=after, left_out={**plan.left_out, **left})


def at_rest(change: Change) -> Change:
    """The same resource, left as it is."""
    return replace(
        change,
        action=Action.NOOP,
        because="",
        attributes=(),
        after=change.before,
        unknown=(),
        unchanged=count_leaves(change.before or {}),
        operation="",
        secrets={},
        rebuilt=False,
        reason=None,
    )
