"""After everything was told anew to a control plane with an older database: what nobody wants is ended."""

from __future__ import annotations

from falplan.core.errors import FalplanError
from falplan.core.plan import Presence
from falplan.core.resources import GATEWAY
from falplan.core.state import State
from falplan.engine.planning import Planned, plan_apply
from falplan.engine.project import Project
from falplan.sdk.failpoints import fp


def settle(project: Project, planned: Planned, state: State) -> list[str]:
    """Tell the control plane that it knows everything again. Returns the ids of runners that it ended; may be called again.

    One that was only started by this apply may turn out to be older than what acted here: if it lacks nothing of what was
    applied, that is settled, too; otherwise the next plan shows what it lacks.

    Raises:
        FalplanError: it did not answer; the next apply tells it again.
    """
    seen = planned.observed.seen.get(GATEWAY)
    told = seen is not None and seen.presence is Presence.ROLLED_BACK
    started = seen is not None and seen.presence is Presence.STOPPED
    if not told and not (started and _lacks_nothing(project, state)):
        return []
    reached = project.reach(state)
    if reached.client is None:
        raise FalplanError("The control plane does not answer", reached.because)
    fp("apply.settle.before_call")
    ended: list[str] = reached.client.send("POST", "/settled")["ended"]
    return ended


def _lacks_nothing(project: Project, state: State) -> bool:
    again = plan_apply(project, state)
    seen = again.observed.seen.get(GATEWAY)
    rolled_back = seen is not None and seen.presence is Presence.ROLLED_BACK
    return rolled_back and set(again.plan.after) <= {GATEWAY} and not again.observed.orphans
