"""Whether a plan's text, JSON and exit code say the same."""

from __future__ import annotations

import re
from typing import Any, cast

from falplan.cli.plan import exit_code_of
from falplan.core.errors import ExitCode
from falplan.core.plan import Plan
from falplan.core.plan_json import report_to_json
from falplan.core.report import Report
from falplan.core.state import State
from falplan.views.plan import render_plan

COUNTS = re.compile(r"(\d+) to add, (\d+) to change, (\d+) to destroy")


def check_views_agree(plan: Plan, state: State) -> None:
    """Assert that whoever reads the one learns what whoever reads another one does."""
    text, code = render_plan(Report(plan)), exit_code_of(plan)
    body = cast("dict[str, Any]", report_to_json(Report(plan), prior=state))
    actions = [a for c in body["resource_changes"] for a in c["change"]["actions"]]
    counts = tuple(actions.count(a) for a in ("create", "update", "delete"))
    found = COUNTS.search(text)

    assert (code is ExitCode.FAILED) is (not body["complete"])
    assert not (code is ExitCode.DONE and (body["applyable"] or sum(counts)))
    assert (code is ExitCode.DIFFERENCE) is (body["complete"] and body["applyable"])
    assert counts == (tuple(map(int, found.groups())) if found else (0, 0, 0)), (counts, text)
    assert ("No changes" in text) <= (code is not ExitCode.DIFFERENCE)
    for change in body["resource_changes"]:
        assert (change["change"]["actions"] == ["no-op"]) or change["address"] in text
