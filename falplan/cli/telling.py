"""Tells how an apply goes: to people on stderr, or to programs as events on stdout. Decides nothing."""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import click

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.outcome import Fate, Outcome, outcomes
from falplan.core.plan import Plan
from falplan.core.timing import Stopwatch
from falplan.core.values import JsonObject
from falplan.engine.apply import Happened, Moment, Result
from falplan.engine.last_resort import Kept
from falplan.engine.planning import Planned
from falplan.views import events, progress

OTHERS_TURN = 2.0
"""Seconds that the last words wait for a line that another thread is writing."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How it all ended. `kept` is where the state went that its store did not take. `command` is what to run again."""

    plan: Plan
    result: Result
    kept: Kept | None
    command: str
    destroys: bool


class Teller(Protocol):
    """What is told while a plan is carried out. `tell` and `tick` come from any thread."""

    def begin(self, plan: Plan) -> None:
        """The plan that is carried out now."""
        ...

    def tell(self, happened: Happened) -> None: ...

    def tick(self) -> None:
        """A moment passed: whatever runs for long shows a sign of life."""
        ...

    def end(self, ending: Ending) -> None: ...

    def leave(self, *, destroys: bool) -> None:
        """The last words of a process that does not wait for its end. Called from a signal's handler."""
        ...


@dataclass(slots=True)
class Account:
    """What is known of each operation while they run."""

    plan: Plan | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def note(self, happened: Happened, now: float) -> float:
        """Remember it; returns the seconds that the operation has taken so far."""
        address = happened.change.address
        match happened.moment:
            case Moment.START:
                self.watch.start(address, now)
            case Moment.DONE:
                self.done.append(address)
                return self.watch.end(address, now)
            case Moment.FAILED:
                self.failed[address] = happened.text
                return self.watch.end(address, now)
            case _:
                pass
        return self.watch.elapsed(address, now)

    def outcomes(self) -> tuple[Outcome, ...]:
        """Each operation's end as far as it is known."""
        return outcomes(self.plan, self.done, self.failed, self.watch.running) if self.plan else ()


class _Telling:
    """What both have: one line at a time, none after the last words, and none that stops the work when it can't be written."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.account = Account()
        self.mutex = threading.RLock()  # a signal's handler may come while this very thread holds it
        self.closed = False

    def begin(self, plan: Plan) -> None:
        self.account = Account(plan)

    def write_all(self, descriptor: int, text: str) -> None:
        """Without the stream's own lock, which whoever was interrupted may hold."""
        try:
            os.write(descriptor, text.encode())
        except OSError:
            pass  # nobody reads any more, and this process ends

    @contextmanager
    def last_words(self) -> Iterator[None]:
        held = self.mutex.acquire(timeout=OTHERS_TURN)
        self.closed = True
        try:
            yield
        finally:
            if held:
                self.mutex.release()


class Human(_Telling):
    """Lines for people, on stderr."""

    def __init__(self, *, color: bool, now: Callable[[], float] = clock.monotonic) -> None:
        super().__init__(now)
        self._color = color and sys.stderr.isatty()

    def tell(self, happened: Happened) -> None:
        change, address = happened.change, happened.change.address
        with self.mutex:
            elapsed = self.account.note(happened, self.now())
            match happened.moment:
                case Moment.START:
                    self._line(progress.started(address, change.action))
                case Moment.PROGRESS:
                    self._line(progress.said(address, happened.text))
                case Moment.DONE:
                    self._line(progress.complete(address, change.action, elapsed))
                case Moment.FAILED:
                    self._line(progress.failed(address, change.action, elapsed, happened.text))
                case Moment.SKIPPED:
                    self._line(progress.skipped(address, happened.text))

    def tick(self) -> None:
        with self.mutex:
            for address, elapsed in self.account.watch.due(self.now()):
                plan = self.account.plan
                if plan is not None:
                    self._line(progress.still(address, plan.changes[address].action, elapsed))

    def end(self, ending: Ending) -> None:
        result, errors = ending.result, ending.result.errors
        with self.mutex:
            for address in sorted(errors):
                self._error(errors[address], f"{address}: ")
            if result.broken:
                self._error(result.broken)
            ended = result.outcomes(ending.plan)
            if result.broken or any(o.fate is not Fate.DONE for o in ended):
                self._line("\n" + progress.incomplete(progress.DESTROY if ending.destroys else progress.APPLY, ended))
                self._line(next_step(ending))

    def leave(self, *, destroys: bool) -> None:
        with self.last_words():
            ended = self.account.outcomes()
            verb = progress.DESTROY if destroys else progress.APPLY
            self.write_all(2, f"\n{progress.LEAVING}\n{progress.incomplete(verb, ended)}\n")

    def _error(self, error: FalplanError, whose: str = "") -> None:
        label = click.style("Error:", fg="red", bold=True) if self._color else "Error:"
        self._line(f"\n{label} {whose}{error.summary}" + (f"\n{error.detail}" if error.detail else ""))

    def _line(self, text: str) -> None:
        if not self.closed:
            try:
                click.echo(text, err=True)
            except OSError:
                pass  # a full disk behind stderr stops no work


class Events(_Telling):
    """JSON lines for programs, on stdout."""

    def __init__(
        self, *, now: Callable[[], float] = clock.monotonic, write: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(now)
        self._write = write or click.echo
        self._sequence = 0
        self.emit(events.version())

    def emit(self, event: JsonObject) -> None:
        with self.mutex:
            if self.closed:
                return
            try:
                self._write(self._next(event))
            except OSError:
                pass  # a full disk behind stdout stops no work

    def begin(self, plan: Plan) -> None:
        super().begin(plan)
        for event in events.plan_events(plan):
            self.emit(event)

    def tell(self, happened: Happened) -> None:
        change = happened.change
        with self.mutex:
            elapsed = self.account.note(happened, self.now())
            match happened.moment:
                case Moment.START:
                    self.emit(events.apply_start(change))
                case Moment.PROGRESS:
                    self.emit(events.apply_progress(change, elapsed, happened.text))
                case Moment.DONE:
                    self.emit(events.apply_complete(change, elapsed))
                case Moment.FAILED:
                    self.emit(events.apply_errored(change, elapsed, happened.text))
                case Moment.SKIPPED:
                    pass  # listed at the end, by address, with everything that they waited for

    def tick(self) -> None:
        with self.mutex:
            for address, elapsed in self.account.watch.due(self.now()):
                plan = self.account.plan
                if plan is not None:
                    self.emit(events.apply_progress(plan.changes[address], elapsed))

    def end(self, ending: Ending) -> None:
        result = ending.result
        ended = result.outcomes(ending.plan)
        with self.mutex:
            for outcome in ended:
                if outcome.fate is Fate.SKIPPED:
                    self.emit(events.apply_skipped(ending.plan.changes[outcome.address], outcome))
            for address in sorted(result.errors):
                self.emit(events.diagnostic(result.errors[address], address))
            if result.broken:
                self.emit(events.diagnostic(FalplanError(result.broken.summary, _with_next(ending))))
            self.emit(events.outputs(result.state))
            done = all(o.fate is Fate.DONE for o in ended) and result.saved
            self.emit(
                events.final_summary(ending.plan, ended, destroys=ending.destroys, saved=result.saved, complete=done)
            )

    def leave(self, *, destroys: bool) -> None:
        with self.last_words():
            event = events.final_summary(
                self.account.plan, self.account.outcomes(), destroys=destroys, saved=False, complete=False
            )
            self.write_all(1, self._next(event) + "\n")
            self.write_all(2, f"\n{progress.LEAVING}\n")

    def _next(self, event: JsonObject) -> str:
        self._sequence += 1
        return events.line(event, timestamp=clock.timestamp(clock.now()), sequence=self._sequence)


def next_step(ending: Ending) -> str:
    """Where the state is, and what to do next."""
    result, kept, command = ending.result, ending.kept, ending.command
    if kept is not None and kept.path is not None and result.broken is not None and result.broken.overtaken:
        return progress.kept_beside(str(kept.path), shlex.quote(str(kept.path)))
    if kept is not None and kept.path is not None:
        return progress.kept_in(str(kept.path), shlex.quote(str(kept.path)), command)
    if kept is not None:
        return progress.kept_nowhere(kept.printed, command, encoded=kept.encoded)
    if not result.saved:
        return f"Next: `falplan {command}` again, once state can be written."
    if result.broken:
        return progress.saved_late(command)
    if result.denied is not None:
        return f"Nothing else was begun: credentials are refused. State is saved. Next: renew them, then `falplan {command}` again."
    after = "repair what failed, then " if result.errors else ""
    return f"State is saved. Next: {after}`falplan {command}` again."


def _with_next(ending: Ending) -> str:
    broken = ending.result.broken
    return f"{broken.detail if broken else ''} {next_step(ending)}".strip()


@contextmanager
def ticking(act: Callable[[], None], every: float = 1.0) -> Iterator[None]:
    """Call it every so many seconds, from a thread that ends with the block."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(every):
            act()

    thread = threading.Thread(target=loop, name="signs-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def told_on(*, as_json: bool, color: bool) -> Iterator[Teller]:
    """Who tells: events for programs, which show the error that ends a command, too; or lines for people."""
    if not as_json:
        yield Human(color=color)
        return
    teller = Events()
    try:
        yield teller
    except FalplanError as exc:
        teller.emit(events.diagnostic(exc))
        raise


def nothing_to_do(teller: Teller, planned: Planned, *, destroys: bool = False) -> None:
    """An apply of an empty plan ends as others do."""
    teller.begin(planned.plan)
    teller.end(Ending(planned.plan, Result(planned.state, saved=True), None, "apply", destroys))
