"""Diagnostics as text, JSON or annotations. Decides nothing and drops nothing silently."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

from falplan.core.errors import Diagnostic, Severity
from falplan.core.spec.words import escaped
from falplan.core.values import Json, JsonObject

WIDTH = 160
_RED, _YELLOW, _BLUE, _BOLD, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[1m", "\x1b[0m"


def render(
    diagnostics: Sequence[Diagnostic],
    *,
    format: Literal["human", "json", "github"] = "human",  # noqa: A002 - the name of the option
    color: bool = False,
    limit: int = 20,
) -> str:
    """At most `limit` diagnostics in the order given, and how many more there are; no newline at the end.

    `human`: `path:line:col: error[CODE]: message`, the line, a caret, the hint. `json`: one object with a list.
    `github`: one annotation a line. Control characters of files and names are escaped; color never comes from them.
    """
    renderer: Callable[[Sequence[Diagnostic], int, bool], str] = {"human": _human, "json": _json, "github": _github}[
        format
    ]
    return renderer(diagnostics[:limit], max(0, len(diagnostics) - limit), color)


def _human(shown: Sequence[Diagnostic], rest: int, color: bool) -> str:
    blocks = [_block(diagnostic, color) for diagnostic in shown]
    if rest:
        blocks.append(f"… and {rest} more")
    return "\n\n".join(blocks)


def _block(diagnostic: Diagnostic, color: bool) -> str:
    level = diagnostic.severity.value
    tint = _RED if diagnostic.severity is Severity.ERROR else _YELLOW
    place = _place(diagnostic)
    label = _tinted(f"{level}[{diagnostic.code}]", tint + _BOLD, color)
    lines = [f"{place}{': ' if place else ''}{label}: {escaped(diagnostic.message)}"]
    lines += _excerpt(diagnostic, tint, color)
    for related in diagnostic.related:
        lines.append(f"  {escaped(str(related.position))}: {escaped(related.message)}")
    if diagnostic.hint:
        lines.append(f"  {_tinted('hint:', _BLUE, color)} {escaped(diagnostic.hint)}")
    return "\n".join(lines)


def _place(diagnostic: Diagnostic) -> str:
    where = diagnostic.position
    return escaped(str(where) if where else diagnostic.file)


def _tinted(text: str, tint: str, color: bool) -> str:
    return f"{tint}{text}{_RESET}" if color else text


def _excerpt(diagnostic: Diagnostic, tint: str, color: bool) -> list[str]:
    """The line and a caret below it. A long line is cut around the caret; tabs count as one column, as in positions."""
    if diagnostic.position is None or not diagnostic.source:
        return []
    column = diagnostic.position.column - 1
    start = max(0, column - WIDTH // 2) if len(diagnostic.source) > WIDTH else 0
    window = diagnostic.source[start : start + WIDTH].replace("\t", " ")
    before, rest = window[: column - start], window[column - start :]
    under, after = rest[: max(1, diagnostic.length)], rest[max(1, diagnostic.length) :]
    number = str(diagnostic.position.line)
    lead = "…" if start else ""
    text = f"  {number} | {lead}{escaped(before)}{escaped(under)}{escaped(after)}".rstrip()
    pad = " " * (len(lead) + len(escaped(before)))
    caret = "^" + "~" * (len(escaped(under)) - 1 if under else 0)
    return [text, f"  {' ' * len(number)} | {pad}{_tinted(caret, tint, color)}"]


def as_json(diagnostic: Diagnostic) -> JsonObject:
    """One diagnostic as a JSON object; absent parts are left out."""
    found: JsonObject = {
        "code": str(diagnostic.code),
        "severity": diagnostic.severity.value,
        "message": diagnostic.message,
        "file": diagnostic.file,
    }
    if diagnostic.position is not None:
        found |= {"line": diagnostic.position.line, "column": diagnostic.position.column}
        found |= {"length": diagnostic.length, "source": diagnostic.source}
    if diagnostic.hint:
        found["hint"] = diagnostic.hint
    if diagnostic.related:
        related: list[Json] = [
            {"file": r.position.file, "line": r.position.line, "column": r.position.column, "message": r.message}
            for r in diagnostic.related
        ]
        found["related"] = related
    return found


def _json(shown: Sequence[Diagnostic], rest: int, color: bool) -> str:
    found: JsonObject = {"diagnostics": [as_json(diagnostic) for diagnostic in shown], "more": rest}
    # ASCII only: what a terminal acts on is escaped by JSON itself, and survives a round trip
    return json.dumps(found, indent=2, ensure_ascii=True).replace("\x7f", "\\u007f")


def _github(shown: Sequence[Diagnostic], rest: int, color: bool) -> str:
    lines = [_annotation(diagnostic) for diagnostic in shown]
    if rest:
        lines.append(f"::notice title=falplan::{rest} more")
    return "\n".join(lines)


def _annotation(diagnostic: Diagnostic) -> str:
    where = diagnostic.position
    fields = [f"file={_property(diagnostic.file)}"]
    if where is not None:
        fields += [f"line={where.line}", f"col={where.column}", f"endColumn={where.column + diagnostic.length}"]
    fields.append(f"title={_property(diagnostic.code)}")
    text = diagnostic.message + (f" ({diagnostic.hint})" if diagnostic.hint else "")
    return f"::{diagnostic.severity.value} {','.join(fields)}::{_data(text)}"


def _data(text: str) -> str:
    """GitHub's own escapes for the text of an annotation."""
    return escaped(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
