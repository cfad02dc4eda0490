"""Carrying a plan out: order, failures, interrupts, and what state remembers of each."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falplan.core.errors import ExitCode, FalplanError
from falplan.core.plan import Action, Change
from falplan.core.planner import make_plan
from falplan.core.resources import Resource, ResourceType
from falplan.core.state import State, Status
from falplan.core.values import JsonObject
from falplan.engine.apply import Moment, Result, carry_out
from falplan.engine.client import OperationFailed
from falplan.engine.handlers import Handler, Say
from falplan.stores.state.local import LocalState
from tests.core.builders import LINEAGE, a_build, a_gateway, an_app, wanted
from tests.runner.machine import until


class World:
    """Resources in memory, by address. Fails where told; remembers the order and every operation id."""

    def __init__(self, failing: dict[str, FalplanError] | None = None) -> None:
        self.failing = failing or {}
        self.things: dict[str, JsonObject] = {}
        self.log: list[str] = []
        self.operations: list[str] = []

    def apply(self, change: Change, state: State, say: Say) -> JsonObject:
        self._act(change)
        self.things[change.address] = change.after or {}
        self._answer(change)
        return {"made_by": change.operation}

    def delete(self, change: Change, state: State, say: Say) -> None:
        self._act(change)
        self.things.pop(change.address, None)
        self._answer(change)

    def _act(self, change: Change) -> None:
        self.log.append(change.address)
        self.operations.append(change.operation)
        if self.failing.get(change.address, LOST) is not LOST:
            raise self.failing[change.address]

    def _answer(self, change: Change) -> None:
        if change.address in self.failing:
            raise self.failing[change.address]


FINAL = OperationFailed("It broke", "for good", ExitCode.FAILED)
UNKNOWN = FalplanError("Connection lost", "nobody knows")
LOST = FalplanError("Connection lost", "it was done, but the answer never came")
TWO = wanted(a_gateway(), a_build("a"), an_app("a"), a_build("b"), an_app("b"))


@pytest.fixture
def store(tmp_path: Path) -> LocalState:
    return LocalState(tmp_path)


def go(
    store: LocalState,
    world: World,
    spec: dict[str, Resource],
    interrupted: threading.Event | None = None,
    moments: list[Moment] | None = None,
) -> Result:
    state = store.read("demo") or State("demo", LINEAGE, 0)
    handlers: dict[ResourceType, Handler] = dict.fromkeys(ResourceType, world)
    return carry_out(
        make_plan(spec, state, {}),
        state,
        store,
        handlers,
        parallelism=4,
        show=lambda h: moments.append(h.moment) if moments is not None else None,
        interrupted=interrupted or threading.Event(),
    )


def test_everything_is_done_after_what_it_needs_and_stands_in_state(store: LocalState) -> None:
    world = World()
    result = go(store, world, TWO)

    assert world.log.index("gateway") < world.log.index("build.main.a") < world.log.index("app.main.a")
    assert store.read("demo") == result.state
    assert set(result.state.resources) == set(TWO)
    assert not store.journal.exists()


def test_a_failure_skips_only_what_is_downstream(store: LocalState) -> None:
    """Seen red with an apply that went on as after a success; and with one that began nothing more at all."""
    moments: list[Moment] = []

    class Late(World):
        def apply(self, change: Change, state: State, say: Say) -> JsonObject:
            if change.address == "build.main.b":
                until(lambda: Moment.SKIPPED in moments)
            return super().apply(change, state, say)

    result = go(store, Late({"build.main.a": FINAL}), TWO, moments=moments)

    assert result.skipped == {"app.main.a": ("build.main.a",)}
    assert sorted(result.done) == ["app.main.b", "build.main.b", "gateway"]
    assert moments.count(Moment.SKIPPED) == 1
    assert moments.count(Moment.FAILED) == 1


def test_a_final_failure_of_a_create_is_tainted_and_tried_again_under_a_new_id(store: LocalState) -> None:
    """Seen red with an apply that recorded a failed create as applied; and with one that used its id again."""
    first = World({"build.main.a": FINAL})
    result = go(store, first, TWO)
    recorded = result.state.resources["build.main.a"]
    second = World()
    go(store, second, TWO)

    assert (recorded.status, recorded.intent) == (Status.TAINTED, None)
    assert set(second.log) == {"build.main.a", "app.main.a"}
    assert not set(first.operations) & set(second.operations)


def test_an_unknown_outcome_is_asked_again_under_the_same_id(store: LocalState) -> None:
    """Seen red with an apply that took an unknown outcome for a failure: its intent was closed."""
    first = World({"app.main.a": UNKNOWN})
    result = go(store, first, TWO)
    second = World()
    go(store, second, TWO)

    assert result.state.resources["app.main.a"].intent is not None
    assert second.operations == [first.operations[first.log.index("app.main.a")]]


def test_a_failed_update_leaves_what_was_applied_in_state(store: LocalState) -> None:
    """Seen red with an apply that recorded what a failed update had wanted."""
    go(store, World(), TWO)
    spec = {**TWO, "app.main.a": an_app("a", max_concurrency=9)}
    result = go(store, World({"app.main.a": FINAL}), spec)

    assert result.state.resources["app.main.a"].inputs == TWO["app.main.a"].inputs
    assert result.state.resources["app.main.a"].status is Status.APPLIED


def test_nothing_new_begins_after_an_interrupt_and_state_is_saved(store: LocalState) -> None:
    """Seen red with an apply that did not heed interrupts; and with one that saved no snapshot at its end."""
    interrupted = threading.Event()

    class Interrupting(World):
        def apply(self, change: Change, state: State, say: Say) -> JsonObject:
            interrupted.set()
            return super().apply(change, state, say)

    result = go(store, Interrupting(), TWO, interrupted)

    assert result.done == ["gateway"]
    assert len(result.unstarted) == 4
    assert set(store.read("demo").resources) == {"gateway"}  # type: ignore[union-attr]
    assert not store.journal.exists()


def test_a_destroy_leaves_an_empty_state_with_the_same_lineage(store: LocalState) -> None:
    go(store, World(), TWO)
    world = World()
    result = go(store, world, {})

    assert result.state.resources == {}
    assert result.state.lineage == LINEAGE
    assert world.log[-1] == "gateway"


NAMES = ["a", "b", "c"]
SPEC = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3))
FAULTS = st.dictionaries(
    st.sampled_from(["gateway", *(f"{k}.main.{n}" for k in ("app", "build") for n in NAMES)]),
    st.sampled_from([FINAL, UNKNOWN, LOST]),
    max_size=3,
)


@given(st.lists(st.tuples(SPEC, FAULTS), min_size=1, max_size=4), SPEC)
def test_after_any_faults_one_apply_converges(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[dict[str, int], dict[str, FalplanError]]],
    last: dict[str, int],
) -> None:
    """Seen red with an apply that forgot a creation whose answer was lost: state did not know what existed."""
    store = LocalState(tmp_path_factory.mktemp("state"))
    things: dict[str, JsonObject] = {}
    for drawn, faults in [*history, (last, {})]:
        world = World(faults)
        world.things = things
        go(store, world, _spec(drawn))
        state = store.read("demo")
        assert state is not None
        assert set(things) <= set(state.resources), "something exists that state does not know"
    state = store.read("demo")

    assert state is not None
    assert make_plan(_spec(last), state, {}).is_empty
    assert set(things) == set(state.resources) == set(_spec(last))
    assert all(c.action is not Action.CREATE for c in make_plan(_spec(last), state, {}).changes.values())


def _spec(drawn: dict[str, int]) -> dict[str, Resource]:
    apps = [replace(an_app(n, max_concurrency=m)) for n, m in drawn.items()]
    return wanted(a_gateway(), *apps, *(a_build(n) for n in drawn))
