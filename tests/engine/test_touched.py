"""What a saved plan remembers of the world, and how it says what moved since."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from falplan.core.plan import Plan, Presence, Seen
from falplan.core.planner import make_plan
from falplan.engine.observe import Observed
from falplan.engine.touched import facts, moved, touched
from tests.core.builders import a_build, a_gateway, a_state, an_app, wanted

APP = an_app("a")
STATE = a_state(a_gateway(), a_build("a"), APP, a_build("b"), an_app("b"))
STATUS: dict[str, Any] = {"id": "cp-1", "epoch": 4}


def a_row(**changed: Any) -> dict[str, Any]:
    """As in GET /world, with what comes and goes by itself."""
    row = {"revision": "r-1", "settings": {"max_concurrency": 1}, "inputs": APP.inputs, "deleting": False}
    return {**row, "runners": {"IDLE": 1}, "in_flight": 0, "queued": 0, "failures": 0, **changed}


def seen(**rows: Any) -> Observed:
    found = {a: Seen(Presence.PRESENT) for a in STATE.resources}
    found["app.main.a"] = Seen(Presence.PRESENT, rows.get("app", a_row())["inputs"])
    apps = {"app.main.a": rows.get("app", a_row()), "app.main.b": a_row(revision="r-9")}
    return Observed({**found, **rows.get("seen", {})}, apps, status=rows.get("status", STATUS))


def a_plan() -> Plan:
    spec = wanted(a_gateway(), a_build("a"), an_app("a", max_concurrency=9), a_build("b"), an_app("b"))
    return make_plan(spec, STATE, seen().seen)


def test_what_is_changed_what_it_needs_and_the_gateway_are_touched() -> None:
    assert touched(a_plan()) == ["app.main.a", "build.main.a", "gateway"]
    assert touched(make_plan(wanted(), a_state(), {})) == []


def test_what_comes_and_goes_by_itself_is_no_move() -> None:
    """Seen red with facts that held the whole row."""
    plan = a_plan()
    busy = seen(app=a_row(runners={"RUNNING": 3}, in_flight=3, queued=9, failures=1))
    other = replace(busy, apps={**busy.apps, "app.main.b": a_row(revision="r-10")})

    assert moved(facts(seen(), plan), plan, other, STATE) == []


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"app": a_row(revision="r-2")}, "app.main.a: revision was r-1, is r-2"),
        ({"app": a_row(settings={"max_concurrency": 5})}, "app.main.a: other settings"),
        (
            {"app": a_row(inputs={**APP.inputs, "settings": {**APP.inputs["settings"], "keep_alive": 7}})},  # type: ignore[dict-item]
            "app.main.a: settings.keep_alive was 10, is 7",
        ),
        ({"app": a_row(deleting=True)}, "app.main.a: deleting was False, is True"),
        ({"status": {"id": "cp-2", "epoch": 4}}, "gateway: id was cp-1, is cp-2"),
        ({"status": {"id": "cp-1", "epoch": 5}}, "gateway: epoch was 4, is 5"),
        (
            {"seen": {"build.main.a": Seen(Presence.ABSENT, because="gone")}},
            "build.main.a: presence was present, is absent",
        ),
    ],
)
def test_what_moved_is_named(now: dict[str, Any], said: str) -> None:
    """Each fact was left out once; its case was seen red."""
    plan = a_plan()

    assert moved(facts(seen(), plan), plan, seen(**now), STATE) == [said]


def test_what_was_looked_at_and_is_not_there_any_more_moved() -> None:
    plan = a_plan()
    gone = replace(seen(), apps={}, seen={**seen().seen, "app.main.a": Seen(Presence.ABSENT, because="gone")})

    assert moved(facts(seen(), plan), plan, gone, STATE) == ["app.main.a: presence was present, is absent"]
