"""The checker finds each broken guarantee: these are its sabotaged twins."""

from __future__ import annotations

from typing import Any

import pytest

from .history import violations

GOOD: list[dict[str, Any]] = [
    {"op": "submit", "n": 1, "id": "a", "ok": True},
    {"op": "ran", "n": 1, "id": "a"},
    {"op": "seen", "id": "a", "status": "IN_PROGRESS"},
    {"op": "seen", "id": "a", "status": "COMPLETED", "result": {"ok": True, "n": 1}},
    {"op": "submit", "n": 2, "id": None, "ok": None},
    {"op": "ran", "n": 2, "id": "b"},
]


def test_a_good_history_has_no_violation() -> None:
    assert violations(GOOD) == []


def test_executing_twice_is_allowed() -> None:
    assert violations([*GOOD, {"op": "ran", "n": 1, "id": "a"}]) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"op": "submit", "n": 3, "id": "c", "ok": True}, "never completed"),
        ({"op": "seen", "id": "a", "status": "IN_QUEUE"}, "went back"),
        ({"op": "seen", "id": "a", "status": "COMPLETED", "result": {"ok": True, "n": 9}}, "changed"),
        ({"op": "seen", "id": "x", "status": "COMPLETED", "result": {"ok": True, "n": 8}}, "never executed"),
        ({"op": "ran", "n": 77, "id": "z"}, "nobody sent it"),
    ],
)
def test_each_broken_guarantee_is_found(line: dict[str, Any], expected: str) -> None:
    (found,) = violations([*GOOD, line])

    assert expected in found


def test_a_refused_submit_must_not_be_executed() -> None:
    lines = [{"op": "submit", "n": 5, "id": None, "ok": False}, {"op": "ran", "n": 5, "id": "q"}]

    assert len(violations(lines)) == 1
