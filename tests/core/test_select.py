"""Parts of a plan: OpenTofu's documented rules for targets and exclusions, and what falplan adds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.plan import Action, Plan
from falplan.core.planner import make_plan
from falplan.core.resources import Resource
from falplan.core.select import exclude, in_environment, target
from falplan.core.state import State
from tests.core.builders import LINEAGE, a_build, a_gateway, a_state, an_app, wanted

EMPTY = State("demo", LINEAGE, 0)


def app(name: str, *needed: str) -> Resource:
    return replace(an_app(name), dependencies=tuple(f"app.main.{n}" for n in needed))


DIAMOND = wanted(app("a"), app("b", "a"), app("c", "a"), app("d", "b", "c"))
"""A <- {B, C} <- D: D depends on B and C, which depend on A. The graph of OpenTofu's own table."""


def names(plan: Plan) -> str:
    return "".join(sorted(address.rpartition(".")[2] for address in plan.after))


def addresses(letters: str) -> list[str]:
    return [f"app.main.{letter}" for letter in letters]


@pytest.mark.parametrize(
    ("excluded", "left"), [("d", "abc"), ("a", ""), ("b", "ac"), ("c", "ab"), ("bc", "a"), ("", "abcd")]
)
def test_an_exclusion_leaves_out_what_depends_on_it(excluded: str, left: str) -> None:
    plan = exclude(make_plan(DIAMOND, EMPTY, {}), addresses(excluded))

    assert names(plan) == left
    assert set(plan.left_out) == set(addresses("abcd")) - set(addresses(left))


@pytest.mark.parametrize(("excluded", "left"), [("b", "cd"), ("d", ""), ("a", "bcd"), ("c", "bd")])
def test_an_exclusion_from_destruction_keeps_what_it_depends_on(excluded: str, left: str) -> None:
    plan = exclude(make_plan({}, a_state(*DIAMOND.values()), {}), addresses(excluded))

    assert names(plan) == left


@pytest.mark.parametrize(("targeted", "left"), [("a", "a"), ("b", "ab"), ("d", "abcd"), ("bc", "abc")])
def test_a_target_brings_what_it_depends_on(targeted: str, left: str) -> None:
    plan = target(make_plan(DIAMOND, EMPTY, {}), addresses(targeted))

    assert names(plan) == left


@pytest.mark.parametrize(("targeted", "left"), [("d", "d"), ("b", "bd"), ("a", "abcd")])
def test_a_target_of_destruction_brings_what_depends_on_it(targeted: str, left: str) -> None:
    plan = target(make_plan({}, a_state(*DIAMOND.values()), {}), addresses(targeted))

    assert names(plan) == left


def test_an_exclusion_of_nothing_leaves_the_whole_plan() -> None:
    plan = make_plan(DIAMOND, EMPTY, {})

    assert exclude(plan, ["app.main.unknown"]) == plan


def test_what_is_left_out_says_why_and_shows_no_change() -> None:
    before = a_state(*wanted(app("a"), app("b", "a")).values())
    changed = wanted(
        replace(app("a"), inputs={**app("a").inputs, "files": {"app.py": "new"}}), app("b", "a"), app("c", "a")
    )
    plan = exclude(make_plan(changed, before, {}), addresses("a"))

    assert plan.changes["app.main.a"].action is Action.NOOP
    assert plan.changes["app.main.a"].after == before.resources["app.main.a"].inputs
    assert "app.main.c" not in plan.changes
    assert plan.left_out == {
        "app.main.a": "it is excluded",
        "app.main.c": "it hangs together with app.main.a, which is excluded",
    }


def test_a_target_that_rests_still_brings_what_it_needs() -> None:
    """Seen red with a search among the operations alone: a resource that stays as it is has none."""
    state = a_state(a_gateway(), a_build(), an_app())
    spec = wanted(a_gateway(port=1), a_build(), an_app(), a_build("other"))
    plan = target(make_plan(spec, state, {}), ["app.main.hello"])

    assert list(plan.after) == ["gateway"]


def test_an_environment_brings_the_gateway_and_nothing_of_the_others() -> None:
    spec = wanted(a_gateway(), a_build(), an_app(), a_build("x", "staging"), an_app("x", "staging"))
    plan = in_environment(make_plan(spec, EMPTY, {}), "staging")

    assert sorted(plan.after) == ["app.staging.x", "build.staging.x", "gateway"]
    assert plan.left_out == {}
    assert plan.hints == ("2 changes outside environment staging not shown.",)


LETTERS = st.sets(st.sampled_from("abcdef"), min_size=1)


@given(st.data(), LETTERS, LETTERS)
def test_no_operation_loses_one_that_it_waits_for(data: st.DataObject, before: set[str], now: set[str]) -> None:
    """Seen red with an exclusion of the excluded alone."""

    def spec(letters: set[str]) -> dict[str, Resource]:
        return wanted(
            *(
                app(
                    x,
                    *data.draw(st.sets(st.sampled_from(sorted(y for y in letters if y < x))))
                    if any(y < x for y in letters)
                    else (),
                )
                for x in sorted(letters)
            )
        )

    plan = make_plan(spec(now), a_state(*spec(before).values()), {})
    chosen = addresses("".join(data.draw(LETTERS)))
    for part in (target(plan, chosen), exclude(plan, chosen)):
        for address, waits in part.after.items():
            assert set(waits) == set(plan.after[address])
    assert not set(exclude(plan, chosen).after) & set(chosen)
    assert set(chosen) & set(plan.after) <= set(target(plan, chosen).after)
