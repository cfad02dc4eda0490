"""Asks the control plane which operation ids it knows, so that a plan made from an old state uses none of them."""

from __future__ import annotations

from falplan.core.generations import candidates, refresh
from falplan.core.plan import Plan
from falplan.core.resources import PROVIDED, type_of
from falplan.core.state import State
from falplan.core.values import Json
from falplan.engine.asleep import known_operations
from falplan.engine.observe import Observed
from falplan.engine.project import Project


def fresh(project: Project, state: State, observed: Observed, plan: Plan) -> Plan:
    """The same plan, with operations that are new to the control plane, or that are finished by it.

    Raises:
        Unreachable, Answered: it does not answer any more.
    """
    while True:
        # What providers own is no operation of the control plane: it carries the id of its own last one.
        ids = [i for a, found in candidates(plan).items() if type_of(a) not in PROVIDED for i in found]
        newer = refresh(plan, state, frozenset(_known(project, state, observed, ids)) | observed.looked.operations)
        if newer == plan:
            return plan
        plan = newer


def _known(project: Project, state: State, observed: Observed, ids: list[str]) -> list[str]:
    if not ids or not state.resources:
        return []
    if observed.client is not None:
        found: list[str] = observed.client.ask("/operations/known", {"ids": list[Json](ids)})["known"]
        return found
    return known_operations(project, state, ids)
