"""A plan as text for people: summary first and last, destroys before creates, nested differences with their reasons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import click

from falplan.core.consequences import Consequence, Effect
from falplan.core.diff import ABSENT, Absent
from falplan.core.plan import Action, AttributeChange, Change, Plan
from falplan.core.spec.resolved import Origin
from falplan.core.values import Json

SYMBOLS = {
    Action.CREATE: "+",
    Action.UPDATE: "~",
    Action.REPLACE: "-/+",
    Action.REPLACE_CREATE_FIRST: "+/-",
    Action.DELETE: "-",
    Action.FORGET: ".",
    Action.READ: "<=",
    Action.NOOP: " ",
}
WORDS = {
    Action.CREATE: "will be created",
    Action.UPDATE: "will be updated in-place",
    Action.REPLACE: "must be replaced",
    Action.REPLACE_CREATE_FIRST: "must be replaced",
    Action.FORGET: "will no longer be managed, but will not be destroyed",
    Action.READ: "will be read during apply",
    Action.DELETE: "will be destroyed",
}
COLORS = {"+": "green", "~": "yellow", "-": "red", "-/+": "red", "+/-": "red", ".": "yellow", "<=": "cyan"}
FIRST = [
    Action.DELETE,
    Action.REPLACE,
    Action.REPLACE_CREATE_FIRST,
    Action.UPDATE,
    Action.CREATE,
    Action.READ,
    Action.FORGET,
]


def render_plan(plan: Plan, follow: Sequence[Consequence] = (), *, color: bool = False) -> str:
    """The whole plan. The same plan gives the same text."""
    paint = _painter(color)
    if plan.is_empty:
        text = "No changes. What was applied matches the spec."
        if plan.unknown:
            return "\n".join(["No changes are known, but not everything could be looked at.", *_unknown(plan)]) + "\n"
        return paint(text, "green") + "\n"
    lines = [paint(summary(plan), None), ""]
    for change in _sorted(plan):
        lines += [*_change(change, paint), ""]
    lines += _runners(follow, paint)
    lines += _unknown(plan)
    lines.append(paint(summary(plan), None))
    return "\n".join(lines) + "\n"


def summary(plan: Plan) -> str:
    """Terraform's last line. A replacement counts as one to add and one to destroy."""
    add = plan.count(Action.CREATE, Action.REPLACE, Action.REPLACE_CREATE_FIRST)
    destroy = plan.count(Action.DELETE, Action.REPLACE, Action.REPLACE_CREATE_FIRST)
    return f"Plan: {add} to add, {plan.count(Action.UPDATE)} to change, {destroy} to destroy."


def _sorted(plan: Plan) -> list[Change]:
    acting = [c for c in plan.changes.values() if c.action is not Action.NOOP]
    return sorted(acting, key=lambda c: (FIRST.index(c.action), c.address))


def _change(change: Change, paint: _Painter) -> Iterable[str]:
    symbol = SYMBOLS[change.action]
    yield f"  {paint(symbol, COLORS[symbol])} {paint(change.address, 'bold')} {WORDS[change.action]}: {change.because}"
    if change.action is Action.DELETE:
        endpoint = (change.before or {}).get("endpoint")
        if endpoint:
            yield f"      - endpoint = {_value(endpoint)}"
        return
    shown, defaults = _without_defaults(change)
    yield from _attributes(shown, paint)
    for name in change.unknown:
        before = change.outputs.get(name)
        yield (
            f"      {paint('~', 'yellow')} {name} = {_value(before)} -> (known after apply)"
            if before
            else (f"      {paint('+', 'green')} {name} = (known after apply)")
        )
    hidden = change.unchanged
    if defaults:
        yield f"      # {defaults} platform default{'s' * (defaults > 1)} hidden"
    if hidden:
        yield f"      # {hidden} unchanged value{'s' * (hidden > 1)} hidden"


def _without_defaults(change: Change) -> tuple[list[AttributeChange], int]:
    """A new resource is shown without the settings that nobody chose."""
    chosen = [a for a in change.attributes if not (a.origin is Origin.DEFAULT and a.before is ABSENT)]
    return chosen, len(change.attributes) - len(chosen)


def _attributes(attributes: Sequence[AttributeChange], paint: _Painter) -> Iterable[str]:
    widths: dict[tuple[str, ...], int] = {}
    for a in attributes:
        widths[a.path[:-1]] = max(widths.get(a.path[:-1], 0), len(a.path[-1]) if a.path else 0)
    group: tuple[str, ...] = ()
    for a in attributes:
        for depth in range(_common(group, a.path[:-1]), len(a.path) - 1):
            yield f"{_indent(depth)}  {a.path[depth]}:"
        group = a.path[:-1]
        yield _attribute(a, widths[group], paint)


def attribute_lines(attributes: Sequence[AttributeChange], *, color: bool = False) -> list[str]:
    """Differences of one resource, nested, a line each."""
    return list(_attributes(attributes, _painter(color)))


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    for x, y in zip(one, other, strict=False):
        if x != y:
            break
        count += 1
    return count


def _indent(depth: int) -> str:
    return "      " + "    " * depth


def _attribute(a: AttributeChange, width: int, paint: _Painter) -> str:
    symbol = "+" if a.before is ABSENT else "-" if a.after is ABSENT else "~"
    is_file = a.path[0] == "files"
    name = a.path[-1].ljust(width)
    if symbol == "~":
        text = f"{name} = {_value(a.before, file=is_file)} -> {_value(a.after, file=is_file)}"
    else:
        text = f"{name} = {_value(a.after if symbol == '+' else a.before, file=is_file)}"
    notes = [n for n in (a.because, _origin(a)) if n]
    if a.forces_replacement:
        notes.insert(0, paint("forces replacement", "red"))
    comment = f"  # {'; '.join(notes)}" if notes else ""
    return f"{_indent(len(a.path) - 1)}{paint(symbol, COLORS[symbol])} {text}{comment}"


def _origin(a: AttributeChange) -> str:
    if a.origin is None or a.origin is Origin.SPEC:
        return ""
    return f"from the {a.origin.value}"


def _value(value: Json | Absent, *, file: bool = False) -> str:
    if value is ABSENT:
        return "(none)"
    if file and isinstance(value, str):
        return value[:12] + (" executable" if value.endswith("+x") else "")
    return escape(json.dumps(value, ensure_ascii=False))


def escape(text: str) -> str:
    """Control characters as escapes, so that nothing in a spec or log drives the terminal."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def _runners(follow: Sequence[Consequence], paint: _Painter) -> Iterable[str]:
    if not follow:
        return
    yield "Runners that follow:"
    for c in follow:
        symbol = "+" if c.effect is Effect.LAUNCH else "-"
        noun = "runner" if c.count == 1 else "runners"
        where = f" on {c.where}" if c.where else ""
        yield f"  {paint(symbol, COLORS[symbol])} {c.address}: {c.effect.value} {c.count} {noun}{where}: {c.because}"
    yield ""


def _unknown(plan: Plan) -> Iterable[str]:
    reasons = sorted(set(plan.unknown.values()))
    for reason in reasons:
        if reason.startswith("unknown (source not here)"):
            yield from (
                f"{address}: {reason}" for address, because in sorted(plan.unknown.items()) if because == reason
            )
            continue
        count = sum(r == reason for r in plan.unknown.values())
        yield f"Unknown: {count} resource{'s' * (count > 1)} could not be looked at: {reason}"


class _Painter:
    def __init__(self, color: bool) -> None:
        self._color = color

    def __call__(self, text: str, style: str | None) -> str:
        if not self._color:
            return text
        return click.style(text, bold=True) if style in (None, "bold") else click.style(text, fg=style)


def _painter(color: bool) -> _Painter:
    return _Painter(color)
