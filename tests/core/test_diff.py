"""Differences of JSON values: found by a quick look, and the same that a slow one finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.diff import ABSENT, Absent, Difference, differences
from falplan.core.values import Json

LEAVES = st.sampled_from([None, True, False, 0, 1, 2, 0.0, 1.0, 1.5, "", "a", "1"])
NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)


def spelt(value: Any) -> Any:
    """The value with its booleans as words, so that Python's own `==` tells them from numbers."""
    if isinstance(value, dict):
        return {name: spelt(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [spelt(inner) for inner in value]
    return f"boolean {value}" if isinstance(value, bool) else value


def slowly(before: Json | Absent, after: Json | Absent, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """Every leaf looked at."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from slowly(before.get(name, ABSENT), after.get(name, ABSENT), (*path, name))
    elif spelt(before) != spelt(after):
        yield Difference(path, before, after)


@given(OBJECTS, OBJECTS)
def test_it_finds_what_looking_at_every_leaf_finds(before: dict[str, Json], after: dict[str, Json]) -> None:
    """Seen red with: `before == after` alone, which holds True for 1."""
    assert list(differences(before, after)) == list(slowly(before, after))


@given(OBJECTS)
def test_a_value_does_not_differ_from_its_copy(value: dict[str, Json]) -> None:
    assert list(differences(value, json.loads(json.dumps(value)))) == []


@pytest.mark.parametrize(
    ("before", "after", "differs"), [(True, 1, True), (False, 0, True), (1, 1.0, False), ("1", 1, True)]
)
def test_booleans_are_no_numbers(before: Json, after: Json, differs: bool) -> None:
    """Seen red with: `before == after` alone."""
    for one, other in ((before, after), ([before], [after])):
        assert bool(list(differences({"a": one, "b": {}}, {"a": other, "b": {}}))) is differs
