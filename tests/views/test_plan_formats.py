"""Every kind of plan in every format, compared with golden files. `GOLDEN=write pytest tests/views` writes them anew; review the diff."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from falplan import __version__
from falplan.cli.plan import exit_code_of
from falplan.core.errors import ExitCode
from falplan.core.plan import Action, Plan
from falplan.core.plan_json import render_plan_json
from falplan.core.report import Report
from falplan.views.plan import render_plan
from falplan.views.plan_markdown import render_plan_markdown
from falplan.views.plan_tree import render_plan_tree
from falplan.views.plan_words import acting
from falplan.views.screen import Screen, escape
from tests.views.golden import GOLDEN, check_golden
from tests.views.plans import CASES, PRIOR, REPORTS, change, plan

PLANS = GOLDEN / "plans"


def _json(report: Report) -> str:
    """Indented, and without this release's own number: as people review it."""
    line = render_plan_json(report, prior=PRIOR, timestamp="2025-06-15T14:26:40Z")
    return json.dumps(json.loads(line), indent=1, ensure_ascii=False).replace(f'"{__version__}"', '"VERSION"') + "\n"


FORMATS: dict[str, Callable[[Report], str]] = {
    "human.txt": lambda r: render_plan(r, Screen(100)),
    "narrow.txt": lambda r: render_plan(r, Screen(40, encoding="ascii")),
    "color.txt": lambda r: render_plan(r, Screen(100, color=True)).replace("\x1b", "<ESC>"),
    "tree.txt": lambda r: render_plan_tree(r, Screen(100)),
    "comment.md": render_plan_markdown,
    "plan.json": _json,
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", CASES)
def test_a_plan_in_a_format(name: str, form: str) -> None:
    check_golden(FORMATS[form](CASES[name]), f"plans/{name}/{form}")


def test_no_golden_file_is_of_a_plan_that_is_gone() -> None:
    assert {p.name for p in PLANS.iterdir()} == set(CASES)
    assert {p.name for folder in PLANS.iterdir() for p in folder.iterdir()} == set(FORMATS)


def test_every_action_has_a_plan_here() -> None:
    assert {c.action for r in CASES.values() for c in r.plan.changes.values()} == set(Action)


def _json_acts(body: dict[str, Any]) -> bool:
    """Whether a plan's JSON asks for anything, as a program finds out that knows Terraform's keys."""
    recorded = body["falplan"]["refresh_only"] and body["resource_drift"]
    changes = body["resource_changes"]
    return bool(recorded) or any(
        c["change"]["actions"] != ["no-op"] or "previous_address" in c or "importing" in c["change"] for c in changes
    )


def agree(report: Report) -> None:
    """Text says none, exit code 0 and JSON without a change: all of them, or none."""
    texts = [render_plan(report), render_plan_tree(report), render_plan_markdown(report).lstrip("⚠ *")]
    body = json.loads(render_plan_json(report))
    nothing = [t.startswith("No changes") for t in texts]
    code = exit_code_of(report.plan)

    assert nothing == [not _json_acts(body)] * 3
    assert (code == ExitCode.DONE) == (nothing[0] and not report.plan.unknown)
    assert not body["applyable"] or code != ExitCode.DONE
    assert all(t.splitlines()[0].lstrip("⚠ *").startswith(("Plan: ", "No changes")) for t in texts)


@pytest.mark.parametrize("name", CASES)
def test_text_json_and_exit_code_agree(name: str) -> None:
    """Seen red with `is_empty` that forgot moves, and with a headline that looked at the actions alone."""
    agree(CASES[name])


@given(REPORTS)
def test_text_json_and_exit_code_agree_about_any_plan(report: Report) -> None:
    agree(report)


@given(REPORTS)
def test_every_change_is_told_in_every_format(report: Report) -> None:
    """Seen red with a tree that left out what is only moved."""
    told = [
        render_plan(report, Screen(columns=None)),
        render_plan_tree(report, Screen(columns=None)),
        render_plan_markdown(report),
        render_plan_json(report),
    ]

    for found in acting(report.plan):
        assert all(escape(found.address) in text for text in told)


def test_what_destroys_is_told_first() -> None:
    lines = render_plan(CASES["several"]).splitlines()
    order = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]

    assert order == ["-", "-/+", "~", "~", "~", "+", "+"]


def many(count: int) -> Plan:
    return plan(*(change(Action.CREATE, f"app.main.app-{n:05}", "it is new in the spec") for n in range(count)))


def test_the_tree_of_a_thousand_resources_has_a_line_for_each() -> None:
    lines = render_plan_tree(Report(many(1000)), Screen(80)).splitlines()

    assert sum("+ app.main.app-" in line for line in lines) == 1000
    assert len(lines) < 2010
