"""The event stream: every event is as its schema says, and listings are in one order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from falplan.core.errors import FalplanError
from falplan.core.outcome import Fate, outcomes
from falplan.core.plan import Action, Drift, Plan, Presence, Reason
from falplan.core.planner import make_plan
from falplan.core.resources import ResourceType
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.views import events
from tests.core.builders import a_build, a_gateway, a_state, an_app, wanted

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "events.json").read_text())
VALID = Draft202012Validator(SCHEMA, format_checker=FormatChecker())
STATE = a_state(a_gateway(), a_build("gone"), a_build("b"))


def a_plan() -> Plan:
    plan = make_plan(wanted(a_gateway(port=9), a_build("a"), an_app("a"), a_build("b"), an_app("b")), STATE, {})
    changes = dict(plan.changes)
    changes["build.main.b"] = replace(
        changes["build.main.b"],
        action=Action.REPLACE_CREATE_FIRST,
        reason=Reason.TAINTED,
        previous_address="build.main.old",
        importing="x",
    )
    drift = Drift("gateway", ResourceType.GATEWAY, Presence.STOPPED, "it is stopped")
    return replace(
        plan, changes=changes, drift={"gateway": drift, "build.main.b": replace(drift, address="build.main.b")}
    )


def every_event() -> list[JsonObject]:
    plan = a_plan()
    change = plan.changes["build.main.a"]
    ended = outcomes(plan, ["gateway"], {"build.main.a": "It broke"})
    url: JsonObject = {"url": "https://x:1"}
    state = replace(STATE, resources={**STATE.resources, "gateway": replace(STATE.resources["gateway"], outputs=url)})
    return [
        events.version(),
        *events.plan_events(plan),
        events.apply_start(change),
        events.apply_progress(change, 10.7),
        events.apply_progress(change, 3, "uploading"),
        events.apply_complete(change, 12.9),
        events.apply_errored(change, 1, "It broke"),
        *(events.apply_skipped(plan.changes[o.address], o) for o in ended if o.fate is Fate.SKIPPED),
        events.diagnostic(FalplanError("It broke", "for good"), "build.main.a"),
        events.diagnostic(FalplanError("It broke")),
        events.outputs(state),
        events.outputs(State("demo", "l", 0)),
        events.final_summary(plan, ended, destroys=False, saved=True, complete=False),
        events.final_summary(None, (), destroys=True, saved=True, complete=True),
    ]


def test_every_kind_of_event_is_as_its_schema_says() -> None:
    lines = [
        json.loads(events.line(e, timestamp="2026-01-31T12:00:00.000Z", sequence=n + 1))
        for n, e in enumerate(every_event())
    ]
    for body in lines:
        VALID.validate(body)

    assert {body["type"] for body in lines} == set(SCHEMA["properties"]["type"]["enum"])


@pytest.mark.parametrize("at", range(len(every_event())))
def test_an_event_that_lacks_anything_is_not_valid(at: int) -> None:
    """Each key that the schema demands is missed. Seen red with a schema whose conditions matched no type."""
    whole: Any = json.loads(events.line(every_event()[at], timestamp="2026-01-31T12:00:00.000Z", sequence=1))
    optional = {"falplan"} if whole["type"] == "change_summary" else set()
    for key in set(whole) - optional:
        assert not VALID.is_valid({k: v for k, v in whole.items() if k != key}), key
    for part in {"hook", "change", "diagnostic", "changes"} & set(whole):
        kept = {"text", "address", "reason", "previous_resource", "importing"}
        for key in set(whole[part]) - kept:
            less = {k: v for k, v in whole[part].items() if k != key}
            assert not VALID.is_valid({**whole, part: less}), (part, key)


def test_what_is_listed_is_listed_by_address() -> None:
    """Seen red with planned changes in the order in which they run."""
    found = events.plan_events(a_plan())
    planned: list[Any] = [e["change"] for e in found if e["type"] == "planned_change"]
    drift: list[Any] = [e["change"] for e in found if e["type"] == "resource_drift"]
    addresses = [c["resource"]["addr"] for c in planned]

    assert addresses == sorted(addresses)
    assert [d["resource"]["addr"] for d in drift] == ["build.main.b", "gateway"]
    assert found[-1]["type"] == "change_summary"
    assert {c["resource"]["addr"]: c["action"] for c in planned} == {
        "app.main.a": "create",
        "app.main.b": "create",
        "build.main.a": "create",
        "build.main.b": "replace",
        "build.main.gone": "delete",
        "gateway": "update",
    }


def test_the_last_event_counts_every_operation_once() -> None:
    plan = a_plan()
    ended = outcomes(plan, ["gateway"], {"build.main.a": "It broke"})
    event: Any = events.final_summary(plan, ended, destroys=False, saved=True, complete=False)
    own = event["falplan"]

    assert own["counts"] == {"done": 1, "failed": 1, "skipped": 2, "under_way": 0, "not_begun": len(ended) - 4}
    assert sum(sum(fates.values()) for fates in own["actions"].values()) == len(ended)
    assert own["addresses"]["skipped"] == ["app.main.a", "build.main.gone"]
    assert event["changes"] == {"add": 0, "change": 1, "import": 0, "remove": 0, "operation": "apply"}
    assert event["@level"] == "error"
