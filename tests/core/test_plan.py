"""What a plan says about wanted, recorded and seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.graph import dependency_graph, order
from falplan.core.plan import Action, Override, Presence, Reason, Seen
from falplan.core.plan_json import plan_from_json, plan_to_json
from falplan.core.planner import inputs_digest, make_plan, only_deletes
from falplan.core.resources import Resource, type_of
from falplan.core.state import Intent, State, Status

from .builders import LINEAGE, a_build, a_gateway, a_state, an_app, applied, wanted

EMPTY = State("demo", LINEAGE, 0)


def everything(**changed: object) -> dict[str, Resource]:
    return wanted(a_gateway(), a_build(), an_app(**changed))  # type: ignore[arg-type]


def test_all_is_created_when_nothing_is_recorded() -> None:
    plan = make_plan(everything(), EMPTY, {})

    assert {c.action for c in plan.changes.values()} == {Action.CREATE}
    assert [c.address for c in plan.operations] == ["gateway", "build.main.hello", "app.main.hello"]


def test_nothing_changes_when_the_spec_is_what_was_applied() -> None:
    plan = make_plan(everything(), a_state(*everything().values()), {})

    assert plan.is_empty


def test_a_scaling_value_is_changed_in_place_and_says_so() -> None:
    plan = make_plan(everything(max_concurrency=7), a_state(*everything().values()), {})
    (attribute,) = plan.changes["app.main.hello"].attributes

    assert plan.changes["app.main.hello"].action is Action.UPDATE
    assert (attribute.path, attribute.before, attribute.after) == (("settings", "max_concurrency"), 2, 7)
    assert attribute.because == "updated in place"


def test_an_edited_file_makes_a_new_revision_and_names_the_file() -> None:
    plan = make_plan(everything(files={"app.py": "bb"}), a_state(*everything().values()), {})
    (attribute,) = plan.changes["app.main.hello"].attributes

    assert attribute.path == ("files", "app.py")
    assert attribute.because == "makes a new revision"


def test_a_changed_build_makes_a_new_revision_of_its_app() -> None:
    spec = wanted(a_gateway(), a_build(requirements=("numpy",)), an_app())
    plan = make_plan(spec, a_state(*everything().values()), {})

    assert plan.changes["app.main.hello"].action is Action.UPDATE
    assert plan.changes["app.main.hello"].because == "build.main.hello changes"
    assert plan.after["app.main.hello"] == ("build.main.hello",)


@pytest.mark.parametrize(
    ("strategy", "action"), [("rolling", Action.REPLACE_CREATE_FIRST), ("recreate", Action.REPLACE)]
)
def test_a_changed_endpoint_replaces_the_app_in_the_order_of_its_strategy(strategy: str, action: Action) -> None:
    app = an_app(strategy=strategy)
    moved = replace(app, inputs={**app.inputs, "endpoint": "umbrella/hello"})
    plan = make_plan(wanted(a_gateway(), a_build(), moved), a_state(a_gateway(), a_build(), app), {})

    assert (plan.changes[app.address].action, plan.changes[app.address].reason) == (action, Reason.CANNOT_UPDATE)
    assert any(a.forces_replacement for a in plan.changes[app.address].attributes)


def test_an_app_waits_for_the_gateway_also_when_its_build_stays_as_it_is() -> None:
    """Seen red with an order of direct dependencies alone: the app was deployed while the control plane still started."""
    seen = {"gateway": Seen(Presence.STOPPED, because="it is stopped")}
    plan = make_plan(everything(files={"app.py": "bb"}), a_state(*everything().values()), seen)

    assert plan.after == {"gateway": (), "app.main.hello": ("gateway",)}


def test_a_long_chain_of_apps_that_rest_is_looked_through() -> None:
    """Seen red with a recursive search: 3,000 apps in a row were too many."""
    apps = [an_app(f"a{n:04}") for n in range(3_000)]
    chained = [replace(app, dependencies=(apps[n - 1].address if n else "gateway",)) for n, app in enumerate(apps)]
    last = replace(chained[-1], inputs={**chained[-1].inputs, "files": {"app.py": "bb"}})
    seen = {"gateway": Seen(Presence.STOPPED, because="it is stopped")}
    plan = make_plan(wanted(a_gateway(), *chained[:-1], last), a_state(a_gateway(), *chained), seen)

    assert plan.after[last.address] == ("gateway",)


def test_what_is_marked_is_destroyed_and_made_anew() -> None:
    state = a_state(*everything().values())
    marked = replace(state.resources["app.main.hello"], status=Status.REMAKE)
    plan = make_plan(everything(), replace(state, resources={**state.resources, "app.main.hello": marked}), {})
    change = plan.changes["app.main.hello"]

    assert (change.action, change.reason) == (Action.REPLACE, Reason.TAINTED)


def test_a_replacement_that_was_asked_for_says_so() -> None:
    plan = make_plan(everything(), a_state(*everything().values()), {}, renewed=["app.main.hello"])
    change = plan.changes["app.main.hello"]

    assert (change.action, change.reason) == (Action.REPLACE, Reason.REQUESTED)
    assert list(plan.after) == ["app.main.hello"]


def test_what_left_the_spec_is_deleted_after_all_that_needed_it() -> None:
    plan = make_plan({}, a_state(*everything().values()), {})

    assert [c.address for c in plan.operations] == ["app.main.hello", "build.main.hello", "gateway"]


def test_a_dependency_is_deleted_after_its_last_user_let_go_of_it() -> None:
    command = replace(an_app(), dependencies=("gateway",))
    plan = make_plan(wanted(a_gateway(), command), a_state(*everything().values()), {})

    assert plan.changes["build.main.hello"].action is Action.DELETE
    assert "build.main.hello" in plan.after


def test_what_could_not_be_looked_at_is_unknown_and_never_created_again() -> None:
    seen = dict.fromkeys(everything(), Seen(Presence.UNKNOWN, because="lives on mars"))
    plan = make_plan(everything(), a_state(*everything().values()), seen)

    assert plan.is_empty
    assert plan.unknown["app.main.hello"] == "lives on mars"


def test_what_is_gone_is_created_again_with_the_next_generation() -> None:
    seen = {"app.main.hello": Seen(Presence.ABSENT, because="the control plane does not know it")}
    plan = make_plan(everything(), a_state(*everything().values()), seen)
    change = plan.changes["app.main.hello"]

    assert (change.action, change.generation) == (Action.CREATE, 2)
    assert "does not know it" in change.because


def test_a_live_difference_is_drift_and_is_put_right() -> None:
    app = an_app()
    live = {**app.inputs, "settings": {**app.inputs["settings"], "max_concurrency": 9}}  # type: ignore[dict-item]
    plan = make_plan(everything(), a_state(*everything().values()), {app.address: Seen(Presence.PRESENT, live)})
    change = plan.changes[app.address]

    assert change.action is Action.UPDATE
    assert [(d.before, d.after) for d in change.drift] == [(2, 9)]


def test_an_interrupted_operation_is_finished_under_the_same_id() -> None:
    first = make_plan(everything(max_concurrency=7), a_state(*everything().values()), {}).changes["app.main.hello"]
    state = a_state(*everything().values())
    intent = Intent("update", first.operation, first.generation, inputs_digest(first))
    open_ = replace(state.resources["app.main.hello"], intent=intent)
    state = replace(state, resources={**state.resources, "app.main.hello": open_})
    again = make_plan(everything(max_concurrency=7), state, {}).changes["app.main.hello"]
    other = make_plan(everything(max_concurrency=8), state, {}).changes["app.main.hello"]

    assert again.operation == first.operation
    assert other.operation != first.operation


def test_a_tainted_resource_is_tried_again() -> None:
    state = a_state(*everything().values())
    tainted = replace(state.resources["app.main.hello"], status=Status.TAINTED)
    state = replace(state, resources={**state.resources, "app.main.hello": tainted})

    assert make_plan(everything(), state, {}).changes["app.main.hello"].action is Action.UPDATE


def test_an_operation_id_is_never_used_for_two_generations() -> None:
    state = EMPTY
    ids = []
    for spec in (everything(), {}, everything(), {}):
        plan = make_plan(spec, state, {})
        ids += [c.operation for c in plan.operations]
        state = applied(plan, state)

    assert len(ids) == len(set(ids)) == 12


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
SPECS = st.dictionaries(
    NAMES,
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["aa", "bb"]),
        st.sampled_from([(), ("numpy",), ("torch",)]),
        st.lists(NAMES, max_size=3),
    ),
)


def random_spec(drawn: dict[str, tuple[int, str, tuple[str, ...], list[str]]]) -> dict[str, Resource]:
    resources = [a_gateway()]
    for name, (least, code, requirements, others) in drawn.items():
        app = an_app(name, files={"app.py": code}, min_concurrency=least, max_concurrency=9)
        before = tuple(f"app.main.{o}" for o in sorted(set(others)) if o in drawn and o < name)
        resources += [a_build(name, requirements=requirements), replace(app, dependencies=(*app.dependencies, *before))]
    return wanted(*resources)


@given(st.lists(SPECS, min_size=1, max_size=4))
def test_the_plan_of_an_applied_plan_is_empty(
    specs: list[dict[str, tuple[int, str, tuple[str, ...], list[str]]]],
) -> None:
    state = EMPTY
    for drawn in specs:
        spec = random_spec(drawn)
        state = applied(make_plan(spec, state, {}), state)

        assert make_plan(spec, state, {}).is_empty
        assert set(state.resources) == set(spec)


@given(SPECS, SPECS)
def test_operations_come_in_an_order_that_the_graph_allows(one: dict, other: dict) -> None:  # type: ignore[type-arg]
    state = applied(make_plan(random_spec(one), EMPTY, {}), EMPTY)
    spec = random_spec(other)
    plan = make_plan(spec, state, {})
    position = {c.address: i for i, c in enumerate(plan.operations)}

    for change in plan.operations:
        for needed in change.dependencies:
            if needed not in position:
                continue
            if plan.changes[needed].action is Action.DELETE:
                assert position[change.address] < position[needed]
            elif change.action is not Action.DELETE:
                assert position[needed] < position[change.address]


@given(SPECS, SPECS)
def test_a_plan_survives_its_json(one: dict, other: dict) -> None:  # type: ignore[type-arg]
    state = applied(make_plan(random_spec(one), EMPTY, {}), EMPTY)
    plan = make_plan(random_spec(other), state, {})
    without_places = replace(plan, changes={a: replace(c, position=None) for a, c in plan.changes.items()})

    assert plan_from_json(plan_to_json(plan)) == without_places


def test_order_is_stable_among_equals() -> None:
    graph = dependency_graph({"b": [], "a": [], "c": ["a"]})

    assert order(graph) == ["a", "b", "c"]


@pytest.mark.parametrize("action", list(Action))
def test_terraforms_names_of_actions(action: Action) -> None:
    known = {"create", "update", "delete", "no-op", "forget", "read"}

    assert set(action.terraform) <= known


def test_a_build_is_removed_only_after_every_deploy_of_the_same_plan() -> None:
    """Removing one tidies up locks and files that nobody uses: what is about to be deployed must be in use by then."""
    new = wanted(a_gateway(), a_build("new"), an_app("new"))
    plan = make_plan(new, a_state(*everything().values()), {})

    assert "app.main.new" in plan.after["build.main.hello"]


def test_another_size_of_a_machine_type_is_another_revision() -> None:
    app = an_app()
    small = replace(app, inputs={**app.inputs, "machine_types": {"XS": {"ram": 1}}})
    large = replace(app, inputs={**app.inputs, "machine_types": {"XS": {"ram": 2}}})
    plan = make_plan(wanted(a_gateway(), a_build(), large), a_state(a_gateway(), a_build(), small), {})
    (attribute,) = plan.changes[app.address].attributes

    assert attribute.because == "makes a new revision"


def test_destroying_an_environment_carries_out_nothing_else() -> None:
    staging = an_app("hello", "staging")
    state = a_state(*everything().values(), a_build("hello", "staging"), staging)
    seen = {
        "gateway": Seen(Presence.STOPPED, because="it is stopped"),
        "app.main.hello": Seen(Presence.ABSENT, because="gone"),
    }
    kept = {
        a: Resource(a, type_of(a), r.inputs, r.dependencies) for a, r in state.resources.items() if "staging" not in a
    }
    plan = only_deletes(make_plan(kept, state, seen), state)

    assert {c.address: c.action for c in plan.operations} == {
        "gateway": Action.UPDATE,
        "app.staging.hello": Action.DELETE,
        "build.staging.hello": Action.DELETE,
    }
    assert "gateway" in plan.after["app.staging.hello"]


def test_a_revision_that_was_chosen_on_the_control_plane_is_taken_back() -> None:
    """Two revisions may have the same inputs, and differ in a lock. Seen red with a plan that looked at inputs alone."""
    app = an_app()
    made = Override("r-1", "r-2", "2026-11-20T08:00:00Z", "bob")
    seen = {app.address: Seen(Presence.PRESENT, app.inputs, overrides={"revision": made})}
    plan = make_plan(everything(), a_state(*everything().values()), seen)
    change = plan.changes[app.address]

    assert (change.action, change.because) == (
        Action.UPDATE,
        "revision r-1 was chosen on the control plane, r-2 was applied",
    )
    assert change.unknown == ("revision",)
