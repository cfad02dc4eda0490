"""What is protected is neither destroyed nor replaced, and the message says how it could be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from falplan.core.plan import Action
from falplan.core.planner import make_plan
from falplan.core.protection import protected_destroys
from falplan.core.resources import PROTECT, Resource
from falplan.core.state import State, parse_state, recorded_from_json, recorded_to_json, render_state

from .builders import a_gateway, a_state, an_app, wanted


def protected(resource: Resource) -> Resource:
    return replace(resource, inputs={**resource.inputs, **PROTECT}, protected=True)


def recorded(*resources: Resource) -> State:
    state = a_state(*resources)
    found = {r.address: replace(state.resources[r.address], protected=r.protected) for r in resources}
    return replace(state, resources=found)


MOVED = replace(an_app(), inputs={**an_app().inputs, "endpoint": "umbrella/hello"})
STAGED = an_app(environment="staging")


@pytest.mark.parametrize(
    ("before", "after", "message", "way_out"),
    [
        (
            protected(an_app()),
            None,
            "app.main.hello is protected and would be destroyed: it is no longer in the spec",
            "Put it back with `protect: false` in the app hello, or under environments.main.apps.hello, run `falplan apply`, "
            "then remove it.",
        ),
        (
            protected(STAGED),
            None,
            "app.staging.hello is protected and would be destroyed: environment staging is no longer in the spec",
            "Put the environment back with `protect: false` in the app hello, or under environments.staging.apps.hello, run "
            "`falplan apply`, then remove the environment.",
        ),
        (
            protected(an_app()),
            protected(MOVED),
            "app.main.hello is protected and would be replaced: endpoint changes from acme/hello to umbrella/hello",
            "Set `protect: false` in the app hello, or under environments.main.apps.hello, run `falplan apply`, then make this "
            "change.",
        ),
        (
            protected(an_app()),
            MOVED,
            "app.main.hello is protected and would be replaced: endpoint changes from acme/hello to umbrella/hello",
            "Set `protect: false` in the app hello, or under environments.main.apps.hello, run `falplan apply`, then make this "
            "change.",
        ),
        (
            protected(a_gateway()),
            None,
            "gateway is protected and would be destroyed: it is no longer in the spec",
            "Put it back with `protect: false` under `gateway`, run `falplan apply`, then remove it.",
        ),
    ],
    ids=["left the spec", "left with its environment", "replaced", "replaced while it is given up", "gateway"],
)
def test_a_refusal_names_resource_cause_and_way_out(
    before: Resource, after: Resource | None, message: str, way_out: str
) -> None:
    """Seen red with protection looked up in the spec alone, which says nothing any more of what has left it."""
    plan = make_plan(wanted(after) if after else {}, recorded(before), {})
    (found,) = protected_destroys(plan, ["main"])

    assert (found.message, found.detail, found.refuses) == (message, (way_out,), True)


def test_whatever_destroys_says_so() -> None:
    plan = make_plan({}, recorded(protected(an_app())), {}, because_deleted="environment main is destroyed")
    (found,) = protected_destroys(plan)

    assert found.message == "app.main.hello is protected and would be destroyed: environment main is destroyed"
    assert found.detail[0].endswith("run `falplan apply`, then destroy it.")


def test_changes_in_place_and_creations_are_none_of_its_business() -> None:
    state = recorded(protected(an_app()))

    assert protected_destroys(make_plan(wanted(protected(an_app(max_concurrency=9))), state, {})) == []
    assert protected_destroys(make_plan(wanted(protected(an_app())), recorded(), {})) == []
    assert protected_destroys(make_plan({}, recorded(an_app()), {})) == []


def test_taking_protection_away_is_a_change_in_place_of_its_own() -> None:
    """Seen red with `protect` outside the inputs: nothing was planned, and state protected the app for ever."""
    change = make_plan(wanted(an_app()), recorded(protected(an_app())), {}).changes["app.main.hello"]

    assert (change.action, [a.because for a in change.attributes]) == (Action.UPDATE, ["it may be destroyed again"])
    assert not change.rebuilt
    assert "revision" not in change.unknown


def test_state_remembers_protection_and_reads_what_never_heard_of_it() -> None:
    state = recorded(protected(an_app()), an_app("other"))
    body = recorded_to_json(state.resources["app.main.other"])

    assert parse_state(render_state(state), "here") == state
    assert "protected" not in body
    assert not recorded_from_json(body).protected
