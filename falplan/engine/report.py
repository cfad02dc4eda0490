"""What was planned, as what is shown of it."""

from __future__ import annotations

from falplan.core.report import Report
from falplan.engine.planning import Planned


def report_of(planned: Planned) -> Report:
    """The plan with what follows from it."""
    return Report(planned.plan, planned.follow, planned.no_place)
