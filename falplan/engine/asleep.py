"""What a control plane that is stopped would say, from its database: here, or on the host that it lives on. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from falplan.core.errors import FalplanError
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine.project import Project
from falplan.engine.reaching import Where, there_of


def unfinished(project: Project, state: State) -> JsonObject:
    """Queued requests that have not ended, by endpoint, as GET /unfinished gives them. Empty where nobody can tell."""
    from falplan.stores.runtime.asleep import unfinished_in

    found: JsonObject = _told(project, state, "unfinished", [], lambda database: dict(unfinished_in(database)))
    return found


def secrets(project: Project, state: State) -> dict[str, JsonObject]:
    """Address -> {"version"} of the secrets that it keeps: apply starts it again, and it has their values then."""
    from falplan.stores.runtime.asleep import secrets_in

    found: dict[str, JsonObject] = _told(project, state, "secrets", [], secrets_in)
    return found


def known_operations(project: Project, state: State, ids: list[str]) -> list[str]:
    """Those of the ids that an operation has."""
    from falplan.stores.runtime.asleep import known_operations_in

    return list(_told(project, state, "operations", ids, lambda database: known_operations_in(database, ids)))


def _told(project: Project, state: State, what: str, ids: list[str], here: Callable[[Path], Any]) -> Any:
    place = project.where(state)
    if place is Where.HERE:
        return here(project.home(state.lineage).database)
    if place is Where.HOST:
        try:
            there = there_of(project.spec, state, project.ways)
            return there.asleep(ids)[what] if there is not None else {}
        except FalplanError:
            pass  # it can't be reached now: nothing is decided by what nobody knows
    return {}
