"""Which destructions a plan must not carry out, because what they destroy is protected. Asks nobody."""

from __future__ import annotations

from falplan.core.findings import Finding, Source
from falplan.core.plan import GONE_FROM_SPEC, Action, Change, Plan
from falplan.core.resources import GATEWAY, ResourceType, environment_of

DESTROYING = {Action.DELETE: "destroyed", Action.REPLACE: "replaced", Action.REPLACE_CREATE_FIRST: "replaced"}


def protected_destroys(plan: Plan) -> list[Finding]:
    """One refusal for each protected resource that the plan destroys or replaces, with the change that leads to it."""
    return [
        _finding(change, DESTROYING[change.action])
        for _, change in sorted(plan.changes.items())
        if change.protected and change.action in DESTROYING
    ]


def _finding(change: Change, becomes: str) -> Finding:
    because = _cause(change)
    return Finding(
        Source.PROTECTION,
        change.address,
        f"{change.address} is protected and would be {becomes}: {because}",
        refuses=True,
        address=change.address,
        position=change.position,
        detail=(_way_out(change),),
    )


def _cause(change: Change) -> str:
    forcing = [a for a in change.attributes if a.forces_replacement]
    if change.action is Action.DELETE or not forcing:
        return change.because
    return "; ".join(f"{'.'.join(a.path)} changes from {a.before} to {a.after}" for a in forcing)


def _way_out(change: Change) -> str:
    gone = change.action is Action.DELETE and change.because == GONE_FROM_SPEC
    where = _where(change)
    if gone:
        return f"Put it back with `protect: false` {where}, run `falplan apply`, then remove it."
    then = "destroy it" if change.action is Action.DELETE else "make this change"
    return f"Set `protect: false` {where}, run `falplan apply`, then {then}."


def _where(change: Change) -> str:
    environment = environment_of(change.address)
    if change.address == GATEWAY:
        return "under `gateway`"
    if change.type is ResourceType.APP:
        name = change.address.rpartition(".")[2]
        return f"in the app {name}, or under environments.{environment}.apps.{name}"
    return f"under environments.{environment}"
