"""What was planned, as what is shown of it."""

from __future__ import annotations

from falplan.core.plan import Action
from falplan.core.provided import Concrete
from falplan.core.report import Report, Section
from falplan.core.resources import PROVIDED
from falplan.core.terraform_values import concrete_section
from falplan.engine.planning import Planned


def report_of(planned: Planned, sections: tuple[Section, ...] = ()) -> Report:
    """The plan with what follows from it, and what it is judged by."""
    found = _concrete(planned)
    more = (concrete_section(found),) if found else ()
    return Report(planned.plan, planned.follow, planned.no_place, (*sections, *more))


def _concrete(planned: Planned) -> dict[str, Concrete]:
    """What resources of providers come to that are there after the plan, by address."""
    found = {}
    for address, change in planned.plan.changes.items():
        if change.type not in PROVIDED or change.action in (Action.DELETE, Action.FORGET):
            continue
        try:
            concrete = planned.observed.provided.declared(address).concrete
        except KeyError:
            continue  # the spec does not have it: it stays as it is
        if concrete is not None:
            found[address] = concrete
    return found
