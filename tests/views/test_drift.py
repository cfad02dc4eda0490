"""A look for drift as text, Markdown and JSON, compared with golden files. `GOLDEN=write pytest tests/views` writes them anew."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from falplan.cli.drift import exit_code_of
from falplan.core.drift import Findings
from falplan.views.drift import DriftReport, drift_json, drift_markdown, drift_text
from falplan.views.screen import Screen
from tests.core.builders import LINEAGE
from tests.views.golden import check_golden
from tests.views.plans import DRIFTED

NOW = 1750000000.0
UNKNOWN = {"host.lab.a": "region lab does not answer: no route"}


def looked(findings: Findings, **more: object) -> DriftReport:
    return DriftReport("demo", LINEAGE, 4, "2025-06-15T15:06:40Z", NOW, 9, findings, **more)  # type: ignore[arg-type]


CASES = {
    "in_sync": looked(Findings()),
    "drifted": looked(Findings(DRIFTED)),
    "ignored": looked(Findings({"app.main.loud": DRIFTED["app.main.loud"]})),
    "unknown": looked(Findings({}, UNKNOWN)),
    "both": looked(Findings(DRIFTED, UNKNOWN), environment="main", doubt="9 of 12 apps are said to be gone"),
}
FORMATS: dict[str, Callable[[DriftReport], str]] = {
    "human.txt": lambda r: drift_text(r, Screen(100)),
    "issue.md": drift_markdown,
    "drift.json": lambda r: json.dumps(drift_json(r, exit_code_of(r, allow_unknown=False)), indent=1) + "\n",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", CASES)
def test_a_look_in_a_format(name: str, form: str) -> None:
    check_golden(FORMATS[form](CASES[name]), f"drift/{name}/{form}")


@pytest.mark.parametrize(
    ("name", "code", "allowed"),
    [("in_sync", 0, 0), ("drifted", 2, 2), ("ignored", 0, 0), ("unknown", 1, 0), ("both", 2, 2)],
)
def test_text_json_and_exit_code_agree(name: str, code: int, allowed: int) -> None:
    """Seen red with `in_sync` for a look that could not see everything."""
    report = CASES[name]
    body = drift_json(report, code)

    assert exit_code_of(report, allow_unknown=False) == code
    assert exit_code_of(report, allow_unknown=True) == allowed
    assert body["in_sync"] is (code == 0)
    assert ("What is there is as it was applied" in drift_text(report, Screen())) is (code == 0)
    assert drift_markdown(report).startswith("### ✅") is (code == 0)
