"""Drift as text for people, Markdown for issues, and JSON. Decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from falplan.core.diff import ABSENT, Absent
from falplan.core.drift import Findings, drifted, overridden
from falplan.core.plan import Drift
from falplan.core.values import Json, JsonObject
from falplan.views.orphans import render_orphans
from falplan.views.plan_changes import drift_lines
from falplan.views.plan_markdown import code, drift_entry, prose
from falplan.views.plan_words import drift_by_cause
from falplan.views.screen import Line, Screen, Span, elide

FORMAT_VERSION = "1.0"


@dataclass(frozen=True, slots=True)
class DriftReport:
    """All that a look for drift brought. `at` is RFC 3339 in UTC, `now` the same in seconds since 1970.

    `doubt` says why the look itself is to be doubted; empty as a rule.
    """

    project: str
    lineage: str
    serial: int
    at: str
    now: float
    checked: int
    findings: Findings
    orphans: Sequence[Any] = ()
    environment: str = ""
    doubt: str = ""

    @property
    def ignored(self) -> int:
        """How many that differ are ignored by a rule."""
        return len(self.findings.drift) - len(self.findings.alarming)

    @property
    def in_sync(self) -> bool:
        """Whether nothing differs, as far as it could be looked at."""
        return not self.findings.alarming and not self.orphans

    @property
    def summary(self) -> str:
        differing, set_so = drifted(self.findings.alarming), overridden(self.findings.alarming)
        parts = [f"{len(differing)} drifted", f"{len(self.findings.unknown)} unknown"]
        parts[1:1] = [f"{len(set_so)} overridden"] if set_so else []
        parts += [f"{self.ignored} ignored"] if self.ignored else []
        parts += [f"{len(self.orphans)} orphaned runners"] if self.orphans else []
        where = f"environment {self.environment} of {self.project}" if self.environment else self.project
        return f"Drift of {where}, {self.checked} resources as of serial {self.serial}: {', '.join(parts)}."


def drift_text(report: DriftReport, screen: Screen) -> str:
    """For a terminal."""
    return "\n".join([report.summary, *screen.render(_lines(report, screen)), *_orphans(report)]).rstrip() + "\n"


def _lines(report: DriftReport, screen: Screen) -> Iterator[Line]:
    blank = Line(0, ())
    if report.doubt:
        yield _said(f"Warning: {report.doubt}", screen)
    if report.in_sync and not report.findings.unknown:
        yield _said(
            f"What is there is as it was applied{', but for what rules ignore' if report.ignored else ''}.", screen
        )
    for title, found in drift_by_cause(report.findings.drift.values()):
        yield from (blank, _said(f"{title}:", screen))
        for drift in found:
            yield blank
            yield from drift_lines(drift, screen)
    yield blank
    for address, because in sorted(report.findings.unknown.items()):
        yield _said(f"{address} is unknown: {because}", screen, indent=2, mark="?")
    if report.findings.unknown and report.findings.alarming:
        yield blank
    if report.findings.alarming:
        yield _said(NEXT, screen)


NEXT = "`falplan plan` shows what apply would do about it; `falplan apply --refresh-only` records it as it is."


def _said(text: str, screen: Screen, *, indent: int = 0, mark: str = "") -> Line:
    return Line(indent, (Span(screen.escape(text)),), mark)


def _orphans(report: DriftReport) -> list[str]:
    return [render_orphans(report.orphans, now=report.now)] if report.orphans else []


def drift_markdown(report: DriftReport) -> str:
    """For the body of an issue: what differs first."""
    ok = report.in_sync and not report.findings.unknown
    lines = [f"### {'✅' if ok else '⚠️'} {prose(report.summary)}", ""]
    lines += [f"**Warning:** {prose(report.doubt)}", ""] if report.doubt else []
    for title, found in drift_by_cause(report.findings.drift.values()):
        lines += [f"**{title}**", "", *(line for drift in found for line in _entry(drift)), ""]
    lines += [f"- {code(a)} is unknown: {prose(because)}" for a, because in sorted(report.findings.unknown.items())]
    lines += [f"- runner {code(o['runner_id'])} is known to nobody" for o in report.orphans]
    return "\n".join([*lines, "", f"Checked at {report.at}."]) + "\n"


def _entry(drift: Drift) -> Iterator[str]:
    yield drift_entry(drift)
    for a in drift.attributes:
        short = DIGEST if a.path[:1] == ("files",) else LONGEST
        yield f"  - {code('.'.join(a.path))}: {code(_side(a.before, short))} → {code(_side(a.after, short))}"


def _side(value: Json | Absent, longest: int) -> str:
    return "(none)" if value is ABSENT else elide(json.dumps(value, ensure_ascii=False), longest)


LONGEST, DIGEST = 200, 16
"""Columns of a value in Markdown, and of the digest of a file."""


def drift_json(report: DriftReport, exit_code: int) -> JsonObject:
    """For programs."""
    return {
        "format_version": FORMAT_VERSION,
        "project": report.project,
        "environment": report.environment or None,
        "lineage": report.lineage,
        "serial": report.serial,
        "checked_at": report.at,
        "checked": report.checked,
        "in_sync": report.in_sync and not report.findings.unknown,
        "exit_code": exit_code,
        **({"doubt": report.doubt} if report.doubt else {}),
        "drift": [_drift_json(d) for _, d in sorted(report.findings.drift.items())],
        "unknown": dict(sorted(report.findings.unknown.items())),
        "orphans": list(report.orphans),
    }


def _drift_json(drift: Drift) -> JsonObject:
    return {
        "address": drift.address,
        "type": drift.type.value,
        "presence": drift.presence.value,
        "because": drift.because,
        "since": drift.since or None,
        "by": drift.by or None,
        "ignored": drift.ignored or None,
        "attributes": [
            {
                "path": list(a.path),
                **({} if a.before is ABSENT else {"recorded": a.before}),
                **({} if a.after is ABSENT else {"seen": a.after}),
                "because": a.because,
                "override": a.override,
            }
            for a in drift.attributes
        ],
    }
