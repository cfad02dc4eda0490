"""What a plan says about secrets: who follows a new value, who does not, and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from falplan.core.consequences import consequences
from falplan.core.definition import definition_from_json, definition_to_json, make_definition
from falplan.core.plan import Action, Plan, Presence, Seen
from falplan.core.plan_json import plan_from_json, plan_to_json
from falplan.core.planner import REKEYED, explain_missing, inputs_digest, make_plan
from falplan.core.resources import GATEWAY, Resource, ResourceType
from falplan.core.spec.machine_types import BUILT_IN
from falplan.core.state import Intent, State
from falplan.core.values import JsonObject

from .builders import LINEAGE, a_gateway, an_app, applied, settings, wanted

EMPTY = State("demo", LINEAGE, 0)
NAMES = ("A", "B", "C")


def a_secret(name: str, value: str = "1", key: str = "k1", source: str = "env") -> Resource:
    inputs: JsonObject = {"source": {source: name}, "fingerprint": f"{key}:{value}"}
    return Resource(f"secret.main.{name}", ResourceType.SECRET, inputs, (GATEWAY,))


def user(name: str, *secrets: str, **settings: Any) -> Resource:
    app = an_app(name, **settings)
    inputs: JsonObject = {**app.inputs, "secrets": [*secrets]} if secrets else app.inputs
    return replace(app, inputs=inputs, dependencies=(GATEWAY, *(f"secret.main.{s}" for s in secrets)))


SPEC = wanted(a_gateway(), a_secret("A"), a_secret("B"), user("one", "A"), user("both", "A", "B"), user("none"))


def done(plan: Plan, state: State) -> State:
    """State after the plan: versions follow the values, and apps have those of their secrets."""
    after = applied(plan, state)
    resources = dict(after.resources)
    for address, recorded in resources.items():
        if recorded.type == "secret":
            version = str(recorded.inputs["fingerprint"]).partition(":")[2]
            resources[address] = replace(recorded, outputs={"version": version})
    for address in plan.after:
        if address.startswith("app.") and address in resources:
            used = [d for d in resources[address].dependencies if d.startswith("secret.")]
            versions: JsonObject = {d.rpartition(".")[2]: resources[d].outputs["version"] for d in used}
            resources[address] = replace(resources[address], outputs={"secrets": versions} if versions else {})
    kept = {a: replace(r, outputs=state.resources[a].outputs) for a, r in resources.items() if a not in plan.after}
    return replace(after, resources={**resources, **kept})


STATE = done(make_plan(SPEC, EMPTY, {}), EMPTY)


def acting(plan: Plan) -> dict[str, Action]:
    return {a: plan.changes[a].action for a in plan.after}


def test_a_new_value_makes_a_new_revision_of_exactly_the_apps_that_use_it() -> None:
    plan = make_plan({**SPEC, **wanted(a_secret("B", "2"))}, STATE, {})

    assert acting(plan) == {"secret.main.B": Action.UPDATE, "app.main.both": Action.UPDATE}
    assert plan.changes["app.main.both"].because == "secret.main.B changes"
    assert plan.changes["app.main.both"].unknown == ("revision",)
    assert plan.after["app.main.both"] == ("secret.main.B",)


def test_a_new_value_beside_a_scaling_value_rolls_the_app_too() -> None:
    changed = wanted(a_secret("B", "2"), user("both", "A", "B", max_concurrency=7))
    plan = make_plan({**SPEC, **changed}, STATE, {})
    change = plan.changes["app.main.both"]
    _, missing = consequences(plan, (), (), BUILT_IN)

    assert change.because == "its settings differ, and secret.main.B changes"
    assert change.rebuilt
    assert [m.address for m in missing] == ["app.main.both"], "a runner of the new revision needs a place"


def test_another_source_of_the_same_value_changes_no_app() -> None:
    plan = make_plan({**SPEC, **wanted(a_secret("A", source="file"))}, STATE, {})

    assert acting(plan) == {"secret.main.A": Action.UPDATE}
    assert plan.changes["secret.main.A"].because == "its source differs"


def test_a_new_key_of_the_project_changes_no_app() -> None:
    plan = make_plan({**SPEC, **wanted(a_secret("A", key="k2"))}, STATE, {}, rekeyed={"secret.main.A"})

    assert acting(plan) == {"secret.main.A": Action.UPDATE}
    assert plan.changes["secret.main.A"].because == REKEYED
    assert plan.changes["secret.main.A"].unknown == ()


def test_a_value_that_is_not_here_is_left_as_it_was_applied_and_stops_nothing_else() -> None:
    bare = replace(SPEC["secret.main.A"], inputs={"source": {"env": "A"}})
    seen = {bare.address: Seen(Presence.UNKNOWN, because="unknown (source not here): not set")}
    plan = make_plan({**SPEC, bare.address: bare, **wanted(a_secret("B", "2"))}, STATE, seen)

    assert acting(plan) == {"secret.main.B": Action.UPDATE, "app.main.both": Action.UPDATE}
    assert plan.unknown == {"secret.main.A": "unknown (source not here): not set"}
    assert plan.blocked == {}


def test_a_new_secret_says_that_its_value_is_not_here() -> None:
    plan = explain_missing(make_plan(SPEC, EMPTY, {}), {"secret.main.A": "not set"})

    assert plan.changes["secret.main.A"].because == "it is new in the spec; unknown (source not here): not set"
    assert "fingerprint" in plan.changes["secret.main.A"].unknown


def test_an_app_that_was_not_reached_after_its_secret_changed_is_deployed_by_the_next_plan() -> None:
    """As after a kill between the two. Seen red without the comparison of versions in state."""
    spec = {**SPEC, **wanted(a_secret("B", "2"))}
    half = {**STATE.resources}
    half["secret.main.B"] = replace(
        half["secret.main.B"], inputs=spec["secret.main.B"].inputs, outputs={"version": "2"}
    )
    plan = make_plan(spec, replace(STATE, resources=half), {})

    assert acting(plan) == {"app.main.both": Action.UPDATE}
    assert plan.changes["app.main.both"].because == "secret.main.B changed since it was deployed"


def test_a_secret_is_removed_after_every_app_has_let_go_of_it() -> None:
    spec = {a: r for a, r in SPEC.items() if a != "secret.main.B"} | wanted(user("both", "A"))
    plan = make_plan(spec, STATE, {})

    assert acting(plan) == {"secret.main.B": Action.DELETE, "app.main.both": Action.UPDATE}
    assert plan.after["secret.main.B"] == ("app.main.both",)


def test_another_value_is_another_operation_of_the_app_although_its_inputs_are_the_same() -> None:
    """Else the control plane would answer with what came of the earlier values. Seen red with a digest of the inputs alone."""
    first = make_plan({**SPEC, **wanted(a_secret("B", "2"))}, STATE, {}).changes["app.main.both"]
    begun = replace(
        STATE.resources["app.main.both"],
        intent=Intent("update", first.operation, first.generation, inputs_digest(first)),
    )
    state = replace(STATE, resources={**STATE.resources, "app.main.both": begun})
    same = make_plan({**SPEC, **wanted(a_secret("B", "2"))}, state, {}).changes["app.main.both"]
    other = make_plan({**SPEC, **wanted(a_secret("B", "3"))}, state, {}).changes["app.main.both"]

    assert same.operation == first.operation
    assert other.operation != first.operation


SPECS = st.fixed_dictionaries(
    {
        "secrets": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["1", "2", "3"])),
        "apps": st.dictionaries(st.sampled_from(["a", "b"]), st.sets(st.sampled_from(NAMES))),
        "most": st.integers(1, 3),
    }
)


def spec_of(drawn: dict) -> dict[str, Resource]:  # type: ignore[type-arg]
    secrets = [a_secret(name, value) for name, value in drawn["secrets"].items()]
    apps = [
        user(name, *sorted(used & drawn["secrets"].keys()), max_concurrency=drawn["most"])
        for name, used in drawn["apps"].items()
    ]
    return wanted(a_gateway(), *secrets, *apps)


@given(SPECS, SPECS)
def test_nothing_is_left_to_do_after_a_plan_with_secrets_is_applied(one: dict, other: dict) -> None:  # type: ignore[type-arg]
    state = done(make_plan(spec_of(one), EMPTY, {}), EMPTY)
    plan = make_plan(spec_of(other), state, {})
    after = done(plan, state)

    assert make_plan(spec_of(other), after, {}).is_empty
    without_places = replace(plan, changes={a: replace(c, position=None) for a, c in plan.changes.items()})
    assert plan_from_json(plan_to_json(plan)) == without_places


def test_a_revision_has_another_id_for_another_version_and_its_old_one_without_secrets() -> None:
    inputs: JsonObject = {"kind": "command", "command": ["x"], "settings": settings()}

    def revision(secrets: dict[str, str]) -> str:
        return make_definition(inputs, lock=None, bundle="b", machine_types={}, secrets=secrets).revision

    bare = make_definition(inputs, lock=None, bundle="b", machine_types={})
    assert "secrets" not in definition_to_json(bare)
    assert revision({}) == bare.revision
    assert len({revision({}), revision({"A": "1"}), revision({"A": "2"}), revision({"B": "1"})}) == 4
    given = make_definition(inputs, lock=None, bundle="b", machine_types={}, secrets={"A": "1"})
    assert definition_from_json(definition_to_json(given)) == given
