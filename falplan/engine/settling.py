"""After everything was told anew to a control plane with an older database: what nobody wants is ended."""

from __future__ import annotations

from dataclasses import dataclass

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.plan import Presence
from falplan.core.resources import GATEWAY
from falplan.core.state import State
from falplan.engine.planning import Planned, plan_apply
from falplan.engine.project import Project


@dataclass(frozen=True, slots=True)
class Settled:
    """Runners that were ended, by id. `again`: the control plane lacks something that was applied; another plan shows what."""

    ended: tuple[str, ...] = ()
    again: bool = False


def settle(project: Project, planned: Planned, state: State) -> Settled:
    """Tell the control plane that it knows everything again, if that is so. May be called again.

    One that was only started by this apply may turn out to be older than what acted here.

    Raises:
        FalplanError: it did not answer; the next apply tells it again.
    """
    seen = planned.observed.seen.get(GATEWAY)
    if seen is None or seen.presence not in (Presence.ROLLED_BACK, Presence.STOPPED):
        return Settled()
    reached = project.reach(state)
    if reached.client is None or reached.status is None:
        raise FalplanError("The control plane does not answer", reached.because)
    if not reached.status["rolled_back"]:
        return Settled()
    again = plan_apply(project, state)
    if not set(again.plan.after) <= {GATEWAY}:
        # Part of the plan was left out, or the control plane that was started is older than was known: what it lacks may run.
        return Settled(again=seen.presence is Presence.STOPPED)
    if seen.presence is Presence.STOPPED and again.observed.orphans:
        return Settled(again=True)
    return Settled(tuple(reached.client.send_again("POST", "/settled", operation=clock.new_uuid())["ended"]))
