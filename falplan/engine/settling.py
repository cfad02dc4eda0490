"""After everything was told anew to a control plane with an older database: what nobody wants is ended."""

from __future__ import annotations

from falplan.core.errors import FalplanError
from falplan.core.plan import Presence
from falplan.core.resources import GATEWAY
from falplan.core.state import State
from falplan.engine.planning import Planned
from falplan.engine.project import Project
from falplan.sdk.failpoints import fp


def settle(project: Project, planned: Planned, state: State) -> list[str]:
    """Tell the control plane that it knows everything again. Returns the ids of runners that it ended; may be called again.

    Raises:
        FalplanError: it did not answer; the next apply tells it again.
    """
    seen = planned.observed.seen.get(GATEWAY)
    if seen is None or seen.presence is not Presence.ROLLED_BACK:
        return []
    reached = project.reach(state)
    if reached.client is None:
        raise FalplanError("The control plane does not answer", reached.because)
    fp("apply.settle.before_call")
    ended: list[str] = reached.client.send("POST", "/settled")["ended"]
    return ended
