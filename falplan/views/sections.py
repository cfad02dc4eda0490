"""Sections of a plan's report as text for people. Decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import click

from falplan.core.report import Section, Tone
from falplan.core.values import JsonObject
from falplan.views.plan import escape

COLORS = {Tone.GOOD: "green", Tone.WARNING: "yellow", Tone.ERROR: "red"}


def render_sections(sections: Iterable[Section], *, color: bool = False) -> str:
    """The sections that have something to tell, each under its title. The same sections give the same text."""
    return "".join("\n" + _section(section, color=color) for section in sections if section.rows)


def _section(section: Section, *, color: bool) -> str:
    lines = [click.style(f"{section.title}:", bold=True) if color else f"{section.title}:"]
    for row in section.rows:
        text = escape(row.text)
        shade = COLORS.get(row.tone)
        lines.append("  " + (click.style(text, fg=shade) if color and shade else text))
        lines += [f"      {escape(line)}" for line in row.detail]
    return "\n".join(lines) + "\n"


def output_lines(outputs: Mapping[str, JsonObject]) -> list[str]:
    """`Outputs:` and each of them, as state has them; nothing if there are none. A sensitive value is not shown."""
    if not outputs:
        return []
    return ["", "Outputs:", *(f"  {name} = {_value(outputs[name])}" for name in sorted(outputs))]


def _value(output: JsonObject) -> str:
    return "(sensitive value)" if output["sensitive"] else escape(json.dumps(output["value"], ensure_ascii=False))
