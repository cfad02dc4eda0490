"""Two values of any kind, and how they differ: element by element, line by line. Knows nothing of plans."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import TypeAlias, cast

from falplan.core.diff import ABSENT, Absent
from falplan.core.plural import count
from falplan.core.values import Json, JsonObject
from falplan.views.screen import Line, Screen, Span, elide, width

INLINE = 60
"""A list or a string of JSON that takes more columns than this gets a line for each element."""

DEEPEST = 12
"""Values nested deeper than this are shown in one line."""

COMPARED = 1_000_000
"""Two sequences whose lengths multiply to more than this are not aligned: what differs is removed and added as a whole."""

CONTEXT = 2
"""Unchanged lines shown around a changed one."""

STEP = 4
PADDED = 40
"""Names are aligned up to this width; a longer one stands out."""

_dumps = json.JSONEncoder(ensure_ascii=False).encode
_sorted = json.JSONEncoder(sort_keys=True).encode

Value: TypeAlias = "Json | Absent"
Notes = tuple[Span, ...]


def value_lines(
    screen: Screen, indent: int, label: str, before: Value, after: Value, notes: Notes = (), depth: int = 0
) -> Iterator[Line]:
    """The lines of one value. `label` is escaped and ends in ` = `, or is empty for an element; `notes` end the first line."""
    if isinstance(before, Absent) or isinstance(after, Absent):
        mark, value = ("-", before) if isinstance(after, Absent) else ("+", after)
        yield from _one(screen, indent, label, value, mark, notes, depth)
    elif isinstance(before, list) and isinstance(after, list) and depth < DEEPEST:
        yield Line(indent, (Span(f"{label}["), *notes), "~")
        yield from _elements(screen, indent + STEP, before, after, depth)
        yield Line(indent + 2, (Span("]"),))
    elif isinstance(before, dict) and isinstance(after, dict) and depth < DEEPEST:
        yield Line(indent, (Span(f"{label}{{"), *notes), "~")
        yield from _members(screen, indent + STEP, before, after, depth)
        yield Line(indent + 2, (Span("}"),))
    elif isinstance(before, str) and isinstance(after, str):
        yield from _strings(screen, indent, label, before, after, notes, depth)
    else:
        yield Line(indent, (Span(label + _pair(screen, before, after)), *notes), "~")


def plain(screen: Screen, value: Value) -> str:
    """A value in one line, as JSON."""
    if isinstance(value, Absent):
        return "(none)"
    return screen.shortened(screen.escape(_dumps(value)))


def label_of(screen: Screen, name: str, padded: int) -> str:
    """`name = `, aligned with its neighbours."""
    return f"{_padded(screen.escape(name), padded)} = "


def padding(screen: Screen, names: Sequence[str]) -> int:
    """The width that aligns these names."""
    return max((w for w in (width(screen.escape(n)) for n in names) if w <= PADDED), default=0)


def _padded(name: str, padded: int) -> str:
    return name + " " * max(padded - width(name), 0)


def _one(screen: Screen, indent: int, label: str, value: Value, mark: str, notes: Notes, depth: int) -> Iterator[Line]:
    """A value that is only on one side."""
    text = _as_json(value) if isinstance(value, str) and len(value) > INLINE else None
    if text is not None:
        label, value = f"{label}JSON ", text
    opened = depth < DEEPEST and (isinstance(value, dict) or (isinstance(value, list) and _is_long(value)))
    if opened and value:
        names = sorted(value) if isinstance(value, dict) else []
        pad = padding(screen, names)
        yield Line(indent, (Span(label + ("{" if names else "[")), *notes), mark)
        for i, inner in enumerate([value[n] for n in names] if isinstance(value, dict) else cast("list[Json]", value)):
            name = label_of(screen, names[i], pad) if names else ""
            yield from _one(screen, indent + STEP, name, inner, mark, (), depth + 1)
        yield Line(indent + 2, (Span("}" if names else "]"),))
    elif isinstance(value, str) and "\n" in value:
        yield Line(indent, (Span(f"{label}<<-EOT"), *notes), mark)
        for line in value.split("\n"):
            yield Line(indent + STEP, (Span(screen.shortened(screen.escape(line))),), mark)
        yield Line(indent + 2, (Span("EOT"),))
    else:
        yield Line(indent, (Span(label + plain(screen, value)), *notes), mark)


def _is_long(value: Sequence[Json]) -> bool:
    return len(_dumps(value)) > INLINE or any(isinstance(v, dict) for v in value)


def _as_json(text: str) -> JsonObject | list[Json] | None:
    """What a string of JSON holds, if that is an object or a list."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _strings(
    screen: Screen, indent: int, label: str, before: str, after: str, notes: Notes, depth: int
) -> Iterator[Line]:
    old, new = _as_json(before), _as_json(after)
    if old is not None and new is not None and type(old) is type(new) and _key(old) != _key(new):
        yield from value_lines(screen, indent, f"{label}JSON ", old, new, notes, depth)
    elif "\n" in before or "\n" in after:
        yield Line(indent, (Span(f"{label}<<-EOT"), *notes), "~")
        yield from _text_lines(screen, indent + STEP, before.split("\n"), after.split("\n"))
        yield Line(indent + 2, (Span("EOT"),))
    else:
        yield Line(indent, (Span(label + _pair(screen, before, after)), *notes), "~")


def _elements(screen: Screen, indent: int, before: Sequence[Json], after: Sequence[Json], depth: int) -> Iterator[Line]:
    for tag, i1, i2, j1, j2 in _opcodes([_key(v) for v in before], [_key(v) for v in after]):
        if tag == "equal":
            yield _hidden(indent + 2, i2 - i1, "element")
        elif i2 - i1 == j2 - j1 and _are_containers(before[i1:i2]) and _are_containers(after[j1:j2]):
            for old, new in zip(before[i1:i2], after[j1:j2], strict=True):
                yield from value_lines(screen, indent, "", old, new, (), depth + 1)
        else:
            for old in before[i1:i2]:
                yield from _one(screen, indent, "", old, "-", (), depth + 1)
            for new in after[j1:j2]:
                yield from _one(screen, indent, "", new, "+", (), depth + 1)


def _are_containers(values: Sequence[Json]) -> bool:
    return all(isinstance(v, dict | list) for v in values)


def _members(screen: Screen, indent: int, before: JsonObject, after: JsonObject, depth: int) -> Iterator[Line]:
    names = sorted(before.keys() | after.keys())
    changed = [n for n in names if n not in before or n not in after or _key(before[n]) != _key(after[n])]
    pad = padding(screen, changed)
    for name in changed:
        old, new = before.get(name, ABSENT), after.get(name, ABSENT)
        yield from value_lines(screen, indent, label_of(screen, name, pad), old, new, (), depth + 1)
    if len(changed) < len(names):
        yield _hidden(indent + 2, len(names) - len(changed), "value")


def _text_lines(screen: Screen, indent: int, before: Sequence[str], after: Sequence[str]) -> Iterator[Line]:
    codes = _opcodes(before, after)
    for number, (tag, i1, i2, j1, j2) in enumerate(codes):
        if tag != "equal":
            yield from (_text(screen, indent, line, "-") for line in before[i1:i2])
            yield from (_text(screen, indent, line, "+") for line in after[j1:j2])
            continue
        head = 0 if number == 0 else CONTEXT
        tail = 0 if number == len(codes) - 1 else CONTEXT
        same = before[i1:i2]
        if len(same) <= head + tail + 1:
            yield from (_text(screen, indent + 2, line) for line in same)
            continue
        yield from (_text(screen, indent + 2, line) for line in same[:head])
        yield _hidden(indent + 2, len(same) - head - tail, "line")
        yield from (_text(screen, indent + 2, line) for line in same[len(same) - tail :])


def _text(screen: Screen, indent: int, line: str, mark: str = "") -> Line:
    return Line(indent, (Span(screen.shortened(screen.escape(line))),), mark)


def _hidden(indent: int, number: int, what: str) -> Line:
    return Line(indent, (Span(f"# {count(number, f'unchanged {what}')} hidden"),))


def _key(value: Json) -> str:
    return _sorted(value)


Opcode = tuple[str, int, int, int, int]


def _opcodes(before: Sequence[str], after: Sequence[str]) -> list[Opcode]:
    """What `difflib` says, of the part that differs alone: it takes quadratic time, and most is the same as a rule."""
    start = 0
    shorter = min(len(before), len(after))
    while start < shorter and before[start] == after[start]:
        start += 1
    end = 0
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    i, j = len(before) - end, len(after) - end
    codes: list[Opcode] = [("equal", 0, start, 0, start)] if start else []
    if (i - start) * (j - start) > COMPARED:
        codes.append(("replace", start, i, start, j))
    elif i > start or j > start:
        found = SequenceMatcher(None, before[start:i], after[start:j]).get_opcodes()
        codes += [(tag, a + start, b + start, c + start, d + start) for tag, a, b, c, d in found]
    return [*codes, ("equal", i, len(before), j, len(after))] if end else codes


def _pair(screen: Screen, before: Json, after: Json) -> str:
    """Two values beside each other. Of long ones the part that differs is kept in view."""
    old, new = (screen.escape(_dumps(v)) for v in (before, after))
    room = screen.room
    if room is not None and max(width(old), width(new)) > room:
        old, new = _around(old, new, room, screen.own("…"))
    return f"{old} -> {new}"


def _around(old: str, new: str, room: int, mark: str) -> tuple[str, str]:
    shorter = min(len(old), len(new))
    start = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    left = shorter - start
    end = next((i for i in range(left) if old[-1 - i] != new[-1 - i]), left)
    context = max(room // 6, 1)
    begin, rest = max(start - context, 0), max(end - context, 0)

    def shown(text: str) -> str:
        middle = elide(text[begin : len(text) - rest], room, mark)
        return f"{mark if begin else ''}{middle}{mark if rest else ''}"

    return shown(old), shown(new)
