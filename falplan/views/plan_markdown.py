"""A plan as a comment on a pull request: summary first, one line for each change, differences folded away, never too long.

Whatever comes from a spec or from the world stands in code, where neither Markdown nor HTML nor a mention means anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from falplan.core.consequences import Effect
from falplan.core.plan import Action, Change, Drift, Plan
from falplan.core.report import Report, Row, Section, Tone
from falplan.views.plan_changes import change_lines, drift_lines
from falplan.views.plan_words import (
    INCOMPLETE,
    TITLES,
    acting,
    because,
    by_reason,
    destroyed,
    drift_by_cause,
    drift_notes,
    drift_symbol,
    drift_words,
    headline,
    symbol,
    told,
)
from falplan.views.screen import Line, Screen, elide, escape

LIMIT = 60_000
"""Bytes of UTF-8. GitHub takes 65,536 characters, and a workflow adds some of its own."""

LONGEST = 300
"""Columns of one reason, value or address."""

NAMED = 3
"""Addresses that are named of those that have one reason."""

FRAME = 120
"""Bytes around a part's entries and what is folded below them, and of a sentence about what is cut."""

PAPER = Screen(columns=None, longest=LONGEST)
DIFF = {"+": "+", "-": "-", "~": "!", "-/+": "-", "+/-": "-", "<=": "!", ".": "!"}
"""Mark -> what a diff is coloured by. It stands first in its line, so that no value does."""

TONES = {Tone.PLAIN: "", Tone.GOOD: "✅ ", Tone.WARNING: "⚠ ", Tone.ERROR: "❌ "}
PLAIN = re.compile(r"(?!\d+[.)])[A-Za-z0-9(][A-Za-z0-9 ,;:()'.=%/-]*")
"""Text that Markdown takes as it stands; `1. ` and `1) ` begin lists, in which more means something."""
LINKED = re.compile(r"//|www\.|\bgh-\d|\b[0-9a-f]{7,}\b|:\w+:", re.IGNORECASE)
FENCED = re.compile("`+")


DIFFERENCES = "Differences"
Fold = Callable[[], list[str]]


@dataclass(slots=True)
class _Part:
    """A part of the page: its title, a line for each entry, and what is folded away below them, made when there is room."""

    title: str
    entries: list[str]
    folds: Sequence[Fold] = ()
    summary: str = DIFFERENCES
    shown: int = 0
    opened: int = 0
    body: list[str] = field(default_factory=list)


def render_plan_markdown(report: Report, *, limit: int = LIMIT) -> str:
    """At most `limit` bytes of UTF-8. What is cut is said and counted; differences go first, and what is destroyed last."""
    plan = report.plan
    head = [f"{'⚠ ' if destroyed(plan) else ''}**{headline(plan)}**"]
    head += ["", f"⚠ Warning: {INCOMPLETE}."] if plan.left_out else []
    drift = [_drifted(title, found) for title, found in drift_by_cause(plan.drift.values())]
    changes = [*_changes(plan)]
    others = [*_runners(report), *map(_section, report.sections), *_notes(plan)]
    parts = [*drift, *changes, *others]
    room = limit - _size("\n".join(head)) - sum(_size(p.title) + FRAME for p in parts) - FRAME * 4
    for part in [*changes, *drift, *others]:
        room = _fill(part, room)
    for part in [*changes, *drift, *others]:
        room = _open(part, room)
    lines = [*head, *(line for p in parts for line in _printed(p)), *_cut(changes, [*drift, *others])]
    return "\n".join(lines).rstrip("\n") + "\n"


def _fill(part: _Part, room: int) -> int:
    """Show as many entries as there is room for; the room that is left."""
    while part.shown < len(part.entries) and (cost := _size(part.entries[part.shown]) + 1) <= room:
        part.shown += 1
        room -= cost
    return room


def _open(part: _Part, room: int) -> int:
    """Make what is folded below the entries that are shown, as far as there is room."""
    while part.opened < min(part.shown, len(part.folds)):
        lines = part.folds[part.opened]()
        if len(lines) == 1 and part.summary == DIFFERENCES:
            part.opened += 1  # the heading alone, which stands among the entries already
            continue
        cost = _size("\n".join(lines)) + 1
        if cost > room:
            break
        part.body += lines
        part.opened += 1
        room -= cost
    return room


def _size(text: str) -> int:
    return len(text.encode())


def _notes(plan: Plan) -> Iterator[_Part]:
    if plan.left_out:
        yield _Part("**Left out**", _listed(plan.left_out))
    if plan.unknown:
        yield _Part("**Unknown, because it could not be looked at**", _listed(plan.unknown))
    if plan.hints:
        yield _Part("**Hints**", [f"- {prose(hint)}" for hint in plan.hints])


def _listed(addresses: Mapping[str, str]) -> list[str]:
    return [
        f"- {len(names)}: {', '.join(map(code, names[:NAMED]))}{' …' if len(names) > NAMED else ''}: {prose(reason)}"
        for reason, names in by_reason(addresses).items()
    ]


def _changes(plan: Plan) -> Iterator[_Part]:
    for action, found in groupby(acting(plan), key=lambda c: c.action):
        group = list(found)
        title = f"{'⚠ ' if action.destroys else ''}**{TITLES[action]} ({len(group)})**"
        folds = [] if action in (Action.NOOP, Action.FORGET) else [partial(_change_diff, c) for c in group]
        yield _Part(title, [_entry(c) for c in group], folds)


def _change_diff(change: Change) -> list[str]:
    return _diff(change_lines(change, PAPER))


def _drift_diff(drift: Drift) -> list[str]:
    return _diff(drift_lines(drift, PAPER))


def _entry(change: Change) -> str:
    address, words = told(change)
    if change.action is Action.NOOP and not change.importing:
        return f"- {code(address)} has moved to {code(change.address)}"
    text = f"- {code(symbol(change))} {code(address)} {words}" if symbol(change) else f"- {code(address)} {words}"
    if change.importing:
        text += f" (imported from {code(change.importing)})"
    if change.previous_address:
        text += f" (moved from {code(change.previous_address)})"
    why = because(change)
    return f"{text}: {prose(why)}" if why else text


def _drifted(title: str, found: Sequence[Drift]) -> _Part:
    title = f"**{title} ({len(found)})**"
    return _Part(title, [drift_entry(d) for d in found], [partial(_drift_diff, d) for d in found])


def drift_entry(drift: Drift) -> str:
    """One line about a resource that differs."""
    why = f": {prose(drift.because)}" if drift.because else ""
    notes = "".join(f" ({prose(note)})" for note in drift_notes(drift))
    return f"- {code(drift_symbol(drift))} {code(drift.address)} {drift_words(drift)}{why}{notes}"


def _runners(report: Report) -> Iterator[_Part]:
    if report.follow:
        entries = [
            f"- {code('+' if c.effect is Effect.LAUNCH else '-')} {code(c.address)}: {c.effect.value} {c.count}"
            f"{f' on {prose(c.where)}' if c.where else ''}: {prose(c.because)}"
            for c in report.follow
        ]
        yield _Part(f"**Runners that follow ({len(entries)})**", entries)


def _section(section: Section) -> _Part:
    entries = [f"- {TONES[row.tone]}{prose(row.text)}" for row in section.rows]
    folds = [partial(_details, row) for row in section.rows] if any(row.detail for row in section.rows) else []
    return _Part(f"**{prose(section.title or section.name)}**", entries, folds, "Details")


def _details(row: Row) -> list[str]:
    if not row.detail:
        return []
    return [_unmarked(PAPER.escape(row.text), 4), *(_unmarked(PAPER.escape(text), 8) for text in row.detail)]


def _diff(lines: Iterable[Line]) -> list[str]:
    """Lines as a diff. What a line is marked with stands first, so that no value does and none ends the fence."""
    found = []
    for line in lines:
        indent = max(line.indent - 2, 0)
        if line.mark not in DIFF:
            found.append(_unmarked(line.text, max(indent, 4)))
            continue
        mark = "" if line.mark in ("+", "-", "~") else f"{line.mark} "
        found.append(elide(f"{DIFF[line.mark]} {' ' * indent}{mark}{line.text}", 2 * LONGEST))
    return found


def _unmarked(text: str, indent: int) -> str:
    """A line that is indented further than the end of a fence may be."""
    return elide(" " * indent + text, 2 * LONGEST)


def _printed(part: _Part) -> Iterator[str]:
    if not part.shown:
        return
    yield from ["", part.title, "", *part.entries[: part.shown]]
    if part.body:
        yield from [
            "",
            f"<details><summary>{part.summary}</summary>",
            "",
            "```diff",
            *part.body,
            "```",
            "",
            "</details>",
        ]


def _cut(changes: Iterable[_Part], others: Iterable[_Part]) -> Iterator[str]:
    """What is not here, in words: nobody takes a part of the plan for all of it."""
    missing = sum(len(p.entries) - p.shown for p in changes)
    folded = sum(min(p.shown, len(p.folds)) - p.opened for p in changes)
    rows = sum(len(p.entries) - p.shown for p in others)
    if missing:
        yield from ["", f"… {missing} more change{'s are' if missing > 1 else ' is'} not shown: see the job's log"]
    if folded:
        yield from ["", f"… the differences of {folded} more changes are not shown: see the job's log"]
    if rows:
        yield from ["", f"… {rows} more lines about drift, runners and checks are not shown: see the job's log"]


def prose(text: str) -> str:
    """Text that means what it says: as it is if that is sure, else as code."""
    return text if PLAIN.fullmatch(text) and not LINKED.search(text) and len(text) <= LONGEST else code(text)


def code(text: str) -> str:
    """A code span of one line that nothing in it ends."""
    shown = elide(escape(text), LONGEST) or " "
    ticks = "`" * (max(map(len, FENCED.findall(shown)), default=0) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"
