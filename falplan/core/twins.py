"""Hosts of the spec that are one machine under several names. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from falplan.core.preflight import Checked
from falplan.core.problems import Problem, warning


def with_twins(found: Sequence[Checked]) -> list[Checked]:
    """The same hosts, with a warning for each that is one machine with another."""
    machines: dict[str, list[str]] = {}
    for one in found:
        if one.facts is not None and one.facts.machine:
            machines.setdefault(one.facts.machine, []).append(one.short)
    return [replace(one, problems=(*one.problems, *_twins(one, machines))) for one in found]


def _twins(one: Checked, machines: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    others = [name for name in machines.get(one.facts.machine if one.facts else "", ()) if name != one.short]
    if others:
        yield warning(
            "same-machine",
            f"it is one machine with {', '.join(others)}: its room counts more than once in plans, and is given out once",
            "a name for each machine",
            "keep one of the names in the spec",
        )
