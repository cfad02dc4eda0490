"""Looks side by side."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from falplan.sdk.abreast import each


def test_answers_come_in_order_and_no_more_at_once_than_allowed() -> None:
    turn, together = threading.Barrier(3), threading.Semaphore(3)

    def work(number: int) -> int:
        assert together.acquire(blocking=False), "more than three at once"
        turn.wait(10)
        together.release()
        return number * 2

    assert each(range(9), work, 3, "test") == [n * 2 for n in range(9)]
    assert each([], work, 3, "test") == []


def test_the_first_error_is_told() -> None:
    with pytest.raises(ValueError, match="'a'"):
        each(["1", "a", "b"], lambda text: int(text), 2, "test")


def test_whoever_is_interrupted_waits_for_nobody() -> None:
    """Seen to hang with a pool of the standard library."""
    code = (
        "import threading; from falplan.sdk.abreast import each\n"
        "def silent(_): print('begun', flush=True); threading.Event().wait()\n"
        "each([1], silent, 1, 'test')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        program.send_signal(signal.SIGINT)
        try:
            assert program.wait(20) == -signal.SIGINT
        finally:
            program.kill()
