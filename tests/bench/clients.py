"""What a command costs the machine that it is typed on: time, CPU time and memory of all its processes, those that it leaves behind too.

Memory is the proportional set size of the whole tree, looked at while the command runs: a tool with fifty forks is not one with a
fiftieth of its memory, and pages that forks share are counted once.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LOOK = 0.1  # seconds between two looks at the memory: each reads a file of the kernel for every process


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of wall and of CPU time, and MiB of all processes together at their most."""

    wall: float
    cpu: float
    memory: float

    def __str__(self) -> str:
        return f"{self.wall:8.2f} s  {self.cpu:8.2f} s CPU  {self.memory:7.0f} MiB"

    def beside(self, other: Spent) -> str:
        """The ratios to another one: above 1 in time means faster, below 1 in memory means less."""
        return (
            f"{other.wall / self.wall:5.1f} times as fast, {other.cpu / self.cpu:5.1f} in CPU time; "
            f"{self.memory / max(other.memory, 1e-3):.2f} of the memory"
        )


@dataclass(frozen=True, slots=True)
class Tool:
    """A command line in a folder. What it leaves behind, such as kept connections, has `mark` in its command line."""

    argv: Sequence[str]
    folder: Path
    environ: Mapping[str, str]
    mark: str = ""

    def run(self, *args: str, expected: int = 0) -> Spent:
        """Run it to its end, which has to be this exit code."""
        before = cpu_of(self.left_behind())
        log = self.folder / "output.log"
        with log.open("wb") as out:
            began = time.perf_counter()
            process = subprocess.Popen(
                [*self.argv, *args], cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
            with Watched(process.pid) as watched:
                _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == expected, log.read_text(errors="replace")[-3000:]
        behind = cpu_of(self.left_behind()) - before
        return Spent(wall, usage.ru_utime + usage.ru_stime + behind, watched.most / 2**20)

    def left_behind(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter() if self.mark else ():
            with suppress(psutil.Error):
                if self.mark in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def end(self) -> None:
        """End what it left behind."""
        for process in self.left_behind():
            with suppress(psutil.NoSuchProcess):
                process.terminate()


class Watched:
    """Looks at a tree of processes while it lives. `most`: bytes of all of them together, at the look that saw most."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            with suppress(psutil.Error):
                self.most = max(self.most, sum(map(_memory, [self._root, *self._root.children(recursive=True)])))


def _memory(process: psutil.Process) -> int:
    """Bytes of one process, each page shared by its number of owners; nothing of one that has just ended."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    return 0


def cpu_of(processes: Iterable[psutil.Process]) -> float:
    """Seconds of CPU time of processes that live."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def compare(title: str, works: Mapping[str, Callable[[], Spent]], rounds: int) -> None:
    """Do each as often, in turns, so that what else the machine does meets all of them; print medians, and the first one's ratios to others."""
    found: dict[str, list[Spent]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(work())
    table(title, {name: _median(costs) for name, costs in found.items()})


def _median(costs: Sequence[Spent]) -> Spent:
    """In each respect by itself."""
    return Spent(*(statistics.median(getattr(s, name) for s in costs) for name in ("wall", "cpu", "memory")))


def table(title: str, costs: Mapping[str, Spent]) -> None:
    """Print them, and the first one's ratio to each of the others."""
    print(f"\n{title}:")
    width = max(map(len, costs)) + 2
    for name, cost in costs.items():
        print(f"  {name:{width}} {cost}")
    first, *others = costs
    for other in others:
        print(f"  {first} beside {other}: {costs[first].beside(costs[other])}")
