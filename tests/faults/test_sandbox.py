"""A sandbox is really gone after its test, whatever still ran there."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import psutil
import pytest

from .sandbox import Broken, Sandbox

WRITES = """
import contextlib, pathlib, sys
folder = pathlib.Path(sys.argv[1]) / "deep" / "er"
print("begun", flush=True)
while True:
    for number in range(100):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / str(number)).write_text("more")
"""


@dataclass
class Busy(Sandbox):
    """Whenever the list of its processes has been taken, another one starts to write there, up to `more` in all."""

    more: int = 3
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def processes(self, role: str) -> list[psutil.Process]:
        found = super().processes(role)
        if self.more:
            self.more -= 1
            self.begin()
        return found

    def begin(self) -> None:
        argv = [sys.executable, "-c", WRITES, str(self.folder)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.started.append(process)
        assert process.stdout and process.stdout.readline() == "begun\n"


def test_what_starts_while_the_processes_are_listed_is_ended_too_and_writes_nothing_more() -> None:
    """Seen red with a `clean` that kills and removes once."""
    box = Busy()
    box.begin()
    try:
        box.clean()
        exits = [process.poll() for process in box.started]
    finally:
        for process in box.started:
            process.kill()
            process.communicate()

    assert exits == [-9] * 4
    assert not box.folder.exists()


def test_what_can_not_be_ended_is_named() -> None:
    """Seen red with a `clean` that gives up in silence."""

    @dataclass
    class Lasting(Sandbox):
        def processes(self, role: str) -> list[psutil.Process]:
            return [ended]

    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        ended = psutil.Process(process.pid)
    box = Lasting()

    with pytest.raises(Broken, match=rf"not removed within 0.1 s: .*pid={process.pid}"):
        box.clean(patience=0.1)
    assert not box.folder.exists()
