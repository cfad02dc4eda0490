"""What apply and destroy share: signals, progress, the result's text and exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import click

from falplan import clock
from falplan.core.errors import ExitCode
from falplan.core.plan import Action, Plan
from falplan.core.secret import SecretValue
from falplan.core.state import State
from falplan.engine.apply import Happened, Moment, Result, carry_out
from falplan.engine.handlers import handlers_for
from falplan.engine.project import Project
from falplan.views.plan import escape

VERBS = {
    Action.CREATE: ("Creating", "Creation"),
    Action.UPDATE: ("Modifying", "Modification"),
    Action.REPLACE: ("Replacing", "Replacement"),
    Action.REPLACE_CREATE_FIRST: ("Replacing", "Replacement"),
    Action.FORGET: ("Forgetting", "Forgetting"),
    Action.DELETE: ("Destroying", "Destruction"),
    Action.NOOP: ("Reading", "Read"),
}


def run(
    project: Project,
    plan: Plan,
    state: State,
    *,
    parallelism: int,
    color: bool,
    secrets: Mapping[str, SecretValue] = {},
) -> tuple[Result, int]:
    """Carry a plan out, telling its progress on stderr. Returns the result and the exit code. `secrets` are values by address."""
    teller = _Teller(color)
    with _interruptible() as interrupt:
        result = carry_out(
            plan,
            state,
            project.store,
            handlers_for(project, plan, secrets),
            parallelism=parallelism,
            show=teller.tell,
            interrupted=interrupt.event,
        )
    for address in sorted(result.errors):
        error = result.errors[address]
        click.echo(f"\n{teller.paint('Error:', 'red')} {address}: {error.summary}", err=True)
        if error.detail:
            click.echo(error.detail, err=True)
    if result.unstarted:
        click.echo(
            f"\nInterrupted: {len(result.unstarted)} not begun ({', '.join(result.unstarted)}). State is saved.",
            err=True,
        )
        return result, interrupt.exit_code
    if result.errors:
        codes = {int(e.exit_code) for e in result.errors.values()}
        return result, codes.pop() if len(codes) == 1 else ExitCode.FAILED
    return result, ExitCode.DONE


class _Teller:
    """Prints what happens, a line each, from whichever thread it comes."""

    def __init__(self, color: bool) -> None:
        self._color = color and sys.stderr.isatty()
        self._started: dict[str, float] = {}
        self._mutex = threading.Lock()

    def paint(self, text: str, name: str) -> str:
        return click.style(text, fg=name, bold=True) if self._color else text

    def tell(self, happened: Happened) -> None:
        change, address = happened.change, happened.change.address
        verb, noun = VERBS[change.action]
        with self._mutex:
            match happened.moment:
                case Moment.START:
                    self._started[address] = clock.monotonic()
                    line = f"{address}: {verb}..."
                case Moment.PROGRESS:
                    line = f"{address}: {escape(happened.text)}"
                case Moment.DONE:
                    line = f"{address}: {noun} complete after {clock.monotonic() - self._started[address]:.1f}s"
                case Moment.FAILED:
                    line = f"{address}: {noun} failed: {escape(happened.text)}"
                case Moment.SKIPPED:
                    line = f"{address}: skipped, because {happened.text}"
            click.echo(line, err=True)


class _Interrupt:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.exit_code = ExitCode.INTERRUPTED

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = ExitCode.TERMINATED if number == signal.SIGTERM else ExitCode.INTERRUPTED
        if self.event.is_set():
            # What runs stays in the journal as begun; the next apply finds out what became of it.
            sys.stderr.write("\nSecond interrupt: not waiting. The next falplan apply finishes what is under way.\n")
            sys.stderr.flush()
            os._exit(self.exit_code)
        self.event.set()
        sys.stderr.write(
            "\nInterrupt: nothing new is begun; waiting for what runs. Interrupt again to leave at once.\n"
        )
        sys.stderr.flush()


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    interrupt = _Interrupt()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, interrupt.handle) for n in numbers}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
