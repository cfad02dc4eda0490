"""A rollout as a state machine: which phase comes next, and why. Persisted by the controller, acted on by its tick."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Strategy(StrEnum):
    """How a new revision takes over."""

    ROLLING = "rolling"  #: a runner of it is healthy before the alias moves
    RECREATE = "recreate"  #: the alias moves at once


class Phase(StrEnum):
    """Where a rollout stands."""

    PREPARING = "preparing"  #: environment and bundle are put on the machine
    VERIFYING = "verifying"  #: one runner of the new revision is starting
    DONE = "done"  #: the alias points to the new revision; older runners drain
    FAILED = "failed"  #: the alias was never moved; runners of the new revision are stopped


class Event(StrEnum):
    """What can happen to a rollout."""

    PREPARED = "prepared"
    HEALTHY = "healthy"
    FAILURE = "failure"
    SUPERSEDED = "superseded"


TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.PREPARING: {
        Event.PREPARED: Phase.VERIFYING,
        Event.FAILURE: Phase.FAILED,
        Event.SUPERSEDED: Phase.FAILED,
    },
    Phase.VERIFYING: {
        Event.HEALTHY: Phase.DONE,
        Event.FAILURE: Phase.FAILED,
        Event.SUPERSEDED: Phase.FAILED,
    },
    Phase.DONE: {},
    Phase.FAILED: {},
}


@dataclass(frozen=True, slots=True)
class Rollout:
    """One move of an app's alias. `runner_id` is the runner that verifies; `before` the revision that serves until then."""

    endpoint: str
    revision: str
    before: str | None
    strategy: Strategy
    phase: Phase
    operation: str
    runner_id: str | None = None
    because: str = ""


class IllegalEvent(Exception):
    """That event can't happen in that phase. Changes nothing."""


def advance(phase: Phase, event: Event) -> Phase:
    """The next phase.

    Raises:
        IllegalEvent: for a pair that TRANSITIONS does not have.
    """
    try:
        return TRANSITIONS[phase][event]
    except KeyError:
        raise IllegalEvent(f"{event} in {phase}") from None
