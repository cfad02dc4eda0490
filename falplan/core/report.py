"""Everything that a plan is shown with, as one value: what the views print, in whatever format. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from falplan.core.consequences import Consequence, NoPlace
from falplan.core.plan import Plan
from falplan.core.values import JsonObject


class Tone(StrEnum):
    """How a row of a section is meant."""

    PLAIN = "plain"
    GOOD = "good"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a section. `detail` lines stand indented below it, and are collapsed where a format can do that.

    `label` is what the text begins with, before a colon, in a table: what follows is aligned where a format can do that.
    """

    text: str
    tone: Tone = Tone.PLAIN
    detail: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a plan's report beside its changes: costs, placement, checks, policies, outputs.

    `name` is its key in JSON, where `body` is what stands there; `title` and `rows` are for people.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    body: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """A plan and what goes with it. `observed` maps addresses to a digest of what was seen of them."""

    plan: Plan
    follow: tuple[Consequence, ...] = ()
    no_place: tuple[NoPlace, ...] = ()
    sections: tuple[Section, ...] = ()
    observed: Mapping[str, str] = field(default_factory=dict)
