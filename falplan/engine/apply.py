"""Carries a plan out: walks its operations, each one begun and ended in the journal. Decides nothing about what to do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Protocol

from falplan.core.errors import FalplanError, StateNotSaved
from falplan.core.outcome import Outcome, blamed, outcomes
from falplan.core.plan import Action, Change, Plan
from falplan.core.planner import inputs_digest
from falplan.core.resources import ResourceType
from falplan.core.state import Entry, Intent, Recorded, State, Status, replay
from falplan.core.values import JsonObject
from falplan.core.walk import Walk
from falplan.engine.client import Answered, OperationFailed
from falplan.engine.handlers import Forgets, Handler
from falplan.sdk.failpoints import fp
from falplan.sdk.resources import Denied


class Moment(StrEnum):
    """What is told about an operation while a plan is carried out. Of one address: START, any PROGRESS, then DONE or FAILED."""

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


class Steps(Protocol):
    """What carrying out needs of a store of state; `StateStore` says what each of these promises."""

    def has_journal(self) -> bool: ...

    def append(self, base: State, entry: Entry) -> None: ...

    def save(self, state: State) -> State: ...


@dataclass(slots=True)
class Result:
    """How it went. `errors` are by address; `skipped` maps addresses to all the failed ones that they waited for.

    `state` is what is known, `saved` or not. `broken`: the state's store failed, and nothing was begun after that. `unsaved` are the
    outcomes that stand nowhere but here: with them, `state` has to be brought to a safe place. `bug` is an error of falplan's own.
    `denied`: credentials were refused, so that nothing else was begun with them.
    """

    state: State
    done: list[str] = field(default_factory=list)
    errors: dict[str, FalplanError] = field(default_factory=dict)
    skipped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unstarted: list[str] = field(default_factory=list)
    broken: StateNotSaved | None = None
    saved: bool = False
    unsaved: tuple[Entry, ...] = ()
    bug: Exception | None = None
    denied: FalplanError | None = None

    def outcomes(self, plan: Plan) -> tuple[Outcome, ...]:
        """Each operation's end, by address."""
        return outcomes(plan, self.done, {a: e.summary for a, e in self.errors.items()})


def carry_out(
    plan: Plan,
    state: State,
    store: Steps,
    handlers: Mapping[ResourceType, Handler],
    *,
    parallelism: int,
    show: Callable[[Happened], None],
    interrupted: threading.Event,
) -> Result:
    """Do everything that the plan says, in parallel, each operation after those it waits for.

    A failure skips only what is downstream of it. Once `interrupted` is set, or the store has failed, nothing new is begun; what runs
    is waited for, and its outcome is known to the result. The caller holds the state's lock; state is saved at the end in any case.
    """
    edited = bool(plan.state_changes) or plan.refresh_only
    if state.serial == 0 or store.has_journal() or edited:
        # A lineage is durable before anything carries its name; an old journal is folded in before a new one begins; and
        # what is moved, imported or forgotten is so at once, before anything else is changed.
        try:
            state = store.save(state)
        except StateNotSaved as exc:
            return Result(state, unstarted=sorted(plan.after), broken=exc)
    run = _Run(plan, state, store, handlers, show, interrupted)
    run.forget()
    run.walk(parallelism)
    return run.finish()


class _NotBegun(Exception):
    """The step was not taken, and nothing of it is to be told."""


class _Run:
    """One carrying-out. The mutex guards the state, which all workers write."""

    def __init__(
        self,
        plan: Plan,
        state: State,
        store: Steps,
        handlers: Mapping[ResourceType, Handler],
        show: Callable[[Happened], None],
        interrupted: threading.Event,
    ) -> None:
        self.plan, self.state, self.store, self.handlers = plan, state, store, handlers
        self.base = state
        self.show, self.interrupted = show, interrupted
        self.mutex = threading.Lock()
        self.result = Result(state)
        self.unsaved: list[Entry] = []

    @property
    def stopping(self) -> bool:
        """Whether nothing new may be begun."""
        result = self.result
        return self.interrupted.is_set() or any(e is not None for e in (result.broken, result.bug, result.denied))

    def forget(self) -> None:
        """Tell whoever else knows what state has forgotten. Before all else: what waits for it would wait for ever."""
        for change in self.plan.state_changes:
            handler = self.handlers.get(change.type)
            if change.action is not Action.FORGET or not isinstance(handler, Forgets) or self.stopping:
                continue
            self.show(Happened(Moment.START, change))
            try:
                handler.forget(change, self.state, partial(self._progress, change))
                self.show(Happened(Moment.DONE, change))
            except FalplanError as exc:
                self._failed(change, exc)

    def walk(self, parallelism: int) -> None:
        walk = Walk(self.plan.after)
        ready = deque(walk.start())
        with ThreadPoolExecutor(parallelism, thread_name_prefix="apply") as pool:
            running: dict[Future[bool], str] = {}
            while running or (ready and not self.stopping):
                # No more than can run: whoever waits for the first to end looks at all of them.
                while ready and len(running) < parallelism and not self.stopping:
                    name = ready.popleft()
                    running[pool.submit(self._one, self.plan.changes[name])] = name
                ready.extend(self._collect(walk, running) if running else ())

    def finish(self) -> Result:
        """Save the state: all of it, although the journal could not be written, if the store takes it by now."""
        result = self.result
        result.skipped = blamed(self.plan.after, result.errors)
        begun = {*result.done, *result.errors, *result.skipped}
        result.unstarted = sorted(set(self.plan.after) - begun)
        result.state = self.state
        try:
            result.state, result.saved = self.store.save(self.state), True
        except StateNotSaved as exc:
            result.broken = result.broken or exc
            result.unsaved = tuple(self.unsaved)
        return result

    def _collect(self, walk: Walk, running: dict[Future[bool], str]) -> list[str]:
        ready: list[str] = []
        ended, _ = wait(running, return_when=FIRST_COMPLETED, timeout=0.5)
        for future in sorted(ended, key=lambda f: running[f]):
            name = running.pop(future)
            done = future.result()
            if name in self.result.errors:
                for skipped in walk.fail(name):
                    self.show(Happened(Moment.SKIPPED, self.plan.changes[skipped], f"{name} failed"))
            elif done:
                ready += walk.finish(name)
        return ready

    def _one(self, change: Change) -> bool:
        """Carry one change out, and return whether it is done; what failed is in the result."""
        try:
            self._begin(change)
            self.show(Happened(Moment.START, change))
            outputs = self._act(change)
            self._end(change, outputs)
            self.result.done.append(change.address)
            self.show(Happened(Moment.DONE, change))
            return True
        except _NotBegun:
            pass
        except OperationFailed as exc:
            self._record_failure(change)
            self._failed(change, exc)
        except FalplanError as exc:
            # Nobody knows what became of it: the intent stays open, and the next apply asks with the same operation id.
            if is_denial(exc):
                self.result.denied = self.result.denied or exc
            self._failed(change, exc)
        except Exception as exc:  # noqa: BLE001 - a thread's boundary: what others do is finished and saved before it is reported
            self.result.bug = self.result.bug or exc
            self._failed(change, FalplanError("A bug in falplan", type(exc).__name__))
        return False

    def _failed(self, change: Change, error: FalplanError) -> None:
        self.result.errors[change.address] = error
        self.show(Happened(Moment.FAILED, change, error.summary))

    def _progress(self, change: Change, line: str) -> None:
        self.show(Happened(Moment.PROGRESS, change, line))

    def _act(self, change: Change) -> JsonObject:
        handler, say = self.handlers[change.type], partial(self._progress, change)
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
        entry = Entry("begin", change.address, change.generation, replace(recorded, intent=intent))
        # What was handed to the pool just before an interrupt or a failure of the store is not begun either.
        if self.stopping or not self._append(entry):
            raise _NotBegun
        with self.mutex:
            self.state = replay(self.state, [entry])

    def _end(self, change: Change, outputs: JsonObject) -> None:
        recorded = None
        if change.action is not Action.DELETE:
            recorded = replace(_fresh(change), outputs=outputs, generation=change.generation)
        self._record(Entry("done", change.address, change.generation, recorded))

    def _record_failure(self, change: Change) -> None:
        known = self.state.resources[change.address]
        status = Status.TAINTED if change.action is Action.CREATE or not known.generation else known.status
        recorded = replace(known, intent=None, generation=change.generation, status=status)
        self._record(Entry("failed", change.address, change.generation, recorded))

    def _record(self, entry: Entry) -> None:
        """Remember an outcome: in the journal, or here alone once the journal can't be written."""
        # After a failure nothing more is appended: what could not be recorded must not be followed by what could.
        recorded = self.result.broken is None and self._append(entry)
        with self.mutex:
            if not recorded:
                self.unsaved.append(entry)
            self.state = replay(self.state, [entry])

    def _append(self, entry: Entry) -> bool:
        """Not under the mutex: the store writes what several workers bring at a time in one go.

        Entries of one resource, and of what it waits for, come one after the other in any case; those of others in any order.
        """
        try:
            self.store.append(self.base, entry)
        except StateNotSaved as exc:
            self.result.broken = exc
            return False
        return True


def is_denial(error: FalplanError) -> bool:
    """Whether credentials were refused, so that there is no use in trying anything else with them."""
    return isinstance(error, Denied) or (isinstance(error, Answered) and error.status == 401)


def _fresh(change: Change) -> Recorded:
    """The resource as it stands in state once the change is made; for one begun but not made, without outputs."""
    inputs = (change.after if change.after is not None else change.before) or {}
    protected = inputs.get("protect") is True
    return Recorded(change.address, change.type.value, inputs, {}, change.dependencies, protected=protected)
