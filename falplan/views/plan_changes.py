"""The lines of one change, and of one drift: what happens, to which values, why, and where each value comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from falplan.core.diff import ABSENT, Absent, Path, count_leaves
from falplan.core.plan import Action, AttributeChange, Change, Drift
from falplan.core.plural import count
from falplan.core.provided import HOME, HOST_KEY
from falplan.core.resources import PROVIDED, ResourceType
from falplan.core.spec.resolved import Origin
from falplan.core.terraform_values import SENSITIVE
from falplan.core.values import Json
from falplan.views.plan_values import STEP, Notes, Value, label_of, padding, plain, value_lines
from falplan.views.plan_words import TRUST_NOTE, because, drift_notes, drift_symbol, drift_words, origins, symbol, told
from falplan.views.screen import Line, Screen, Span

HEAD = 2
BODY = 6
AFTER_APPLY = "(known after apply)"
SHORT = 8
"""Hex digits of a secret's fingerprint that are shown, of a file's digest half as many again."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One value to be shown: `text` in place of both values where their kind has a form of its own."""

    path: Path
    before: Value = ABSENT
    after: Value = ABSENT
    notes: Notes = ()
    text: str = ""
    mark: str = ""


def change_lines(change: Change, screen: Screen) -> Iterator[Line]:
    """A change: its heading, then its values."""
    yield heading(change, screen)
    yield from (_note(text, screen) for text in facts(change))
    if change.action is Action.DELETE:
        yield from _deleted(change, screen)
        return
    if change.action in (Action.NOOP, Action.FORGET):
        return
    if change.trust:
        yield Line(BODY, (Span(f"trust {change.trust}"), Span(f"  # {TRUST_NOTE}")), "+")
    chosen, defaults = _without_defaults(change)
    entries = [_entry(a, change, screen) for a in chosen] + [_after_apply(n, change, screen) for n in change.unknown]
    yield from _level(entries, 0, BODY, screen)
    if defaults:
        yield _note(f"{count(defaults, 'platform default')} hidden", screen)
    if change.unchanged:
        yield _note(f"{count(change.unchanged, 'unchanged value')} hidden", screen)


def heading(change: Change, screen: Screen) -> Line:
    """What happens to the resource, and why, in one line."""
    address, words = told(change)
    why = because(change)
    text = f" {words}: {why}" if why else f" {words}"
    return Line(HEAD, (Span(screen.escape(address), "bold"), Span(screen.escape(text))), symbol(change))


def drift_lines(drift: Drift, screen: Screen) -> Iterator[Line]:
    """How one resource was found: from what was applied to what was seen."""
    why = f": {drift.because}" if drift.because else ""
    text = screen.escape(f" {drift_words(drift)}{why}")
    yield Line(HEAD, (Span(screen.escape(drift.address), "bold"), Span(text)), drift_symbol(drift))
    yield from (_note(text, screen) for text in drift_notes(drift))
    entries = [_Entry(a.path, a.before, a.after, text=_special(a, drift.type, None, screen)) for a in drift.attributes]
    yield from _level(entries, 0, BODY, screen)


def facts(change: Change) -> Iterator[str]:
    """What a person has to know of it beside its values."""
    yield from origins(change)
    if change.leftovers:
        yield f"{', '.join(change.leftovers)}, left by an interrupted operation, {'go' if len(change.leftovers) > 1 else 'goes'} with it"
    if change.protected and change.action.destroys:
        yield "protected: it may not be destroyed"


def _note(text: str, screen: Screen) -> Line:
    return Line(BODY, (Span(screen.escape(f"# {text}")),))


def _deleted(change: Change, screen: Screen) -> Iterator[Line]:
    """Of what is destroyed, the name under which others know it; the rest is a number."""
    endpoint = (change.before or {}).get("endpoint")
    if endpoint:
        yield Line(BODY, (Span(f"endpoint = {plain(screen, endpoint)}"),), "-")
    elif change.type in PROVIDED and change.outputs.get("id"):
        yield Line(BODY, (Span(f"id = {plain(screen, change.outputs['id'])}"),), "-")
    hidden = count_leaves(change.before or {}) - bool(endpoint) if change.before else 0
    if hidden:
        yield _note(f"{count(hidden, 'more value' if endpoint else 'value')} hidden", screen)


def _without_defaults(change: Change) -> tuple[list[AttributeChange], int]:
    """A new resource is shown without the settings that nobody chose."""
    shown = [a for a in change.attributes if not (change.trust and a.path[0] == HOST_KEY)]  # a line of its own says it
    others = [a for a in shown if a.path[0] != HOME]
    if change.type in PROVIDED and others:
        shown = others  # how to get there again says nothing that they don't
    chosen = [a for a in shown if not (a.origin is Origin.DEFAULT and a.before is ABSENT)]
    return chosen, len(shown) - len(chosen)


def _entry(a: AttributeChange, change: Change, screen: Screen) -> _Entry:
    text = _special(a, change.type, change.generation, screen)
    return _Entry(a.path, a.before, a.after, _notes(a, _applied(a, change), screen), text)


def _special(a: AttributeChange, kind: ResourceType, generation: int | None, screen: Screen) -> str:
    """Values whose kind has a form of its own; empty for all others."""
    return _digest(a, screen) if a.path[:1] == ("files",) else _hashed(a, kind, generation, screen)


def _applied(a: AttributeChange, change: Change) -> str:
    """What was applied, of a value that is neither that any more nor is to be that again."""
    found = next((d.before for d in change.drift if d.path == a.path), a.before)
    if found in (a.before, a.after) or isinstance(found, dict | list) or a.path[0] in SENSITIVE.get(change.type, ()):
        return ""
    return "nothing was applied" if found is ABSENT else f"{json.dumps(found, ensure_ascii=False)} was applied"


def _notes(a: AttributeChange, applied: str, screen: Screen) -> Notes:
    notes = [note for note in (applied, a.because) if note]
    if a.origin is not None:
        notes.append(f"from the {a.origin.value}")
    text = screen.escape("; ".join(notes))
    if a.forces_replacement:
        rest = Span(f"; {text}") if text else Span("")
        return Span("  # "), Span("forces replacement", "red"), rest
    return (Span(f"  # {text}"),) if text else ()


def _after_apply(name: str, change: Change, screen: Screen) -> _Entry:
    """An output that apply will tell. What it was is one line at most: nobody knows yet what of it goes."""
    before = next((d.after for d in change.drift if d.path == (name,)), change.outputs.get(name))
    if not before or isinstance(before, Absent):
        return _Entry((name,), text=AFTER_APPLY, mark="+")
    return _Entry((name,), text=f"{_brief(before, screen)} -> {AFTER_APPLY}", mark="~")


def _brief(value: Json, screen: Screen) -> str:
    if isinstance(value, dict | list):
        return f"({count(len(value), 'value' if isinstance(value, dict) else 'element')})"
    if isinstance(value, str) and "\n" in value:
        return f"({value.count(chr(10)) + 1} lines)"
    return plain(screen, value)


def _digest(a: AttributeChange, screen: Screen) -> str:
    """A file by the beginning of its digest."""

    def one(value: Value) -> str:
        if not isinstance(value, str):
            return plain(screen, value)
        return screen.escape(value[:12]) + (" executable" if value.endswith("+x") else "")

    return _sides(a, one(a.before), one(a.after))


def _hashed(a: AttributeChange, kind: ResourceType, generation: int | None, screen: Screen) -> str:
    """A secret by the version that this apply makes of it, and the beginning of its keyed hash; always as wide."""
    if a.path[:1] not in [(name,) for name in SENSITIVE.get(kind, ())]:
        return ""

    def one(value: Value, version: int) -> str:
        seal = screen.escape(str(value).rpartition(":")[2])[:SHORT].ljust(SHORT, ".")
        return seal if generation is None else f"v{version} ({seal})"

    number = generation or 0
    return _sides(a, one(a.before, number - 1), one(a.after, number))


def _sides(a: AttributeChange, before: str, after: str) -> str:
    if a.before is ABSENT or a.after is ABSENT:
        return after if a.before is ABSENT else before
    return f"{before} -> {after}"


def _level(entries: Sequence[_Entry], depth: int, indent: int, screen: Screen) -> Iterator[Line]:
    """Entries that share a beginning of their paths: values first named, then aligned, each folder of paths below its name."""
    leaves = [_last(e) for e in entries if len(e.path) <= depth + 1]
    pad = padding(screen, leaves)
    for name, found in groupby(entries, key=lambda e: e.path[depth] if len(e.path) > depth else ""):
        group = list(found)
        here = [e for e in group if len(e.path) <= depth + 1]
        below = [e for e in group if len(e.path) > depth + 1]
        for entry in here:
            yield from _leaf(entry, label_of(screen, _last(entry), pad), indent, screen)
        if below:
            yield Line(indent + 2, (Span(f"{screen.escape(name)}:"),))
            yield from _level(below, depth + 1, indent + STEP, screen)


def _last(entry: _Entry) -> str:
    return entry.path[-1] if entry.path else "value"


def _leaf(entry: _Entry, label: str, indent: int, screen: Screen) -> Iterator[Line]:
    if entry.text:
        yield Line(indent, (Span(label + entry.text), *entry.notes), entry.mark or _mark(entry))
    else:
        yield from value_lines(screen, indent, label, entry.before, entry.after, entry.notes)


def _mark(entry: _Entry) -> str:
    if isinstance(entry.before, Absent):
        return "+"
    return "-" if isinstance(entry.after, Absent) else "~"
