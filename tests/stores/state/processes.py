"""Workers as processes, spoken to by lines."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.stores.state.conftest import LEASE, Place

WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """One that holds, or waits for, the lock of a place."""

    def __init__(self, place: Place, *, lease: float = LEASE, **environ: str) -> None:
        argv = [sys.executable, str(WORKER), json.dumps(place.section), str(place.root), str(lease)]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environ},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def says(self, seconds: float = 40) -> str:
        """Its next line; empty once it is gone."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, "the worker says nothing"
        return self.process.stdout.readline().strip()

    def told(self, word: str) -> None:
        """Tell it a line; nobody may be there to read it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def asked(self, word: str) -> str:
        self.told(word)
        return self.says()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> int:
        self.process.kill()
        return self.process.wait(20)
