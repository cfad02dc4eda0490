"""Drift as text for people, Markdown for issues, and JSON. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from falplan.core.diff import ABSENT
from falplan.core.drift import Findings
from falplan.core.plan import AttributeChange, Drift, Presence
from falplan.core.values import JsonObject
from falplan.views.orphans import render_orphans
from falplan.views.plan import attribute_lines, escape

FORMAT_VERSION = "1.0"
WORDS = {
    Presence.PRESENT: ("~", "was changed"),
    Presence.ABSENT: ("-", "is gone"),
    Presence.STOPPED: ("~", "is stopped"),
    Presence.REPLACED: ("-/+", "was replaced"),
    Presence.ROLLED_BACK: ("~", "is older than what was applied"),
}


@dataclass(frozen=True, slots=True)
class DriftReport:
    """All that a look for drift brought. `at` is RFC 3339 in UTC, `now` the same in seconds since 1970."""

    project: str
    lineage: str
    serial: int
    at: str
    now: float
    checked: int
    findings: Findings
    orphans: Sequence[Any] = ()
    environment: str = ""
    ignored: tuple[Drift, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = tuple(d for _, d in sorted(self.findings.drift.items()) if d.ignored)
        object.__setattr__(self, "ignored", found)

    @property
    def in_sync(self) -> bool:
        """Whether nothing differs, as far as it could be looked at."""
        return not self.findings.alarming and not self.orphans

    @property
    def summary(self) -> str:
        drifted, unknown = len(self.findings.alarming), len(self.findings.unknown)
        parts = [f"{drifted} drifted", f"{unknown} unknown"]
        parts += [f"{len(self.ignored)} ignored"] if self.ignored else []
        parts += [f"{len(self.orphans)} orphaned runners"] if self.orphans else []
        where = f"environment {self.environment} of {self.project}" if self.environment else self.project
        return f"Drift of {where}, {self.checked} resources as of serial {self.serial}: {', '.join(parts)}."


def drift_text(report: DriftReport, *, color: bool = False) -> str:
    """For a terminal."""
    lines = [report.summary, ""]
    if report.in_sync and not report.findings.unknown:
        lines = [report.summary, "What is there is as it was applied."]
        return "\n".join([*lines, *_ignored(report)]) + "\n"
    for drift in report.findings.alarming:
        symbol, words = WORDS[drift.presence]
        lines.append(f"  {symbol} {drift.address} {words}: {escape(drift.because)}{_who(drift)}")
        lines += attribute_lines(drift.attributes, color=color)
        lines.append("")
    for address, because in sorted(report.findings.unknown.items()):
        lines.append(f"  ? {address} is unknown: {escape(because)}")
    if report.findings.unknown:
        lines.append("")
    lines += [*_ignored(report), render_orphans(report.orphans, now=report.now).rstrip()]
    if report.findings.alarming:
        lines.append(
            "`falplan plan` shows what apply would do about it; `falplan apply --refresh-only` records it as it is."
        )
    return "\n".join(line for line in lines if line is not None).rstrip() + "\n"


def _who(drift: Drift) -> str:
    parts = [f"by {drift.by}" if drift.by else "", f"since {drift.since}" if drift.since else ""]
    told = ", ".join(p for p in parts if p)
    return f" ({escape(told)})" if told else ""


def _ignored(report: DriftReport) -> Iterable[str]:
    for drift in report.ignored:
        yield f"  . {drift.address} differs, which the spec ignores: {escape(drift.ignored)}"


def drift_markdown(report: DriftReport) -> str:
    """For the body of an issue: what differs first, details folded."""
    lines = [f"### {'✅' if report.in_sync and not report.findings.unknown else '⚠️'} {report.summary}", ""]
    for drift in report.findings.alarming:
        words = WORDS[drift.presence][1]
        lines.append(f"- `{drift.address}` {words}: {_inline(drift.because)}{_inline(_who(drift))}")
        lines += [
            f"  - {_code('.'.join(a.path))}: {_code(_side(a, before=True))} → {_code(_side(a, before=False))}"
            for a in drift.attributes
        ]
    lines += [f"- `{a}` is unknown: {_inline(because)}" for a, because in sorted(report.findings.unknown.items())]
    lines += [f"- runner `{o['runner_id']}` is known to nobody" for o in report.orphans]
    lines += [f"- `{d.address}` differs, which the spec ignores: {_inline(d.ignored)}" for d in report.ignored]
    return "\n".join([*lines, "", f"Checked at {report.at}."]) + "\n"


def _side(a: AttributeChange, *, before: bool) -> str:
    value = a.before if before else a.after
    return "(none)" if value is ABSENT else escape(str(value))


def _inline(text: str) -> str:
    """Text that can't become markup, a mention or a link."""
    return "".join(f"&#{ord(c)};" if c in "<>&@#[]()*_`|~\\!" else c for c in escape(text))


def _code(text: str) -> str:
    fence = "`"
    while fence in text:
        fence += "`"
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


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
        "in_sync": report.in_sync,
        "exit_code": exit_code,
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
            }
            for a in drift.attributes
        ],
    }
