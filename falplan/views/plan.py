"""A plan as text for people: summary first and last, what others changed, then what apply does, destroys before creates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from falplan.core.consequences import Consequence, Effect
from falplan.core.plan import Plan
from falplan.core.plural import count
from falplan.core.report import Report, Row, Section, Tone
from falplan.views.plan_changes import change_lines, drift_lines
from falplan.views.plan_values import padding
from falplan.views.plan_words import INCOMPLETE, acting, by_reason, drift_by_cause, headline, summary
from falplan.views.screen import Line, Screen, Span, escape, width

__all__ = ["escape", "render_plan", "summary"]

TONES = {
    Tone.PLAIN: ("", ""),
    Tone.GOOD: ("", "green"),
    Tone.WARNING: ("Warning: ", "yellow"),
    Tone.ERROR: ("Error: ", "red"),
}
"""Tone -> what a row begins with, and its colour."""

SAID = ("Warning", "Error", "Refused")
"""Rows that begin with one of these say themselves how they are meant."""

NAMED = 20
"""Addresses that are listed of those that are left out for one reason; the rest is a number."""

SOURCE_NOT_HERE = "unknown (source not here)"


def render_plan(report: Report, screen: Screen | None = None) -> str:
    """The whole plan. The same report gives the same text on the same screen."""
    screen = screen or Screen()
    plan = report.plan
    style = "green" if plan.is_empty and not plan.unknown and not plan.left_out else "bold"
    first = Line(0, (Span(headline(plan), style),))
    middle = [line for part in _parts(report, screen) for line in [*part, Line(0)]]
    lines = [first, Line(0), *middle, first] if middle else [first]
    return "".join(f"{line}\n" for line in screen.render(lines))


def _parts(report: Report, screen: Screen) -> Iterator[list[Line]]:
    """What stands between the summaries, part by part; none of them is empty."""
    plan = report.plan
    for title, differing in drift_by_cause(plan.drift.values()):
        yield [_title(f"{title}:", "yellow")]
        yield from (list(drift_lines(drift, screen)) for drift in differing)
    found = acting(plan)
    if plan.drift and found:
        yield [_title("falplan will do this:")]
    yield from (list(change_lines(c, screen)) for c in found)
    if report.follow:
        yield [_title("Runners that follow:"), *_runners(report.follow, screen)]
    yield from (list(_section(s, screen)) for s in report.sections if s.rows)
    if plan.unknown:
        yield list(_unknown(plan, screen))
    if plan.left_out:
        yield list(_left_out(plan, screen))
    if plan.hints:
        yield [Line(0, (Span(screen.escape(f"Hint: {hint}")),)) for hint in plan.hints]


def _title(text: str, style: str = "") -> Line:
    return Line(0, (Span(text, style),))


def _runners(follow: Sequence[Consequence], screen: Screen) -> Iterable[Line]:
    for c in follow:
        noun = "runner" if c.count == 1 else "runners"
        where = f" on {c.where}" if c.where else ""
        text = f"{c.address}: {c.effect.value} {c.count} {noun}{where}: {c.because}"
        yield Line(2, (Span(screen.escape(text)),), "+" if c.effect is Effect.LAUNCH else "-")


def _section(section: Section, screen: Screen) -> Iterator[Line]:
    yield _title(f"{screen.escape(section.title)}:")
    labels = [row.label for row in section.rows if row.label]
    pad = padding(screen, labels) if len(labels) == len(section.rows) else 0
    for row in section.rows:
        yield from _row(row, pad, screen)


def _row(row: Row, pad: int, screen: Screen) -> Iterator[Line]:
    prefix, style = TONES[row.tone]
    said = row.text.startswith(SAID)
    text = screen.escape(row.text)
    if pad and row.label and not prefix:
        label = screen.escape(row.label)
        text = f"{label}:{' ' * max(pad - width(label), 0)}{text.removeprefix(f'{label}:')}"
    yield Line(2, (Span(f"{'' if said else prefix}{text}", style),))
    yield from (Line(6, (Span(screen.escape(text)),)) for text in row.detail)


def _unknown(plan: Plan, screen: Screen) -> Iterator[Line]:
    for reason, addresses in by_reason(plan.unknown).items():
        if reason.startswith(SOURCE_NOT_HERE):
            yield from (Line(0, (Span(screen.escape(f"{address}: {reason}")),)) for address in addresses)
            continue
        text = f"Unknown: {count(len(addresses), 'resource')} could not be looked at: {reason}"
        yield Line(0, (Span(screen.escape(text)),))


def _left_out(plan: Plan, screen: Screen) -> Iterator[Line]:
    yield _title(f"Warning: {INCOMPLETE}:", "yellow")
    for reason, addresses in by_reason(plan.left_out).items():
        more = f", and {len(addresses) - NAMED} more" if len(addresses) > NAMED else ""
        yield Line(2, (Span(screen.escape(f"{', '.join(addresses[:NAMED])}{more}: {reason}")),))
