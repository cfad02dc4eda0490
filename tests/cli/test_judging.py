"""What judges a plan, seen from outside: exit codes, streams and JSON. Nothing is applied here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .test_commands import falplan

HEAD = "version: 1\nproject: demo\nregions: {here: {provider: local, price_per_hour: {XS: 0.1}}}\n"
APPS = "apps: {web: {command: serve, files: [a.py], min_concurrency: 1}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (project / "a.py").write_text("")
    return project


@pytest.mark.parametrize(
    ("more", "summary", "line"),
    [
        (
            "policies: {open: {rule: required_tags, parameters: {tags: [team]}}}\n",
            "Refused by a policy",
            'falplan.yaml:4:8: policy "open" (required_tags): app.main.web has no tag "team"',
        ),
        (
            "checks: {cheap: {assert: '{{ cost.min < 0.05 }}', error: 'It costs {{ cost.min }}.'}}\n",
            "Refused by a check",
            'falplan.yaml:5:10: check "cheap": It costs 0.1.',
        ),
        (
            "budget_per_hour: 0.09\n",
            "Refused by a budget",
            "falplan.yaml:5:1: the budget of the project is $0.09 an hour, and min_concurrency alone costs $0.10",
        ),
        (
            "budget_per_hour: 0.09\npolicies: {own: {deny: '{{ true }}', environments: [main]}}\n",
            "Refused by a budget and a policy",
            'falplan.yaml:4:8: policy "own": app.main.web is not allowed',
        ),
    ],
)
def test_a_refused_plan_is_shown_whole_and_exits_6(more: str, summary: str, line: str, folder: Path) -> None:
    """Seen red with `judgement.check()` left out of plan, and out of apply, which then began."""
    (folder / "falplan.yaml").write_text(HEAD + APPS + more)
    ran = falplan(folder, "plan")

    assert ran.returncode == 6
    assert "Plan: 2 to add, 0 to change, 0 to destroy." in ran.stdout
    assert f"Refused: {line}" in ran.stdout
    assert ran.stderr.startswith(f"Error: {summary}\n")
    assert line in ran.stderr
    applied = falplan(folder, "apply", "--auto-approve")
    assert (applied.returncode, (folder / ".falplan/state.json").exists()) == (6, False)
    assert applied.stderr.startswith(f"Error: {summary}\n")


def test_warnings_are_told_and_leave_the_exit_code_alone(folder: Path) -> None:
    checks = "checks: {never: {assert: '{{ 1 > 2 }}', error: so it is, severity: warning}}\n"
    (folder / "falplan.yaml").write_text(HEAD + APPS + checks + "budget_per_hour: 0.15\n")
    ran = falplan(folder, "plan", "--detailed-exitcode")

    assert (ran.returncode, ran.stderr) == (2, "")
    assert 'Warning: falplan.yaml:5:10: check "never": so it is' in ran.stdout
    assert "Warning: falplan.yaml:6:1: the budget of the project is $0.15 an hour" in ran.stdout


def test_json_has_costs_placement_outputs_and_findings_even_when_refused(folder: Path) -> None:
    outputs = "outputs: {url: {value: '{{ apps.main.web.url }}'}, key: {value: '{{ 42 * 1001 }}', sensitive: true}}\n"
    (folder / "falplan.yaml").write_text(
        HEAD + APPS + outputs + "policies: {no: {deny: '{{ change.type == \"app\" }}'}}\n"
    )
    ran = falplan(folder, "plan", "--json")
    body = json.loads(ran.stdout)
    own = body["falplan"]

    assert ran.returncode == 6
    assert own["cost"]["after"] == {"min": "0.1", "max": "0.2", "unpriced": []}
    assert own["cost"]["environments"]["main"]["before"]["max"] == "0"
    assert [r["address"] for m in own["placement"]["machines"] for r in m["runners"]] == ["app.main.web"]
    assert own["findings"]["list"][0]["position"] == {"file": "falplan.yaml", "line": 4, "column": 8}
    assert body["output_changes"]["url"]["after_unknown"] is True
    assert body["output_changes"]["key"]["after"] is None
    assert "42042" not in ran.stdout


def test_a_misspelt_name_in_a_check_is_met_before_anything_else(folder: Path) -> None:
    (folder / "falplan.yaml").write_text(HEAD + APPS + "checks: {a: {assert: '{{ cost.mix > 1 }}', error: no}}\n")
    ran = falplan(folder, "plan")

    assert (ran.returncode, ran.stdout) == (3, "")
    assert 'falplan.yaml:5:31: error[SPEC029]: cost has no "mix"' in ran.stderr
    assert 'did you mean "min"?' in ran.stderr
