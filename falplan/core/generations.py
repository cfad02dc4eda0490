"""What an old copy of the state does not know, and the control plane does: operations that were done since, and apps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import cast

from falplan.core.plan import Plan
from falplan.core.resources import GATEWAY, ResourceType
from falplan.core.state import Recorded, State, operation_id
from falplan.core.values import JsonObject

AHEAD = 16
"""How many generations of each address are asked for at once."""


def candidates(plan: Plan) -> dict[str, list[str]]:
    """address -> operation ids of the planned generation and of those after it."""
    return {
        address: [operation_id(plan.lineage, address, change.generation + n) for n in range(AHEAD)]
        for address, change in plan.changes.items()
        if change.operation
    }


def refresh(plan: Plan, state: State, known: Collection[str]) -> Plan:
    """The same plan, with generations later than any that is known; `known` are those of `candidates` that have an operation.

    An operation that was begun keeps its id, so that it is finished and not done twice, unless a later one was begun since.
    """
    changes = dict(plan.changes)
    for address, ids in candidates(plan).items():
        change, recorded = changes[address], state.resources.get(address)
        begun = recorded is not None and recorded.intent is not None and recorded.intent.generation == change.generation
        used = [n for n, operation in enumerate(ids) if operation in known and (n > 0 or not begun)]
        if used:
            generation = change.generation + used[-1] + 1
            operation = operation_id(plan.lineage, address, generation)
            changes[address] = replace(change, generation=generation, operation=operation)
    return replace(plan, changes=changes)


def with_live_apps(state: State, rows: Mapping[str, JsonObject]) -> State:
    """State with the apps that only the control plane knows: an old copy of it was saved before they were applied.

    `rows` are those of GET /world, by address.
    """
    found = {
        address: Recorded(
            address,
            ResourceType.APP.value,
            cast("JsonObject", row["inputs"]),
            {"endpoint": row["endpoint"], "revision": row["revision"]},
            (GATEWAY,),
            state.generation(address),
            protected=cast("JsonObject", row["inputs"]).get("protect") is True,
        )
        for address, row in rows.items()
        if address not in state.resources
        and address not in state.forgotten
        and row["revision"] is not None
        and not row["deleting"]
    }
    return replace(state, resources={**state.resources, **found}) if found else state
