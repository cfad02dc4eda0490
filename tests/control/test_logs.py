"""Reading logs while they grow and rotate."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from falplan.control.logs import RunnerLogs
from falplan.sdk.shell import Unreachable
from falplan_providers.local import LocalShell

supervisor: Any = importlib.import_module("falplan.runner.supervisor")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "runners/r1"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def write(folder: Path) -> Iterator[Callable[..., Any]]:
    """Opens the runner's log as its supervisor does, with a limit in bytes."""
    opened = []

    def open_log(*limit: int) -> Any:
        opened.append(supervisor.Log(str(folder), *limit))
        return opened[-1]

    yield open_log
    for log in opened:
        log.close()


def logs_of(folder: Path) -> RunnerLogs:
    return RunnerLogs(LocalShell(), str(folder.parent.parent))


def test_entries_come_once_each_in_order_over_rotations(folder: Path, write: Callable[..., Any]) -> None:
    log, logs = write(2000), logs_of(folder)
    seen, position = [], 0
    for i in range(300):
        log.add("STDOUT", f"line {i}", f"req-{i % 3}")
        if i % 7 == 0:
            entries, position = logs.since("r1", position)
            seen += [e.message for e in entries]
    while True:
        entries, after = logs.since("r1", position)
        seen += [e.message for e in entries]
        if after == position:
            break
        position = after

    assert seen == [f"line {i}" for i in range(300)]
    assert logs.end("r1") == position


def test_what_was_rotated_away_is_skipped(folder: Path, write: Callable[..., Any]) -> None:
    log, logs = write(1000), logs_of(folder)
    for i in range(200):
        log.add("STDOUT", f"line {i}")
    entries, _ = logs.since("r1", 0)

    assert entries and entries[0].message != "line 0"


def test_the_tail_is_the_newest_lines(folder: Path, write: Callable[..., Any]) -> None:
    log, logs = write(), logs_of(folder)
    for i in range(5000):
        log.add("STDOUT", f"line {i}")

    assert [e.message for e in logs.tail("r1", 2)] == ["line 4998", "line 4999"]
    assert len(logs.tail("r1", 4000)) == 4000
    assert logs.tail("r1", 0) == []


def test_the_tail_reaches_into_the_rotated_part(folder: Path, write: Callable[..., Any]) -> None:
    log, logs = write(1000), logs_of(folder)
    for i in range(30):
        log.add("STDOUT", f"line {i}")

    assert [e.message for e in logs.tail("r1", 15)] == [f"line {i}" for i in range(15, 30)]


def test_a_request_gets_its_own_lines_old_and_new(folder: Path, write: Callable[..., Any]) -> None:
    log, logs = write(), logs_of(folder)
    log.add("STDOUT", "early", "a")
    assert [e.message for e in logs.of_request("r1", "a")] == ["early"]
    for i in range(6000):
        log.add("STDOUT", f"noise {i}", "b")
    log.add("STDERR", "late", "a")

    assert [e.message for e in logs.of_request("r1", "a")] == ["early", "late"]
    later = logs.of_request("r1", "a")[1].timestamp
    assert [(e.message, e.level) for e in logs.of_request("r1", "a", later)] == [("late", "STDERR")]


def test_an_unknown_runner_has_no_lines(tmp_path: Path) -> None:
    logs = RunnerLogs(LocalShell(), str(tmp_path))

    assert logs.tail("none", 5) == [] and logs.since("none", 0) == ([], 0) and logs.of_request("none", "x") == []


@dataclass(frozen=True, slots=True)
class Moody(LocalShell):
    """A machine that answers no reads once it is `away`."""

    away: list[str] = field(default_factory=list)

    def read_file(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        if self.away:
            raise Unreachable("The host can't be reached", self.away[0])
        return LocalShell.read_file(self, path, offset, limit)


def test_lines_that_were_read_are_told_after_their_machine_went_away(folder: Path, write: Callable[..., Any]) -> None:
    """Seen red with a status that failed with 500: its request was done elsewhere, and its caller never saw that."""
    log, shell = write(), Moody()
    logs = RunnerLogs(shell, str(folder.parent.parent))
    log.add("STDOUT", "begun", "req-1")
    before = logs.of_request("r1", "req-1")
    shell.away.append("no route")

    assert [e.message for e in before] == ["begun"]
    assert logs.of_request("r1", "req-1") == before
