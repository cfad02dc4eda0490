"""After an apply on a control plane with an older database: what nobody wants is ended only once everything was told anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import FalplanError
from falplan.core.plan import Presence, Seen
from falplan.core.resources import GATEWAY
from falplan.core.state import State
from falplan.engine.planning import Planned, Scope, plan_apply
from falplan.engine.project import Project
from falplan.engine.settling import Settled, settle
from tests.engine.fake_plane import EMPTY, Answer, Plane, fake_plane, ok, status
from tests.engine.test_vanished import a_project, everything

ENDED = ["runner-1", "runner-2"]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with fake_plane(tmp_path / "tls", lambda method, path, body: (404, b"{}")) as found:
        yield found


def rows(state: State) -> list[dict[str, Any]]:
    """What a control plane says of apps that are as they were applied."""
    return [
        {"address": a, "endpoint": r.inputs["endpoint"], "revision": "r-1", "inputs": r.inputs, "settings": {}, "deleting": False}
        for a, r in state.resources.items()
        if a.startswith("app.")
    ]  # fmt: skip


def answers(plane: Plane, *, world: dict[str, Any], rolled_back: bool = True) -> None:
    """Everything that apply asks; `POST /settled` ends runners."""
    told: dict[str, Answer] = {
        "GET /status": status(rolled_back=rolled_back),
        "GET /world": ok({**EMPTY, **world}),
        "POST /operations/known": ok({"known": []}),
        "POST /settled": ok({"ended": ENDED}),
    }
    plane.answer = lambda method, path, body: told.get(f"{method} {path}", (404, b"{}"))


@pytest.fixture
def applied(plane: Plane, tmp_path: Path) -> tuple[Project, State]:
    project = a_project(tmp_path / "p", plane)
    return project, everything(project)


def before(project: Project, state: State, presence: Presence, scope: Scope | None = None) -> Planned:
    """The plan that was carried out, made while the gateway looked like that."""
    planned = plan_apply(project, state, scope or Scope())
    seen = {**planned.observed.seen, GATEWAY: Seen(presence, because="so it is")}
    return replace(planned, observed=replace(planned.observed, seen=seen))


def settled_with(plane: Plane) -> bool:
    return "POST /settled" in plane.asked


def test_everything_is_known_again_and_strays_are_ended(plane: Plane, applied: tuple[Project, State]) -> None:
    project, state = applied
    answers(plane, world={"apps": rows(state)})

    assert settle(project, before(project, state, Presence.ROLLED_BACK), state) == Settled(tuple(ENDED))
    assert settled_with(plane)


def test_after_a_part_of_a_plan_nothing_is_ended_until_a_whole_one_was_applied(
    plane: Plane, applied: tuple[Project, State]
) -> None:
    """The control plane was told of one app alone: the runners of the others are strays to it, and serve.

    Seen red without the guard: `settle` asked for all of them to be ended.
    """
    project, state = applied
    answers(plane, world={"apps": rows(state)[:1]})
    part = Scope(targets=("app.main.a0",), accept_loss=True)
    planned = before(project, state, Presence.ROLLED_BACK, part)

    assert planned.plan.left_out, "the plan was of a part"
    assert settle(project, planned, state) == Settled(again=False)
    assert not settled_with(plane)


def test_one_that_turns_out_to_be_older_when_it_is_started_is_told_everything_first(
    plane: Plane, applied: tuple[Project, State]
) -> None:
    """Nobody knew how old its database is before it ran: another plan is needed. Seen red without the guard."""
    project, state = applied
    answers(plane, world={"apps": rows(state)[:3]})

    assert settle(project, before(project, state, Presence.STOPPED), state) == Settled(again=True)
    assert not settled_with(plane)


def test_strays_that_nobody_was_shown_are_shown_first(plane: Plane, applied: tuple[Project, State]) -> None:
    """Seen red with a started control plane whose strays were ended although no plan had named them."""
    project, state = applied
    orphan = {"runner_id": "runner-9", "endpoint": "acme/a0", "machine": "m", "since": None}
    answers(plane, world={"apps": rows(state), "orphans": [orphan]})

    assert settle(project, before(project, state, Presence.STOPPED), state) == Settled(again=True)
    assert not settled_with(plane)


@pytest.mark.parametrize("presence", [Presence.PRESENT, Presence.ABSENT, Presence.REPLACED])
def test_one_that_was_never_older_is_told_nothing(
    plane: Plane, applied: tuple[Project, State], presence: Presence
) -> None:
    project, state = applied
    answers(plane, world={"apps": rows(state)})

    assert settle(project, before(project, state, presence), state) == Settled()
    assert not settled_with(plane)


def test_one_that_is_not_older_after_all_is_told_nothing(plane: Plane, applied: tuple[Project, State]) -> None:
    project, state = applied
    answers(plane, world={"apps": rows(state)}, rolled_back=False)

    assert settle(project, before(project, state, Presence.STOPPED), state) == Settled()
    assert not settled_with(plane)


def test_one_that_does_not_answer_is_told_by_the_next_apply(plane: Plane, applied: tuple[Project, State]) -> None:
    project, state = applied
    answers(plane, world={"apps": rows(state)})
    planned = before(project, state, Presence.ROLLED_BACK)
    plane.answer = lambda method, path, body: (503, b"{}")

    with pytest.raises(FalplanError, match="does not answer"):
        settle(project, planned, state)
