"""Edits of state that a spec asks for."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from falplan.core.drift import as_seen, find_drift
from falplan.core.moves import (
    Edited,
    as_planned,
    forget,
    rename_hints,
    show_edits,
    with_imports,
    with_moves,
    with_removals,
)
from falplan.core.plan import Action, Plan, Seen
from falplan.core.planner import make_plan
from falplan.core.resources import Resource, ResourceType
from falplan.core.spec.declared import Import, Move, Removal
from falplan.core.state import Entry, Recorded, parse_state, render_state, replay
from tests.core.builders import LINEAGE, a_build, a_gateway, a_state, an_app, wanted
from tests.core.test_drift import SEEN, STATE

APPLIED = a_state(a_gateway(), a_build("old"), an_app("old"))
MOVE = Move("app.main.old", "app.main.new")


def test_a_move_takes_the_build_and_every_reference_along() -> None:
    state, moved = with_moves(APPLIED, [MOVE])

    assert moved == {"app.main.new": "app.main.old", "build.main.new": "build.main.old"}
    assert set(state.resources) == {"gateway", "app.main.new", "build.main.new"}
    assert state.resources["app.main.new"].dependencies == ("build.main.new",)
    assert state.retired == {"app.main.old": 1, "build.main.old": 1}


def test_a_move_that_was_done_does_nothing() -> None:
    once, _ = with_moves(APPLIED, [MOVE])

    assert with_moves(once, [MOVE]) == (once, {})


def test_a_chain_of_moves_ends_at_its_last_name_in_any_order() -> None:
    moves = [Move("app.main.b", "app.main.c"), Move("app.main.old", "app.main.b")]
    for order in (moves, moves[::-1]):
        state, _ = with_moves(APPLIED, order)
        assert "app.main.c" in state.resources


def test_a_moved_resource_never_uses_an_operation_id_again() -> None:
    """Seen red with a move that kept the generation of the old address."""
    state, _ = with_moves(replace(APPLIED, retired={"app.main.new": 7}), [MOVE])

    assert state.resources["app.main.new"].generation == 7
    assert "app.main.new" not in state.retired


def test_a_plan_shows_where_it_moved_from_and_is_not_empty() -> None:
    state, moved = with_moves(APPLIED, [Move("build.main.old", "build.main.other")])
    spec = wanted(a_gateway(), a_build("other"), replace(an_app("old"), dependencies=("build.main.other",)))
    plan = show_edits(make_plan(spec, state, {}), Edited(state, moved, {}, {}))

    assert plan.after == {}
    assert not plan.is_empty
    assert plan.changes["build.main.other"].previous_address == "build.main.old"


def test_what_is_removed_from_the_spec_is_forgotten_with_its_build_and_not_destroyed() -> None:
    state, gone = with_removals(APPLIED, [Removal("app.main.old")])
    plan = show_edits(make_plan(wanted(a_gateway()), state, {}), Edited(state, {}, gone, {}))

    assert {a: c.action for a, c in plan.changes.items() if c.action is not Action.NOOP} == {
        "app.main.old": Action.FORGET,
        "build.main.old": Action.FORGET,
    }
    assert plan.after == {}
    assert state.forgotten == {"app.main.old", "build.main.old"}


def test_a_removal_that_destroys_is_an_ordinary_deletion() -> None:
    assert with_removals(APPLIED, [Removal("app.main.old", destroy=True)]) == (APPLIED, {})


def test_nothing_depends_on_what_was_forgotten() -> None:
    state = forget(APPLIED, ["build.main.old"])

    assert state.resources["app.main.old"].dependencies == ()
    assert state.generation("build.main.old") == 1


def test_what_was_forgotten_is_known_as_such_until_it_is_applied_again() -> None:
    state = parse_state(render_state(forget(APPLIED, ["app.main.old"])), "here")
    back = replay(state, [Entry("done", "app.main.old", 2, Recorded("app.main.old", "app", {}, {}, (), 2))])

    assert state.forgotten == {"app.main.old"}
    assert back.forgotten == frozenset()


def test_an_import_stands_in_state_and_shows_its_id() -> None:
    app = an_app()
    found = {app.address: Recorded(app.address, "app", app.inputs, {"endpoint": "acme/hello"}, ("gateway",), 3)}
    before = replace(a_state(a_gateway(), a_build()), forgotten=frozenset({app.address}), retired={app.address: 3})
    state, imported = with_imports(before, [Import(app.address, "acme/hello")], found)
    spec = wanted(a_gateway(), a_build(), app)
    plan = show_edits(make_plan(spec, state, {}), Edited(state, {}, {}, imported))

    assert state.forgotten == frozenset()
    assert (plan.changes[app.address].action, plan.changes[app.address].importing) == (Action.NOOP, "acme/hello")
    assert not plan.is_empty


def test_what_is_known_is_not_imported_again() -> None:
    assert with_imports(APPLIED, [Import("app.main.old", "acme/old")], {}) == (APPLIED, {})


def test_a_host_that_only_changed_its_name_is_suggested_as_a_move_within_its_region() -> None:
    """Seen red with suggestions for apps alone: the plan destroyed a machine and made the same one anew."""
    old = a_host("host.lab.old")
    state = a_state(a_gateway(), old)

    (hint,) = rename_hints(make_plan(wanted(a_gateway(), a_host("host.lab.new")), state, {}))
    assert "host.lab.new is host.lab.old but for its name." in hint
    assert "moved: [{from: host.lab.old, to: host.lab.new}]" in hint
    assert rename_hints(make_plan(wanted(a_gateway(), a_host("host.lab.new", size="large")), state, {})) == ()
    assert rename_hints(make_plan(wanted(a_gateway(), a_host("host.other.new")), state, {})) == ()


def a_host(address: str, size: str = "small") -> Resource:
    return Resource(address, ResourceType.HOST, {"size": size})


def test_an_app_that_only_changed_its_name_is_suggested_as_a_move() -> None:
    plan = make_plan(wanted(a_gateway(), a_build("new"), an_app("new")), APPLIED, {})
    other = make_plan(wanted(a_gateway(), a_build("new"), an_app("new", max_concurrency=9)), APPLIED, {})

    (hint,) = rename_hints(plan)
    assert "moved: [{from: app.main.old, to: app.main.new}]" in hint
    assert rename_hints(other) == ()


def test_a_plan_alone_tells_how_state_is_edited() -> None:
    """A saved plan is carried out on the state as it was saved, long after the spec was read."""
    app = an_app()
    before = a_state(a_gateway(), a_build("old"), an_app("old"), a_build("gone"), an_app("gone"))
    state, moved = with_moves(before, [MOVE])
    state, gone = with_removals(state, [Removal("app.main.gone")])
    found = {app.address: Recorded(app.address, "app", app.inputs, {"endpoint": "acme/hello"}, ("gateway",), 0)}
    state, imported = with_imports(state, [Import(app.address, "acme/hello")], found)
    spec = wanted(a_gateway(), a_build("new"), an_app("new"), a_build(), app)
    plan = show_edits(make_plan(spec, state, {}), Edited(state, moved, gone, imported))

    assert as_planned(plan, before) == state


@given(SEEN)
def test_a_plan_of_a_refresh_alone_tells_what_was_seen(seen: dict[str, Seen]) -> None:
    drift = find_drift(STATE, seen).drift
    plan = Plan("demo", LINEAGE, 1, {}, {}, drift=drift, refresh_only=True)

    assert as_planned(plan, STATE) == as_seen(STATE, seen)
