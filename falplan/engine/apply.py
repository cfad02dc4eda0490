"""Carries a plan out: walks its operations, each one begun and ended in the journal. Decides nothing about what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from enum import StrEnum

from falplan.core.errors import FalplanError, StateNotSaved
from falplan.core.plan import Action, Change, Plan, inputs_digest
from falplan.core.resources import ResourceType
from falplan.core.state import Entry, Intent, Recorded, State, Status, replay
from falplan.core.values import JsonObject
from falplan.core.walk import Walk
from falplan.engine.client import OperationFailed
from falplan.engine.handlers import Handler
from falplan.sdk.failpoints import fp
from falplan.stores.state.local import LocalState


class Moment(StrEnum):
    """What is told about an operation while a plan is carried out."""

    START = "start"
    PROGRESS = "progress"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Happened:
    """Something to show. `text` is a progress line, or why it failed or was skipped."""

    moment: Moment
    change: Change
    text: str = ""


@dataclass(slots=True)
class Result:
    """How it went. `unstarted` were never begun because of an interrupt; `errors` are by address."""

    state: State
    done: list[str] = field(default_factory=list)
    errors: dict[str, FalplanError] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unstarted: list[str] = field(default_factory=list)


def carry_out(
    plan: Plan,
    state: State,
    store: LocalState,
    handlers: Mapping[ResourceType, Handler],
    *,
    parallelism: int,
    show: Callable[[Happened], None],
    interrupted: threading.Event,
) -> Result:
    """Do everything that the plan says, in parallel, each operation after those it waits for.

    A failure skips only what is downstream of it. Once `interrupted` is set nothing new is begun. The caller holds the
    state's lock; state is saved at the end in any case.

    Raises:
        StateNotSaved: an outcome could not be recorded; nothing further was begun.
    """
    if state.serial == 0 or store.journal.exists():
        # A lineage is durable before anything carries its name; an old journal is folded in before a new one begins.
        state = store.save(state)
    run = _Run(plan, state, store, handlers, show, interrupted)
    try:
        run.walk(parallelism)
    finally:
        if run.broken is None:
            run.result.state = store.save(run.state)
    if run.broken is not None:
        raise run.broken
    return run.result


class _Run:
    """One carrying-out. The mutex guards state and journal, which all workers write."""

    def __init__(
        self,
        plan: Plan,
        state: State,
        store: LocalState,
        handlers: Mapping[ResourceType, Handler],
        show: Callable[[Happened], None],
        interrupted: threading.Event,
    ) -> None:
        self.plan, self.state, self.store, self.handlers = plan, state, store, handlers
        self.base = state
        self.show, self.interrupted = show, interrupted
        self.mutex = threading.Lock()
        self.result = Result(state)
        self.broken: StateNotSaved | None = None

    def walk(self, parallelism: int) -> None:
        walk = Walk(self.plan.after)
        ready = walk.start()
        with ThreadPoolExecutor(parallelism, thread_name_prefix="apply") as pool:
            running: dict[Future[None], str] = {}
            while ready or running:
                if self.interrupted.is_set() or self.broken:
                    ready = []
                for name in ready:
                    running[pool.submit(self._one, self.plan.changes[name])] = name
                ready = []
                if running:
                    ready = self._collect(walk, running)
        self.result.skipped = dict(walk.skipped)
        begun = set(self.result.done) | set(self.result.errors) | set(walk.skipped)
        self.result.unstarted = sorted(set(self.plan.after) - begun)

    def _collect(self, walk: Walk, running: dict[Future[None], str]) -> list[str]:
        ready: list[str] = []
        ended, _ = wait(running, return_when=FIRST_COMPLETED, timeout=0.5)
        for future in sorted(ended, key=lambda f: running[f]):
            name = running.pop(future)
            future.result()
            if name in self.result.errors:
                for skipped in walk.fail(name):
                    self.show(Happened(Moment.SKIPPED, self.plan.changes[skipped], f"{name} failed"))
            else:
                ready += walk.finish(name)
        return ready

    def _one(self, change: Change) -> None:
        try:
            self._begin(change)
            self.show(Happened(Moment.START, change))
            outputs = self._act(change)
            self._end(change, outputs)
            self.result.done.append(change.address)
            self.show(Happened(Moment.DONE, change))
        except StateNotSaved as exc:
            self.broken = exc
            self.result.errors[change.address] = exc
        except OperationFailed as exc:
            self.result.errors[change.address] = exc
            self._record_failure(change, exc)
        except FalplanError as exc:
            # Nobody knows what became of it: the intent stays open, and the next apply asks with the same operation id.
            self.result.errors[change.address] = exc
            self.show(Happened(Moment.FAILED, change, exc.summary))

    def _act(self, change: Change) -> JsonObject:
        handler = self.handlers[change.type]

        def say(line: str) -> None:
            self.show(Happened(Moment.PROGRESS, change, line))

        fp(f"apply.{change.type.value}.before_act")
        if change.action is Action.DELETE:
            handler.delete(change, self.state, say)
            outputs: JsonObject = {}
        else:
            outputs = handler.apply(change, self.state, say)
        fp(f"apply.{change.type.value}.after_act")
        return outputs

    def _begin(self, change: Change) -> None:
        known = self.state.resources.get(change.address)
        intent = Intent(change.action.value, change.operation, change.generation, inputs_digest(change))
        recorded = known or _fresh(change)
        self._append(Entry("begin", change.address, change.generation, replace(recorded, intent=intent)))

    def _end(self, change: Change, outputs: JsonObject) -> None:
        recorded = None
        if change.action is not Action.DELETE:
            recorded = replace(_fresh(change), outputs=outputs, generation=change.generation)
        self._append(Entry("done", change.address, change.generation, recorded))

    def _record_failure(self, change: Change, error: FalplanError) -> None:
        known = self.state.resources[change.address]
        status = Status.TAINTED if change.action is Action.CREATE or not known.generation else known.status
        recorded = replace(known, intent=None, generation=change.generation, status=status)
        try:
            self._append(Entry("failed", change.address, change.generation, recorded))
        except StateNotSaved as exc:
            self.broken = exc
        self.show(Happened(Moment.FAILED, change, error.summary))

    def _append(self, entry: Entry) -> None:
        with self.mutex:
            self.store.append(self.base, entry)
            self.state = replay(self.state, [entry])


def _fresh(change: Change) -> Recorded:
    """The resource as it stands in state once the change is made; for one begun but not made, without outputs."""
    inputs = (change.after if change.after is not None else change.before) or {}
    protected = inputs.get("protect") is True
    return Recorded(change.address, change.type.value, inputs, {}, change.dependencies, protected=protected)
