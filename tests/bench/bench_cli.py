"""What `falplan --help` costs beside starting Python and importing click, both measured in turn in the same run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.bench
ROUNDS = 21
CLICK = [sys.executable, "-c", "import click"]
HELP = [sys.executable, "-m", "falplan", "--help"]
VERSION = [sys.executable, "-m", "falplan", "version"]


def test_help_beside_importing_click() -> None:
    commands = {"python -c 'import click'": CLICK, "falplan --help": HELP, "falplan version": VERSION}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):  # in turn, so that a busy machine is busy for all of them
        for name, argv in commands.items():
            taken[name].append(_seconds(argv))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    base = medians["python -c 'import click'"]
    print()
    for name, median in medians.items():
        print(f"{name}: {median * 1000:.0f} ms, {median / base:.2f} times importing click (median of {ROUNDS})")

    assert all(len(times) == ROUNDS for times in taken.values())


def _seconds(argv: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=60)
    return time.perf_counter() - began
