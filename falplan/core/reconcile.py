"""What the controller does next for one app: launch, drain, stop. Pure: runners, demand and time come in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from falplan.core.rollout import Phase, Rollout, Strategy
from falplan.core.runtime import Demand, RunnerState
from falplan.core.scaling import IdleRunner, Scaling, decide_scale, surplus

STARTING = frozenset({RunnerState.PENDING, RunnerState.SETUP})
READY = frozenset({RunnerState.IDLE, RunnerState.RUNNING})
UP = STARTING | READY


@dataclass(frozen=True, slots=True)
class RunnerView:
    """A runner as decisions need it. Times in seconds since the epoch."""

    runner_id: str
    revision: str
    state: RunnerState
    created_at: float
    ready_at: float | None = None


@dataclass(frozen=True, slots=True)
class AppView:
    """An app as decisions need it.

    `revision` is what the alias points to, None before the first rollout is done or while the app is being deleted.
    `launch_after` is the end of the crash back-off in seconds since the epoch. `replacing` holds runners that stop once another
    one is ready in their place.
    """

    endpoint: str
    revision: str | None
    scaling: Scaling
    rollout: Rollout | None = None
    launch_after: float = 0
    replacing: frozenset[str] = frozenset()


class Verb(StrEnum):
    """What is done with a runner."""

    LAUNCH = "launch"
    DRAIN = "drain"  #: no new requests; stopped when it has none


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, and why. `runner_id` is empty for a launch."""

    verb: Verb
    revision: str
    because: str
    runner_id: str = ""


def reconcile(app: AppView, runners: Sequence[RunnerView], demand: Demand, *, now: float) -> list[Step]:
    """The steps that bring the runners of one app nearer to what it needs. The same input gives the same steps."""
    # While it is prepared, too: runners of it may have been taken over.
    coming = app.rollout.revision if app.rollout and app.rollout.phase in (Phase.PREPARING, Phase.VERIFYING) else None
    # Drains come first: a launch in the same look may need the room that they will leave.
    steps = _drain_other_revisions(app, runners, keep={app.revision, coming})
    steps += _verify(app, runners)
    if app.revision is not None:
        current = [r for r in runners if r.revision == app.revision and r.state in UP]
        steps += _scale(app, current, demand, now=now)
    return steps


def _verify(app: AppView, runners: Iterable[RunnerView]) -> list[Step]:
    rollout = app.rollout
    if rollout is None or rollout.phase is not Phase.VERIFYING or rollout.strategy is Strategy.RECREATE:
        return []
    if rollout.runner_id is not None or any(r.revision == rollout.revision and r.state in UP for r in runners):
        return []
    return [Step(Verb.LAUNCH, rollout.revision, "verifies the new revision before traffic moves")]


def _drain_other_revisions(app: AppView, runners: Iterable[RunnerView], keep: set[str | None]) -> list[Step]:
    because = f"revision {app.revision} serves now" if app.revision else "the app is being removed"
    return [
        Step(Verb.DRAIN, r.revision, because, r.runner_id) for r in runners if r.revision not in keep and r.state in UP
    ]


def _scale(app: AppView, current: Sequence[RunnerView], demand: Demand, *, now: float) -> list[Step]:
    assert app.revision is not None  # noqa: S101 - the caller looked
    ids = {r.runner_id for r in current}
    own = Demand(demand.endpoint, demand.waiting, {k: v for k, v in demand.in_flight.items() if k in ids})
    decision = decide_scale(app.scaling, own)
    staying = [r for r in current if r.runner_id not in app.replacing]
    steps = _replace(app, current, staying, decision.desired)
    current = staying
    missing = decision.desired - len(current)
    if missing > 0:
        if now < app.launch_after:
            return steps
        return steps + [Step(Verb.LAUNCH, app.revision, decision.because) for _ in range(missing)]
    idle = [
        IdleRunner(r.runner_id, demand.idle_for.get(r.runner_id, now - r.ready_at))
        for r in current
        if r.state in READY and r.ready_at is not None and not demand.in_flight.get(r.runner_id)
    ]
    stops = surplus(app.scaling, decision, len(current), idle)
    over = len(current) - app.scaling.max_concurrency - len(stops)
    if over > 0:
        stops += _busy_surplus(app, current, {s[0] for s in stops}, over)
    return steps + [Step(Verb.DRAIN, app.revision, why, runner_id) for runner_id, why in stops]


def _replace(app: AppView, current: Sequence[RunnerView], staying: Sequence[RunnerView], desired: int) -> list[Step]:
    """Runners to be replaced drain once enough others are ready; until then they don't count."""
    if sum(r.state in READY for r in staying) < desired:
        return []
    because = "another runner took its place" if desired else "it was to be replaced, and nothing needs a runner"
    return [Step(Verb.DRAIN, r.revision, because, r.runner_id) for r in current if r.runner_id in app.replacing]


def _busy_surplus(app: AppView, current: Sequence[RunnerView], chosen: set[str], count: int) -> list[tuple[str, str]]:
    """max_concurrency was lowered below what runs: starting runners go first, then the youngest."""
    rest = [r for r in current if r.runner_id not in chosen]
    rest.sort(key=lambda r: (r.state in READY, -r.created_at, r.runner_id))
    return [(r.runner_id, f"max_concurrency is {app.scaling.max_concurrency}") for r in rest[:count]]
