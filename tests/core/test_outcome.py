"""What became of a plan's operations, and how long they take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from falplan.core.outcome import Fate, blamed, outcomes, tally
from falplan.core.planner import make_plan
from falplan.core.timing import Stopwatch
from falplan.core.walk import Walk
from tests.core.builders import a_build, a_gateway, a_state, an_app, wanted

NAMES = st.sampled_from("abcdefgh")


@given(st.dictionaries(NAMES, st.frozensets(NAMES)), st.frozensets(NAMES))
def test_what_is_blamed_is_what_the_walk_skips(drawn: dict[str, frozenset[str]], failing: frozenset[str]) -> None:
    """Edges go from later names to earlier ones. Seen red with blame that stopped at direct dependants."""
    after = {n: sorted(d for d in before if d < n and d in drawn) for n, before in drawn.items()}
    walk = Walk(after)
    ready, failed = walk.start(), []
    while ready:
        name = ready.pop()
        if name in failing:
            failed.append(name)
            walk.fail(name)
        else:
            ready += walk.finish(name)

    found = blamed(after, failed)
    assert set(found) == set(walk.skipped)
    assert all(causes == tuple(sorted(causes)) and set(causes) <= set(failed) for causes in found.values())


def test_a_skipped_one_names_every_failure_upstream_however_far() -> None:
    after = {"a": (), "b": (), "c": ("a",), "d": ("b", "c"), "e": ()}

    assert blamed(after, {"a": "", "b": ""}) == {"c": ("a",), "d": ("a", "b")}


def test_every_operation_has_one_fate_by_address() -> None:
    """Seen red with a list in the order in which things ended."""
    plan = make_plan(wanted(a_gateway(), a_build("a"), an_app("a"), a_build("b"), an_app("b")), a_state(), {})
    ended = outcomes(plan, ["gateway"], {"build.main.a": "It broke"}, ["build.main.b"])

    assert [(o.address, o.fate) for o in ended] == [
        ("app.main.a", Fate.SKIPPED),
        ("app.main.b", Fate.NOT_BEGUN),
        ("build.main.a", Fate.FAILED),
        ("build.main.b", Fate.UNDER_WAY),
        ("gateway", Fate.DONE),
    ]
    assert ended[0].blamed == ("build.main.a",)
    assert tally(ended) == dict.fromkeys(Fate, 1)


def test_a_sign_of_life_is_due_each_ten_seconds_and_once() -> None:
    """Seen red with a watch that counted from the last sign: signs drifted; and with one that told of what had ended."""
    watch = Stopwatch()
    watch.start("b", 100.0)
    watch.start("a", 101.0)

    assert watch.due(109.9) == []
    assert watch.due(110.5) == [("b", 10.5)]
    assert watch.due(111.0) == [("a", 10.0)]
    assert watch.due(119.9) == []
    assert watch.due(143.0) == [("a", 42.0), ("b", 43.0)]
    assert watch.due(149.9) == []
    assert watch.due(151.0) == [("a", 50.0), ("b", 51.0)]
    assert watch.end("b", 152.0) == 52.0
    assert watch.due(161.0) == [("a", 60.0)]
    assert watch.running == ["a"]
