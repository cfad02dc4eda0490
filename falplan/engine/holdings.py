"""The machines that regions of the spec have bought, for a plan: as the control plane tells of them, or as their provider shows them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.holdings import holdings_section, unknown_section
from falplan.core.report import Section
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.tenure import Stage
from falplan.engine.observe import Observed
from falplan.engine.shopping import sellers
from falplan.sdk.launches import bought_to_json


def look_for(spec: ResolvedSpec, lineage: str) -> dict[str, tuple[Any, ...]]:
    """What carries the project's mark in the regions of the spec and costs money, by region. A region that can't be asked shows nothing:
    the plan tells that where it asks it for something."""
    found = sellers(spec)
    if not found:
        return {}

    def look(name: str) -> tuple[Any, ...]:
        try:
            seen = found[name].look(lineage)
        except FalplanError:
            return ()
        return tuple(bought_to_json(name, one) for one in seen if one.stage not in (Stage.ENDING, Stage.GONE))

    with ThreadPoolExecutor(8, thread_name_prefix="look") as pool:
        return dict(zip(found, pool.map(look, found), strict=True))


def held(observed: Observed) -> Section:
    """What a plan says of them; without rows where there are none."""
    if observed.client is not None:
        return holdings_section({"machines": observed.fleet, **observed.around}, now=clock.now())
    because = observed.unreachable and f"The control plane tells nothing: {observed.unreachable}"
    return unknown_section(observed.shown_bought, because, now=clock.now())
