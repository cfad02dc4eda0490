"""What was planned, as what is shown of it."""

from __future__ import annotations

from falplan.core.report import Report, Section
from falplan.engine.planning import Planned


def report_of(planned: Planned, sections: tuple[Section, ...] = ()) -> Report:
    """The plan with what follows from it, and what it is judged by."""
    return Report(planned.plan, planned.follow, planned.no_place, sections)
