"""What holds in every state, and how older formats become the current one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from falplan.core.state import Intent, Recorded, State, parse_state, render_state
from falplan.core.state_integrity import problems
from falplan.core.state_repair import Remains, diagnose
from falplan.core.state_upgrades import upgraded
from falplan.core.values import JsonObject
from tests.core.builders import LINEAGE, a_build, a_gateway, a_state, an_app

APP = Recorded("app.main.a", "app", {}, {}, ("build.main.a",), 1)


HOST = Recorded("host.l.a", "host", {}, {"id": "1"}, ("host.l.b",), 1)
RING = State(
    "demo",
    LINEAGE,
    1,
    {
        "host.l.a": HOST,
        "host.l.b": replace(HOST, address="host.l.b", dependencies=("host.l.c",)),
        "host.l.c": replace(HOST, address="host.l.c", dependencies=("host.l.a",)),
        "host.l.d": replace(HOST, address="host.l.d"),
    },
)
"""A hand-made state: three that wait for one another, and one that waits for them."""


def test_a_ring_and_a_wrong_type_are_mended() -> None:
    """Seen red with a repair that found nothing wrong: destroy never came to an end, and a plan was a bug."""
    wrong = replace(RING, resources={**RING.resources, "host.l.e": replace(HOST, address="host.l.e", type="app")})
    found = diagnose(Remains(render_state(wrong)), [], project="demo", seen=0)

    assert found.mended is not None and problems(found.mended) == []
    assert found.mended.resources["host.l.e"].type == "host"
    assert len(found.mended.resources) == 5
    assert any("is dropped" in f for f in found.findings) and any("recorded as app" in f for f in found.findings)


def test_a_sound_state_has_no_problems() -> None:
    assert problems(a_state(a_gateway(), a_build(), an_app())) == []
    assert problems(State("demo", LINEAGE, 0)) == []


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (State("demo", LINEAGE, 1, {"app.main.a": APP}), "never had"),
        (State("demo", LINEAGE, 1, {"app.main.b": replace(APP, dependencies=())}), "stands under"),
        (State("demo", LINEAGE, 1, {"app.main.a": replace(APP, dependencies=(), generation=-1)}), "generation -1"),
        (State("demo", LINEAGE, 1, {}, {"app.main.a": -2}), "generation -2"),
        (State("demo", LINEAGE, 1, {"app.main.a": replace(APP, dependencies=())}, {"app.main.a": 1}), "both"),
        (
            State("demo", LINEAGE, 1, {"a": Recorded("a", "app", {}, {}, (), 2, intent=Intent("create", "o", 2, ""))}),
            "ended already",
        ),
        (State("demo", LINEAGE, -1), "serial is -1"),
        (State("demo", "", 1), "no project or no lineage"),
        (State("demo", LINEAGE, 1, {"host.l.a": replace(APP, address="host.l.a", dependencies=())}), "recorded as app"),
        (RING, "host.l.a depends on host.l.b depends on host.l.c depends on host.l.a"),
    ],
)
def test_what_does_not_hold_is_named(state: State, problem: str) -> None:
    assert any(problem in found for found in problems(state))


def test_a_dependency_that_was_destroyed_or_forgotten_is_no_loss() -> None:
    """`state rm build.main.a` leaves app.main.a with a dependency that is retired."""
    assert problems(State("demo", LINEAGE, 1, {"app.main.a": APP}, {"build.main.a": 1})) == []


def _name_it(body: JsonObject) -> JsonObject:
    return {**{k: v for k, v in body.items() if k != "name"}, "project": body["name"]}


def _number_it(body: JsonObject) -> JsonObject:
    return {**body, "serial": 7}


def test_older_formats_are_upgraded_step_by_step() -> None:
    """Seen red with a loop that took one step only."""
    old: JsonObject = {"format_version": 1, "name": "demo"}

    assert upgraded(old, to=3, upgrades={1: _name_it, 2: _number_it}) == {
        "format_version": 3,
        "project": "demo",
        "serial": 7,
    }


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0])
def test_a_format_that_never_was_is_refused(version: object) -> None:
    with pytest.raises(ValueError, match="format"):
        upgraded({"format_version": version}, to=2, upgrades={1: _number_it})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="nothing reads format 1"):
        upgraded({"format_version": 1}, to=2, upgrades={})


def test_the_current_format_needs_no_upgrade() -> None:
    state = a_state(a_gateway())
    text = render_state(state)

    assert parse_state(text, "x") == state
    assert upgraded(json.loads(text), to=1) == json.loads(text)
