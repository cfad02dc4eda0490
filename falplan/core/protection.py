"""Which destructions a plan must not carry out, because what they destroy is protected. Asks nobody."""

from __future__ import annotations

from collections.abc import Collection

from falplan.core.compare import GONE_FROM_SPEC
from falplan.core.findings import Finding, Source
from falplan.core.plan import Action, Change, Plan
from falplan.core.resources import GATEWAY, PROVIDED, ResourceType, environment_of

DESTROYING = {Action.DELETE: "destroyed", Action.REPLACE: "replaced", Action.REPLACE_CREATE_FIRST: "replaced"}


def protected_destroys(plan: Plan, environments: Collection[str] | None = None) -> list[Finding]:
    """One refusal for each protected resource that the plan destroys or replaces, with the change that leads to it.

    `environments` are those that the spec has, where that is to be told.
    """
    return [
        _finding(change, DESTROYING[change.action], environments)
        for _, change in sorted(plan.changes.items())
        if change.protected and change.action in DESTROYING
    ]


def _finding(change: Change, becomes: str, environments: Collection[str] | None) -> Finding:
    environment = environment_of(change.address)
    left = environments is not None and environment is not None and environment not in environments
    because = f"environment {environment} is no longer in the spec" if left else _cause(change)
    return Finding(
        Source.PROTECTION,
        change.address,
        f"{change.address} is protected and would be {becomes}: {because}",
        refuses=True,
        address=change.address,
        position=change.position,
        detail=(_way_out(change, "the environment" if left else "it"),),
    )


def _cause(change: Change) -> str:
    forcing = [a for a in change.attributes if a.forces_replacement]
    if change.action is Action.DELETE or not forcing:
        return change.because
    return "; ".join(f"{'.'.join(a.path)} changes from {a.before} to {a.after}" for a in forcing)


def _way_out(change: Change, lost: str) -> str:
    gone = change.action is Action.DELETE and change.because == GONE_FROM_SPEC
    where = _where(change)
    if gone:
        return f"Put {lost} back with `protect: false` {where}, run `falplan apply`, then remove {'it' if lost == 'it' else lost}."
    then = "destroy it" if change.action is Action.DELETE else "make this change"
    return f"Set `protect: false` {where}, run `falplan apply`, then {then}."


def _where(change: Change) -> str:
    environment = environment_of(change.address)
    if change.address == GATEWAY:
        return "under `gateway`"
    if change.type is ResourceType.APP:
        name = change.address.rpartition(".")[2]
        return f"in the app {name}, or under environments.{environment}.apps.{name}"
    if change.type in PROVIDED:
        return f"under regions.{change.address.split('.')[1]}"
    return f"under environments.{environment}"
