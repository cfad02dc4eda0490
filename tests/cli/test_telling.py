"""Telling how an apply goes, with a clock that the test turns: signs of life, order, last words."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from falplan.cli.telling import Account, Ending, Events, Human, ticking
from falplan.core.errors import StateNotSaved
from falplan.core.planner import make_plan
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine.apply import Happened, Moment, Result
from falplan.engine.handlers import Say
from falplan.engine.last_resort import Kept
from tests.core.builders import LINEAGE, a_build, a_gateway, an_app, wanted
from tests.engine.memory_store import MemoryStore
from tests.engine.test_apply import FINAL, World
from tests.engine.test_last_resort import SPEC, go
from tests.runner.machine import until

PLAN = make_plan(wanted(a_gateway(), a_build("a"), an_app("a")), State("demo", LINEAGE, 0), {})
GATEWAY = PLAN.changes["gateway"]


class Turned:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_whatever_runs_for_long_shows_a_sign_of_life(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Turned()
    teller = Human(color=False, now=clock)
    teller.begin(PLAN)
    teller.tell(Happened(Moment.START, GATEWAY))
    for seconds in (5.0, 5.5, 20.0):
        clock.time += seconds
        teller.tick()
    teller.tell(Happened(Moment.DONE, GATEWAY))
    clock.time += 60
    teller.tick()

    assert capfd.readouterr().err.splitlines() == [
        "gateway: Creating...",
        "gateway: Still creating... [10s elapsed]",
        "gateway: Still creating... [30s elapsed]",
        "gateway: Creation complete after 30.5s",
    ]


def test_signs_of_life_end_with_the_block() -> None:
    ticks: list[str] = []
    with ticking(lambda: ticks.append(threading.current_thread().name), every=0.001):
        until(lambda: len(ticks) > 3)
    told = len(ticks)

    assert not [t for t in threading.enumerate() if t.name == ticks[0]]
    assert len(ticks) == told


def told(lines: list[str]) -> list[Any]:
    return [json.loads(line) for line in lines]


def test_events_of_one_address_are_in_order_and_numbered_without_gaps() -> None:
    """Signs of life come from another thread all the while."""
    lines: list[str] = []
    time = Turned()

    class Talking(World):
        def apply(self, change: Any, state: State, say: Say) -> JsonObject:
            for _ in range(20):
                time.time += 11
                say("going on")
            return super().apply(change, state, say)

    teller = Events(now=time, write=lines.append)
    store = MemoryStore()
    plan = make_plan(SPEC, State("demo", LINEAGE, 0), {})
    teller.begin(plan)
    moments: list[Happened] = []
    with ticking(teller.tick, every=0.0001):
        result = go(store, Talking({"build.main.b": FINAL}), _Tee(moments, teller))
    teller.end(Ending(plan, result, None, "apply", False))

    events = told(lines)
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "version"
    assert events[-1]["type"] == "change_summary"
    by_address: dict[str, list[str]] = {}
    for e in events:
        if "hook" in e:
            by_address.setdefault(e["hook"]["resource"]["addr"], []).append(e["type"])
    for address, kinds in by_address.items():
        if address == "app.main.b":
            assert kinds == ["apply_skipped"]
        else:
            assert kinds[0] == "apply_start"
            assert set(kinds[1:-1]) == {"apply_progress"}
            assert kinds[-1] == ("apply_errored" if address == "build.main.b" else "apply_complete")


def test_no_sign_of_life_comes_after_the_end() -> None:
    """The operation ends while a sign of life is being written. Seen red with a teller without its mutex."""
    lines: list[str] = []
    ending: list[threading.Thread] = []
    clock = Turned()

    def write(line: str) -> None:
        if "apply_progress" in line:
            ending.append(threading.Thread(target=teller.tell, args=[Happened(Moment.DONE, GATEWAY)]))
            ending[0].start()
            ending[0].join(timeout=0.3)  # it has to wait for this line
        lines.append(line)

    teller = Events(now=clock, write=write)
    teller.begin(PLAN)
    teller.tell(Happened(Moment.START, GATEWAY))
    clock.time += 11
    teller.tick()
    ending[0].join()

    assert [e["type"] for e in told(lines)[-3:]] == ["apply_start", "apply_progress", "apply_complete"]
    assert [e["sequence"] for e in told(lines)] == list(range(1, len(lines) + 1))


class _Tee(list[Happened]):
    """Hands on what happens, as it happens."""

    def __init__(self, kept: list[Happened], teller: Events) -> None:
        super().__init__()
        self._teller = teller

    def append(self, happened: Happened) -> None:
        super().append(happened)
        self._teller.tell(happened)


def test_the_same_apply_is_listed_the_same_however_its_threads_ran() -> None:
    """Planned changes, what was skipped, the summary. Seen red with skips as they came."""

    def listing(at_once: int) -> list[Any]:
        lines: list[str] = []
        teller = Events(write=lines.append)
        plan = make_plan(SPEC, State("demo", LINEAGE, 0), {})
        teller.begin(plan)
        failing = World({"build.main.b": FINAL, "build.main.a": FINAL, "build.main.c": FINAL})
        result = go(MemoryStore(), failing, _Tee([], teller), at_once)
        teller.end(Ending(plan, result, None, "apply", False))
        lasting = ("planned_change", "apply_skipped", "diagnostic", "change_summary")
        return [
            {k: v for k, v in e.items() if k not in ("sequence", "@timestamp")}
            for e in told(lines)
            if e["type"] in lasting
        ]

    assert listing(1) == listing(8)


def test_the_last_words_tell_what_is_known_and_nothing_follows(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with last words that waited for a lock which the interrupted thread itself held."""
    written: dict[int, str] = {}
    monkeypatch.setattr(os, "write", lambda fd, text: written.__setitem__(fd, written.get(fd, "") + text.decode()))
    lines: list[str] = []
    teller = Events(write=lines.append)
    teller.begin(PLAN)
    teller.tell(Happened(Moment.START, GATEWAY))
    with teller.mutex:
        teller.leave(destroys=False)
    teller.tell(Happened(Moment.DONE, GATEWAY))
    last = json.loads(written[1])

    assert last["type"] == "change_summary"
    assert last["falplan"]["addresses"]["under_way"] == ["gateway"]
    assert last["falplan"]["addresses"]["not_begun"] == ["app.main.a", "build.main.a"]
    assert last["sequence"] == len(lines) + 1
    assert told(lines)[-1]["type"] == "apply_start"
    human = Human(color=False)
    human.begin(PLAN)
    human.tell(Happened(Moment.START, GATEWAY))
    human.leave(destroys=True)
    assert "Destroy did not finish: 0 done, 0 failed, 0 skipped, 1 left under way, 2 not begun." in written[2]


BROKEN = StateNotSaved("State could not be saved", "no room")
LEFT = ["app.main.a", "build.main.a"]


@pytest.mark.parametrize(
    ("result", "kept", "said"),
    [
        (Result(State("demo", LINEAGE, 1), ["gateway"], unstarted=LEFT, saved=True), None, "State is saved. Next: `falplan apply` again."),
        (Result(State("demo", LINEAGE, 1), ["gateway"], {"build.main.a": FINAL}, saved=True), None, "State is saved. Next: repair what failed, then `falplan apply` again."),
        (Result(State("demo", LINEAGE, 1), ["gateway"], broken=BROKEN, saved=True), None, "State is saved by now, with everything that was done. Next: `falplan apply` again."),
        (Result(State("demo", LINEAGE, 1), ["gateway"], broken=BROKEN), None, "Next: `falplan apply` again, once state can be written."),
        (Result(State("demo", LINEAGE, 1), ["gateway"], broken=BROKEN), Kept(Path("/a b/errored.json")), "is in /a b/errored.json. Next: `falplan state push '/a b/errored.json'`, then `falplan apply` again."),
        (Result(State("demo", LINEAGE, 1), ["gateway"], broken=BROKEN), Kept(printed="{}\n"), "----- BEGIN STATE -----\n{}\n----- END STATE -----"),
    ],
)  # fmt: skip
def test_an_apply_that_did_not_finish_says_where_state_is_and_what_to_do(
    capfd: pytest.CaptureFixture[str], result: Result, kept: Kept | None, said: str
) -> None:
    """In text and in the events alike."""
    human = Human(color=False)
    human.begin(PLAN)
    human.end(Ending(PLAN, result, kept, "apply", False))
    text = capfd.readouterr().err
    lines: list[str] = []
    teller = Events(write=lines.append)
    teller.end(Ending(PLAN, result, kept, "apply", False))
    details = "".join(e["diagnostic"]["detail"] for e in told(lines) if e["type"] == "diagnostic")

    assert "Apply did not finish: 1 done" in text
    assert said in text
    assert said in details or result.broken is None
    assert told(lines)[-1]["falplan"]["state_saved"] is result.saved


def test_what_can_not_be_written_stops_nothing() -> None:
    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    teller = Events(write=full)
    teller.begin(PLAN)
    teller.tell(Happened(Moment.START, GATEWAY))

    assert teller.account.watch.running == ["gateway"]
    assert Account().outcomes() == ()
