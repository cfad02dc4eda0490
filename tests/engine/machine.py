"""A Hypothesis state machine over random wishes, records, worlds and faults, with the real planning, carrying out and store of state.

`python -m tests.engine.machine --examples 250 --seed 1 [--s3]` runs it by itself. What dies in it dies by an exception that nothing catches,
and only what was durable by then goes on to the next step.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from falplan import clock, registry
from falplan.core.drift import find_drift
from falplan.core.errors import StateNotSaved
from falplan.core.generations import refresh
from falplan.core.plan import Plan, Presence, Seen
from falplan.core.planner import make_plan
from falplan.core.provided import with_strays
from falplan.core.resources import GATEWAY, ResourceType
from falplan.core.spec.resolved import ResolvedRegion
from falplan.core.state import State, Status
from falplan.core.values import Json, JsonObject
from falplan.engine.apply import Result, carry_out
from falplan.engine.client import AdminClient
from falplan.engine.handlers import Handler
from falplan.engine.joining import Hosts
from falplan.engine.provided import Place, Provided, look_at
from falplan.engine.providing import ProvidedHandler, Say
from falplan.sdk.resources import Standing
from falplan.sdk.testing.declaring import address_of
from falplan.sdk.testing.history import violations
from falplan.sdk.testing.memory import Died, MemoryWorld
from falplan.sdk.testing.rules import Fault, Moment, Rule
from falplan.sdk.testing.things import Thing
from falplan.sdk.testing.world import WorldProvider
from falplan.stores.state.s3 import S3Objects
from falplan.stores.state.s3_client import Where
from falplan.stores.state.store import Store
from tests.core.builders import LINEAGE, a_gateway
from tests.engine.agreeing import check_views_agree
from tests.engine.faulty_files import Faults, FaultyFiles, Mishap, Trouble
from tests.engine.faulty_objects import FaultyObjects
from tests.stores.state.servers import KEYS, make_bucket, s3_server

REGION = "lab"
MEMORY = Path("/dev/shm")
NAMES = ["a", "b", "c", "d", "e", "f", "g", "h"]
CIDRS = ["10.1.0.0/16", "10.2.0.0/16"]

HOST = st.fixed_dictionaries(
    {"size": st.sampled_from(["small", "large"]), "disk": st.integers(1, 3), "create_first": st.booleans()},
    optional={"after": st.lists(st.sampled_from(NAMES), max_size=2, unique=True)},
)
WISH = st.fixed_dictionaries(
    {"hosts": st.dictionaries(st.sampled_from(NAMES), HOST, max_size=8)},
    optional={"network": st.sampled_from(CIDRS).map(lambda cidr: {"cidr": cidr})},
)
FAULTS = st.sampled_from([f for f in Fault if f is not Fault.SLOW])
ON_CHANGES = st.builds(
    Rule,
    FAULTS,
    st.sampled_from(Moment),
    st.sampled_from(["*", "create", "update", "delete"]),
    st.sampled_from(["*", "host.*", "network.*", f"host.{REGION}.a"]),
    nth=st.integers(1, 4),
    times=st.integers(0, 2),
    looks=st.integers(1, 3),
)
ON_LOOKS = st.builds(Rule, FAULTS, st.sampled_from([Moment.BEFORE, Moment.AFTER]), st.just("look"))
STRIKES = st.one_of(ON_CHANGES, ON_CHANGES, ON_LOOKS)
TROUBLES = st.builds(Trouble, st.sampled_from(Mishap), write=st.integers(1, 12), share=st.floats(0, 1))


class Machine(RuleBasedStateMachine):
    """One project whose spec, state and world all move, while calls, writes and processes fail."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="falplan-", dir=MEMORY if MEMORY.is_dir() else None))
        self.world = MemoryWorld()
        self.faults = Faults(self.world)
        self.options: JsonObject | None = None
        self.strangers: list[Thing] = []
        self.ahead = 0.0
        self.told: list[str] = []  #: what each apply wanted, for a failure's message
        self._patched: list[Any] = [
            mock.patch.object(registry, "provider_of", self._provider),
            mock.patch.object(clock, "now", lambda: 1_750_000_000.0 + self.ahead),
        ]
        for patch in self._patched:
            patch.start()

    def open(self) -> Store:
        """The state's store, as the next process opens it."""
        return Store(FaultyFiles(self.folder / "state", self.faults))

    def _provider(self, provider: str, region: str, options: JsonObject) -> WorldProvider:
        return WorldProvider(region, self.world, options)

    @initialize(wish=WISH)
    def begin(self, wish: JsonObject) -> None:
        self.want(wish)

    @rule(wish=WISH)
    def want(self, wish: JsonObject) -> None:
        """Somebody edits the spec. What a host waits for comes before it in the alphabet, so that there are no cycles."""
        hosts: JsonObject = {}
        for name, body in wish["hosts"].items():  # type: ignore[union-attr]  # as drawn
            after: list[Json] = [o for o in body.get("after", ()) if o < name and o in wish["hosts"]]  # type: ignore[operator,union-attr]
            hosts[name] = {**body, "after": after}  # type: ignore[dict-item]
        self.options = {**wish, "world": "/nowhere", "hosts": hosts}

    @rule()
    def leave(self) -> None:
        """The region is taken out of the spec."""
        self.options = None

    @rule(seconds=st.floats(-1e8, 1e8))
    def jump(self, seconds: float) -> None:
        """The clock is set."""
        self.ahead += seconds

    @rule(number=st.integers(0, 20), how=st.sampled_from(["remove", "stop", "change", "unmark", "copy", "foreign"]))
    def meddle(self, number: int, how: str) -> None:
        """Somebody changes the world by hand."""
        ours = [t for t in self.world.things(REGION) if t.owner == LINEAGE]
        if not ours:
            return
        thing = ours[number % len(ours)]
        if how == "remove":
            self.world.remove(thing)
            # What comes to be under its operation later is no second one beside it.
            self.world.note({"event": "removed", "identity": thing.identity, "operation": "", "address": thing.address})
        elif how == "stop":
            stopped = replace(thing, standing=Standing.STOPPED, because="stopped by hand", version=thing.version + 1)
            self.world.put(stopped)
        elif how == "change":
            self.world.put(replace(thing, inputs={**thing.inputs, "tags": {"by": "hand"}}, version=thing.version + 1))
        elif how == "unmark":
            self._unmark(thing)
        else:
            owner = LINEAGE if how == "copy" else "somebody else"
            other = replace(thing, identity=f"{thing.identity[0]}-{self.world.number():08d}", owner=owner)
            self.world.put(other)
            self.strangers += [other] if how == "foreign" else []

    def _unmark(self, thing: Thing) -> None:
        """Only what state knows by its identity can be found again without a mark; and by nobody while looks do not show it."""
        state = self.state()
        if any(lag.identity == thing.identity for lag in self.world.lags()):
            return
        if state and any(r.outputs.get("id") == thing.identity for r in state.resources.values()):
            self.world.put(replace(thing, owner="", address="", operation="", version=thing.version + 1))

    @rule(number=st.integers(0, 20))
    def taint(self, number: int) -> None:
        """`falplan taint`: something is to be made anew."""
        store = self.open()
        with store.locked("taint"):
            state = store.read("demo")
            known = [a for a, r in state.resources.items() if a != GATEWAY and r.generation] if state else []
            if state is None or not known:
                return
            address = sorted(known)[number % len(known)]
            remade = replace(state.resources[address], status=Status.REMAKE)
            store.save(replace(state, resources={**state.resources, address: remade}))

    @rule(strikes=st.lists(STRIKES, max_size=2), trouble=st.none() | TROUBLES)
    def apply(self, strikes: list[Rule], trouble: Trouble | None) -> None:
        """An apply that may fail, hang or die anywhere."""
        self.world.faults = strikes
        self.faults.trouble = trouble
        self.apply_once()
        self.world.faults, self.faults.trouble = [], None

    @rule(wish=WISH, strike=ON_CHANGES)
    def struck(self, wish: JsonObject, strike: Rule) -> None:
        """Another wish, and a provider that fails on the way to it."""
        self.want(wish)
        self.apply([strike], None)

    @rule(wish=WISH, trouble=TROUBLES)
    def troubled(self, wish: JsonObject, trouble: Trouble) -> None:
        """Another wish, and a store of state that fails on the way to it."""
        self.want(wish)
        self.apply([], trouble)

    @rule(strikes=st.lists(ON_LOOKS, max_size=1))
    def plan(self, strikes: list[Rule]) -> None:
        """A plan changes nothing, and says the same in text, JSON and exit code."""
        self.world.faults = strikes
        self.world.restart()
        state = self.state() or State("demo", LINEAGE, 0)
        notes = len(self.world.notes())
        try:
            planned, state = self.plan_of(state)
            check_views_agree(planned, state)
        except Died:
            pass
        self.world.faults = []
        self.world.restart()

        assert all(n["verb"] == "look" for n in self.world.notes()[notes:])

    @invariant()
    def nothing_is_lost(self) -> None:
        """State loads; what exists is ours by its mark or known to state; what is others' was not touched; nothing went against the rules."""
        state = self.state()
        known = {r.outputs.get("id") for r in state.resources.values()} if state else set()
        there = {t.identity: t for t in self.world.things(REGION)}

        assert not [t for t in there.values() if t.owner == "" and t.identity not in known]
        assert all(there.get(t.identity) == t for t in self.strangers)
        assert violations(self.world.notes()) == []

    def teardown(self) -> None:
        """After the faults end, two applies converge: the next plan is empty, and the world is as wanted, once."""
        try:
            self.world.keep_lags([])
            for _ in range(2):
                self.apply_once()
            state = self.state() or State("demo", LINEAGE, 0)
            plan, state = self.plan_of(state)
            check_views_agree(plan, state)

            assert plan.is_empty, {a: c.because for a, c in plan.changes.items() if c.action.acts}
            self._check_world(state)
            self.nothing_is_lost()
        finally:
            for patch in self._patched:
                patch.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _check_world(self, state: State) -> None:
        declared = self._region().declared() if self.options is not None else []
        wanted = {address_of(d.kind, REGION, d.name): d.inputs for d in declared}
        ours = [t for t in self.world.things(REGION) if t.owner == LINEAGE]

        found = {t.address: t.inputs for t in ours}
        assert found == wanted and len(ours) == len(wanted), self._story(found, wanted)
        assert all(t.standing is Standing.UP for t in ours)
        recorded = {a: r.outputs["id"] for a, r in state.resources.items() if a != GATEWAY}
        assert recorded == {t.address: t.identity for t in ours}

    def _story(self, found: Mapping[str, JsonObject], wanted: Mapping[str, JsonObject]) -> str:
        """What was done with everything that is not as wanted."""
        wrong = {a for a in found.keys() | wanted.keys() if found.get(a) != wanted.get(a)}
        lines = [n for n in self.world.notes() if n["address"] in wrong]
        there = [t for t in self.world.things(REGION) if t.address in wrong]
        return "\n".join(map(str, [f"wanted: {wanted}", *there, *lines, *self.told[-200:]]))

    def state(self) -> State | None:
        """As any reader finds it at this moment."""
        return self.open().read("demo")

    def _region(self) -> WorldProvider:
        return WorldProvider(REGION, self.world, self.options or {"world": "/nowhere"})

    def _provided(self) -> Provided:
        if self.options is None:
            return Provided()
        region = self._region()
        declared = {address_of(d.kind, REGION, d.name): d for d in region.declared()}
        home: JsonObject = {"world": "/nowhere"}
        regions = {REGION: ResolvedRegion(REGION, "fake", self.options)}
        return Provided({REGION: Place(REGION, "fake", region, declared, home)}, regions)

    def plan_of(self, state: State) -> tuple[Plan, State]:
        """The plan, and the state with what was found beside it: what `falplan.engine.planning` does for a region's resources."""
        provided = self._provided()
        looked = look_at(provided, state, at_a_time=1)
        drift = find_drift(state, looked.seen).drift
        state = with_strays(state, looked.strays)
        resources = [r for found in provided.wanted.resources.values() for r in found]
        seen = {**looked.seen, **({GATEWAY: Seen(Presence.PRESENT)} if GATEWAY in state.resources else {})}
        plan = make_plan({GATEWAY: a_gateway(), **{r.address: r for r in resources}}, state, seen)
        while (newer := refresh(plan, state, looked.operations)) != plan:
            plan = newer
        return replace(plan, drift=drift), state

    def apply_once(self) -> None:
        """One process from its lock to its end, whatever that is."""
        self.world.restart()
        self.faults.begin()
        notes = len(self.world.notes())
        store = self.open()
        try:
            with store.locked("apply"):
                state = store.read("demo") or State("demo", LINEAGE, 0)
                plan, state = self.plan_of(state)
                if plan.blocked or plan.is_empty:
                    return
                self._carry_out(plan, state, store, notes)
        except Died:
            pass
        except StateNotSaved:
            assert self.faults.struck
        finally:
            self.world.restart()

    def _carry_out(self, plan: Plan, state: State, store: Store, notes: int) -> None:
        self.told.append(str({a: f"{c.action}: {c.because}" for a, c in plan.changes.items() if c.action.acts}))
        provided = ProvidedHandler(self._provided(), state.resources, Hosts(_no_client, _Silent()))
        handlers: dict[ResourceType, Handler] = dict.fromkeys(ResourceType, provided)
        handlers[ResourceType.GATEWAY] = _Gateway()
        try:
            result = carry_out(
                plan, state, store, handlers, parallelism=1, show=lambda h: None, interrupted=threading.Event()
            )
            assert result.bug is None, result.bug
            self._check_end(plan, result)
        finally:
            _check_order(plan, self.world.notes()[notes:])

    def _check_end(self, plan: Plan, result: Result) -> None:
        """An apply tells of every operation how it ended, and what it says was saved is what a reader finds."""
        told = {*result.done, *result.errors, *result.skipped, *result.unstarted}

        assert told == set(plan.after)
        if result.saved:
            assert self.state() == result.state


class _Silent:
    """No control plane is told of the world's hosts: they take no runners."""

    def nobody_answers(self, state: State, say: Say) -> bool:
        return True


def _no_client(state: State) -> AdminClient:
    raise AssertionError("the world's hosts join nothing")


class _Gateway:
    """There is a control plane, and nothing ever happens to it."""

    def apply(self, change: object, state: State, say: Say) -> JsonObject:
        return {"id": "control-1"}

    def delete(self, change: object, state: State, say: Say) -> None:
        """Never asked for: every spec has one."""


_keys = itertools.count(1)


class InS3(Machine):
    """The same with state in S3: each history has a key of its own."""

    server: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.objects = S3Objects(Where("states", f"state-{next(_keys)}", "us-east-1", self.server, ""), lease=60)

    def open(self) -> Store:
        return Store(FaultyObjects(self.objects, self.faults))


def _check_order(plan: Plan, notes: Sequence[JsonObject]) -> None:
    """Nothing is begun before what it waits for has ended well."""
    ended: set[str] = {GATEWAY}
    for note in notes:
        address = str(note["address"])
        if note["event"] == "begin" and note["verb"] != "look":
            early = [a for a in plan.after.get(address, ()) if a not in ended]

            assert not early, f"{note['verb']} {address} before {early}"
        elif note["event"] == "end" and note["how"] == "done":
            ended.add(address)


def run(machine: type[RuleBasedStateMachine], examples: int, steps: int, number: int | None = None) -> None:
    """Run a machine: with a seed as given, or without one the same examples each time."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=number is None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    if number is not None:
        machine = seed(number)(type("Seeded", (machine,), {}))
    run_state_machine_as_test(machine, settings=chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=250)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--s3", action="store_true", help="with state in a server of moto's")
    options = parser.parse_args()
    if not options.s3:
        run(Machine, options.examples, options.steps, options.seed)
        return
    os.environ.update(KEYS)
    with s3_server() as InS3.server:
        make_bucket(InS3.server, "states")
        run(InS3, options.examples, options.steps, options.seed)


if __name__ == "__main__":
    main()
