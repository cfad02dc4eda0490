"""What apply and destroy share: signals, and the exit code."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from falplan.cli.telling import Ending, Teller, ticking
from falplan.core.errors import ExitCode
from falplan.core.plan import Plan
from falplan.core.secret import SecretValue
from falplan.core.state import State
from falplan.engine.apply import Result, carry_out
from falplan.engine.handlers import handlers_for
from falplan.engine.last_resort import keep
from falplan.engine.project import Project
from falplan.engine.provided import Provided
from falplan.views import progress


def run(
    project: Project,
    plan: Plan,
    state: State,
    teller: Teller,
    *,
    secrets: Mapping[str, SecretValue] = {},
    looked: Provided | None = None,
    command: str = "apply",
    destroys: bool = False,
) -> tuple[Result, int]:
    """Carry a plan out, telling how it goes. Returns the result and the exit code. `secrets` are values by address;
    `looked` what the regions declared when the plan was made, with its connections, if nobody's key was confirmed since.

    `command` is what a person runs to go on after a failure.
    """
    teller.begin(plan)
    with _interruptible(teller, destroys=destroys) as interrupt, ticking(teller.tick):
        result = carry_out(
            plan,
            state,
            project.store,
            handlers_for(project, plan, state, secrets, looked),
            parallelism=project.parallelism,
            show=teller.tell,
            interrupted=interrupt.event,
        )
        kept = keep(project, result)
    teller.end(Ending(plan, result, kept, command, destroys))
    if result.bug is not None:
        raise result.bug
    return result, _code(result, interrupt)


def _code(result: Result, interrupt: _Interrupt) -> int:
    if result.broken is not None:
        return ExitCode.FAILED if result.saved else ExitCode.STATE_NOT_SAVED
    if result.unstarted and result.denied is None:
        return interrupt.exit_code
    if result.errors:
        codes = {int(e.exit_code) for e in result.errors.values()}
        return codes.pop() if len(codes) == 1 else ExitCode.FAILED
    return ExitCode.DONE


class _Interrupt:
    def __init__(self, teller: Teller, *, destroys: bool) -> None:
        self.event = threading.Event()
        self.exit_code = ExitCode.INTERRUPTED
        self._teller, self._destroys = teller, destroys

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = ExitCode.TERMINATED if number == signal.SIGTERM else ExitCode.INTERRUPTED
        if self.event.is_set():
            # What runs stays in the journal as begun; the next apply finds out what became of it.
            self._teller.leave(destroys=self._destroys)
            os._exit(self.exit_code)
        self.event.set()
        try:
            os.write(2, f"\n{progress.INTERRUPTED}\n".encode())
        except OSError:
            pass  # nobody reads any more; the work goes on to its end


@contextmanager
def _interruptible(teller: Teller, *, destroys: bool) -> Iterator[_Interrupt]:
    interrupt = _Interrupt(teller, destroys=destroys)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, interrupt.handle) for n in numbers}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
