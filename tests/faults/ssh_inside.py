"""Work inside a lab that may hang: in a thread of its own, with a deadline for whoever waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from falplan.sdk.shell import Unreachable
from falplan.sdk.ssh import SshShell
from falplan.sdk.values import Command, Output
from tests.lab.namespaces import Lab

from .sandbox import Broken

T = TypeVar("T")

HUNG = 240.0
"""Seconds that nothing may take."""


def start(lab: Lab, work: Callable[[], T]) -> Future[T]:
    """Do something in a thread of its own, inside the lab. One that hangs keeps nobody from ending."""
    ended: Future[T] = Future()

    def go() -> None:
        try:
            with lab.inside():
                ended.set_result(work())
        except BaseException as exc:
            ended.set_exception(exc)

    threading.Thread(target=go, daemon=True).start()
    return ended


def result(future: Future[T], seconds: float, what: str) -> T:
    """What comes out; Broken if nothing does."""
    try:
        return future.result(seconds)
    except TimeoutError as exc:
        if not future.done():
            raise Broken(f"{what} hangs: no end within {seconds:g} s") from exc
        raise


def check_answers(shell: SshShell) -> None:
    """After whatever was done to it: the same shell runs a command."""
    output = _once_there(shell)
    if output != Output(0, b"again\n", b""):
        raise Broken(f"after it was over, a command gave {output}")
    shell.close()


def _once_there(shell: SshShell) -> Output:
    """What a command says. A machine that was just switched on may be unknown to the network for a moment."""
    give_up = time.monotonic() + 30
    while True:
        try:
            return shell.run(Command(("echo", "again")))
        except Unreachable:
            if time.monotonic() > give_up:
                raise
