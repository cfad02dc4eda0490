"""A plan as a tree, a line for each resource, by environment and app: for a plan that is too long to be read whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from falplan.core.plan import Action, Change, Drift, Plan
from falplan.core.report import Report
from falplan.core.resources import environment_of
from falplan.views.plan_words import (
    INCOMPLETE,
    acting,
    because,
    by_reason,
    drift_by_cause,
    drift_notes,
    drift_symbol,
    drift_words,
    headline,
    origins,
    symbol,
    told,
)
from falplan.views.screen import COLORS, Line, Screen, Span, elide, width

WAITS_FOR = 2
"""So many of what a resource waits for are named; the rest is a number."""

GROUPED = ("app", "build")
"""Resources of which one app may have several: they stand below its name."""


@dataclass(slots=True)
class _Node:
    """A name with what stands below it, or a resource."""

    text: str
    mark: str = ""
    below: list[_Node] = field(default_factory=list)


def render_plan_tree(report: Report, screen: Screen | None = None) -> str:
    """Headline, tree, and what a reader has to know besides. Lines are shortened to fit, never wrapped."""
    screen = screen or Screen()
    plan = report.plan
    first = Line(0, (Span(headline(plan), "bold"),))
    found = acting(plan)
    body: list[Line] = []
    if found:
        body += [Line(0), *_lines(_tree(plan, found), screen)]
    for title, differing in drift_by_cause(plan.drift.values()):
        drift = [_Node(_drifted(d), drift_symbol(d)) for d in differing]
        body += [Line(0), *_lines(_Node(title, "", drift), screen)]
    for section in report.sections:
        rows = [_Node(row.text) for row in section.rows]
        body += [Line(0), *_lines(_Node(section.title, "", rows), screen)] if rows else []
    notes = [*_notes(plan)]
    body += [Line(0), *(Line(0, (Span(_fitted(n, screen, 0)),)) for n in notes)] if notes else []
    lines = [first, *body, Line(0), first] if body else [first]
    return "".join(f"{line}\n" for line in screen.render(lines))


def _drifted(drift: Drift) -> str:
    notes = "".join(f" ({note})" for note in drift_notes(drift))
    return f"{drift.address} {drift_words(drift)}{f': {drift.because}' if drift.because else ''}{notes}"


def _tree(plan: Plan, found: Iterable[Change]) -> _Node:
    root = _Node(plan.project)
    environments: dict[str, _Node] = {}
    apps: dict[tuple[str, str], _Node] = {}
    whole = [c for c in found if environment_of(c.address) is None]
    root.below = [_resource(c, plan) for c in whole]
    rest = [c for c in found if environment_of(c.address) is not None]
    for change in sorted(rest, key=lambda c: (environment_of(c.address) or "", _name(c), c.address)):
        environment = environment_of(change.address) or ""
        parent = environments.setdefault(environment, _Node(environment))
        if change.address.partition(".")[0] in GROUPED:
            key = (environment, _name(change))
            if key not in apps:
                apps[key] = _Node(_name(change))
                parent.below.append(apps[key])
            parent = apps[key]
        parent.below.append(_resource(change, plan))
    same = _unchanged(plan)
    for name, node in environments.items():
        node.below += [_Node(f"# {same[name]} unchanged")] if same.get(name) else []
    root.below += environments.values()
    others = sum(count for name, count in same.items() if name not in environments)
    root.below += [_Node(f"# {others} more unchanged")] if others else []
    return root


def _name(change: Change) -> str:
    return change.address.split(".", 2)[-1]


def _unchanged(plan: Plan) -> dict[str, int]:
    """Environment -> how many of its resources stay as they are; those of the whole project under the empty name."""
    counts: dict[str, int] = {}
    for c in plan.changes.values():
        if c.action is Action.NOOP and not c.previous_address and not c.importing and c.address not in plan.left_out:
            environment = environment_of(c.address) or ""
            counts[environment] = counts.get(environment, 0) + 1
    return counts


def _resource(change: Change, plan: Plan) -> _Node:
    address, words = told(change)
    text = address if symbol(change) in COLORS and symbol(change) != "." else f"{address} {words}"
    why = because(change)
    after = plan.after.get(change.address, ())
    more = f" and {len(after) - WAITS_FOR} more" if len(after) > WAITS_FOR else ""
    waits = f" (after {', '.join(after[:WAITS_FOR])}{more})" if after else ""
    origin = "".join(f" {part}" for part in origins(change))
    return _Node(f"{text}{origin}{waits}{f': {why}' if why else ''}", symbol(change))


def _lines(node: _Node, screen: Screen) -> Iterator[Line]:
    yield Line(0, (Span(_fitted(node.text, screen, 0), "bold"),))
    yield from _below(node, "", screen)


def _below(node: _Node, prefix: str, screen: Screen) -> Iterator[Line]:
    for child in node.below:
        last = child is node.below[-1]
        branch = screen.own(prefix + ("└── " if last else "├── "))
        mark = f"{child.mark} " if child.mark else ""
        text = _fitted(child.text, screen, width(branch) + len(mark))
        yield Line(0, (Span(branch), Span(mark, COLORS.get(child.mark, "")), Span(text)))
        yield from _below(child, prefix + ("    " if last else "│   "), screen)


def _fitted(text: str, screen: Screen, taken: int) -> str:
    text = screen.escape(text)
    return text if screen.width is None else elide(text, max(screen.width - taken, 4), screen.own("…"))


def _notes(plan: Plan) -> Iterator[str]:
    for reason, addresses in by_reason(plan.unknown).items():
        yield f"Unknown: {len(addresses)} of the resources could not be looked at: {reason}"
    if plan.left_out:
        yield f"Warning: {INCOMPLETE} ({len(plan.left_out)})."
    yield from (f"Hint: {hint}" for hint in plan.hints)
