"""The machine's ledger through a shell: real agents, real processes, kills at every line that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.control.labels import Labels, adoptable, labels_of
from falplan.control.launch import (
    ObservedRunner,
    Reservation,
    RunnerLaunch,
    kill_runner,
    observe_runners,
    start_runner,
    stop_runner,
)
from falplan.control.ledger import (
    Claim,
    ClaimRefused,
    Fence,
    Fenced,
    LedgerUnreadable,
    Process,
    RoomTaken,
    Taken,
    confirm_claim,
    read_ledger,
    release_claim,
    take_claim,
)
from falplan.core.errors import ExitCode, FalplanError
from tests.runner.machine import TestMachine, a_machine, server, until

GONE = Process(2**22, "1", "an earlier boot")


@pytest.fixture
def machine(short_tmp: Path) -> Iterator[TestMachine]:
    with a_machine(short_tmp) as found:
        yield found


def a_claim(home: Path | str, process: Process = GONE, **values: object) -> Claim:
    base = Claim("l", "cp-1", 1, str(home), "demo", "box", process)
    return replace(base, **values)  # type: ignore[arg-type]  # the names are checked by replace itself


def an_owner(machine: TestMachine, lineage: str) -> Fence:
    """A control plane of that lineage that has this machine."""
    taken = take_claim(machine.shell, machine.root, a_claim(machine.root, lineage=lineage, project=lineage))
    return Fence(lineage, "cp-1", taken.epoch)


def a_launch(runner_id: str, *, ram: int = 600, gpus: tuple[int, ...] = ()) -> RunnerLaunch:
    """A runner that takes `ram` of 1000 bytes."""
    return RunnerLaunch(runner_id, server(), reservation=Reservation(0.5, ram, gpus, 2.0, 1000))


def ledger_file() -> Path:
    return Path(os.environ["FALPLAN_MACHINE_DIR"]) / "ledger.json"


@contextmanager
def sleepers(count: int) -> Iterator[list[Process]]:
    """That many living processes."""
    argv = [sys.executable, "-I", "-S", "-c", "input()"]
    alive = [subprocess.Popen(argv, stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield [Process.of(p.pid) for p in alive]
    finally:
        for process in alive:
            process.communicate(b"\n")


# -- claims ---------------------------------------------------------------------------------------------------------------


def test_of_forty_at_once_exactly_one_takes_the_machine(machine: TestMachine) -> None:
    """Seen red with a ledger that was read before its lock was held: several took it."""

    def take(number: int, process: Process) -> Taken | ClaimRefused:
        try:
            return take_claim(machine.shell, machine.root, a_claim(f"/data/{number}", process))
        except ClaimRefused as exc:
            return exc

    with sleepers(40) as processes, ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(take, range(40), processes))
        [winner] = [n for n, a in enumerate(answers) if isinstance(a, Taken)]
        refusals = [a for a in answers if isinstance(a, ClaimRefused)]
        held = read_ledger(machine.shell, machine.root).claims["l"]

    assert len(refusals) == 39
    assert all(f"pid {processes[winner].pid} on box, data in /data/{winner}" in r.detail for r in refusals)
    assert (held.home, held.lives, held.process) == (f"/data/{winner}", True, processes[winner])


def test_each_start_gets_a_higher_epoch_than_all_before(machine: TestMachine) -> None:
    epochs = [1]
    for _ in range(4):
        with sleepers(1) as [process]:  # each start is another process
            taken = take_claim(machine.shell, machine.root, a_claim("/data", process, epoch=epochs[-1]))
            again = take_claim(machine.shell, machine.root, a_claim("/data", process, epoch=epochs[-1]))
            confirm_claim(machine.shell, machine.root, Fence("l", "cp-1", taken.epoch))
        epochs.append(taken.epoch)
        assert again == taken

    assert epochs == [1, 1, 2, 3, 4]


def test_a_database_that_was_rolled_back_is_told_so(machine: TestMachine) -> None:
    for known in (1, 1, 2):
        with sleepers(1) as [process]:
            taken = take_claim(machine.shell, machine.root, a_claim("/data", process, epoch=known))
            confirm_claim(machine.shell, machine.root, Fence("l", "cp-1", taken.epoch))
    rolled_back = take_claim(machine.shell, machine.root, a_claim("/data", epoch=1))

    assert taken == Taken(3)
    assert rolled_back == Taken(4, rolled_back=True)


def test_a_start_that_was_killed_before_it_kept_its_epoch_is_no_rollback(machine: TestMachine) -> None:
    """Seen red with a ledger that took an epoch for used once it was given."""
    with sleepers(1) as [process]:
        take_claim(machine.shell, machine.root, a_claim("/data", process))
        confirm_claim(machine.shell, machine.root, Fence("l", "cp-1", 1))
    with sleepers(1) as [process]:
        assert take_claim(machine.shell, machine.root, a_claim("/data", process)) == Taken(2)

    assert take_claim(machine.shell, machine.root, a_claim("/data")) == Taken(3)


def test_a_replaced_one_never_comes_back(machine: TestMachine) -> None:
    take_claim(machine.shell, machine.root, a_claim("/data"))
    with sleepers(1) as [process]:
        new = a_claim("/new", process, control_plane="cp-2")
        with pytest.raises(ClaimRefused, match="cp-1") as refused:
            take_claim(machine.shell, machine.root, new)
        assert refused.value.exit_code is ExitCode.LOCKED
        assert take_claim(machine.shell, machine.root, new, replaces="cp-1") == Taken(2, replaced="cp-1")
    assert release_claim(machine.shell, machine.root, lineage="l", home="/new")

    with pytest.raises(ClaimRefused, match="cp-1 was replaced by cp-2"):
        take_claim(machine.shell, machine.root, a_claim("/data", epoch=99))


def test_a_successor_takes_over_from_a_process_that_lives(machine: TestMachine) -> None:
    """The old one has given way and finishes what is in flight. Only the one that it named its successor may."""
    with sleepers(3) as [old, new, other]:
        take_claim(machine.shell, machine.root, a_claim("/data", old))
        with pytest.raises(ClaimRefused, match=f"pid {old.pid}"):
            take_claim(machine.shell, machine.root, a_claim("/data", new), succeeds=other)
        taken = take_claim(machine.shell, machine.root, a_claim("/data", new), succeeds=old)
        with pytest.raises(Fenced):
            confirm_claim(machine.shell, machine.root, Fence("l", "cp-1", 1))

    assert taken == Taken(2)


def test_a_claim_is_given_up_only_by_the_folder_that_holds_it(machine: TestMachine) -> None:
    take_claim(machine.shell, machine.root, a_claim("/data"))

    assert not release_claim(machine.shell, machine.root, lineage="l", home="/copy")
    assert release_claim(machine.shell, machine.root, lineage="l", home="/data")
    assert not release_claim(machine.shell, machine.root, lineage="l", home="/data")
    assert read_ledger(machine.shell, machine.root).claims == {}


def test_a_torn_ledger_stops_everything_and_nothing_is_touched(machine: TestMachine) -> None:
    fence = an_owner(machine, "l")
    ledger_file().write_text('{"format": "falpl')
    acts: list[Callable[[], object]] = [
        lambda: take_claim(machine.shell, machine.root, a_claim("/data")),
        lambda: read_ledger(machine.shell, machine.root),
        lambda: start_runner(machine.shell, machine.root, a_launch("r1"), fence=fence),
    ]
    for act in acts:
        with pytest.raises(LedgerUnreadable, match=r"ledger.json: it is not whole JSON\. Nothing was touched."):
            act()
    assert ledger_file().read_text() == '{"format": "falpl'
    assert not machine.see("r1").alive


# -- the fence ------------------------------------------------------------------------------------------------------------


def test_an_owner_of_before_can_neither_start_nor_stop_nor_kill(machine: TestMachine) -> None:
    """Seen red with an agent that did not compare the fence: the runner was stopped."""
    old = an_owner(machine, "l")
    start_runner(machine.shell, machine.root, a_launch("r1"), fence=old)
    machine.ready("r1")
    with sleepers(1) as [process]:
        take_claim(machine.shell, machine.root, a_claim("/copy", process))
        acts: list[Callable[[], object]] = [
            lambda: start_runner(machine.shell, machine.root, a_launch("r2", ram=1), fence=old),
            lambda: stop_runner(machine.shell, machine.root, "r1", fence=old),
            lambda: kill_runner(machine.shell, machine.root, "r1", fence=old),
        ]
        for act in acts:
            with pytest.raises(Fenced, match=f"pid {process.pid} on box, data in /copy"):
                act()

    assert machine.see("r1").ready
    assert not machine.see("r2").alive


# -- reservations ---------------------------------------------------------------------------------------------------------


def test_two_projects_never_get_one_gpu(machine: TestMachine, tmp_path: Path) -> None:
    """Twenty tries at once for one GPU. Seen red with a ledger that was read before its lock was held: several runners had it."""
    fences = [an_owner(machine, name) for name in ("a", "b")]

    def start(number: int) -> str:
        try:
            launch = a_launch(f"r{number}", ram=1, gpus=(3,))
            start_runner(machine.shell, machine.root, launch, fence=fences[number % 2])
        except RoomTaken as exc:
            return exc.detail
        return ""

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(start, range(20)))
    winner = answers.index("")

    assert answers.count("") == 1
    assert {a for a in answers if a} == {f"GPU 3 is taken by project {'ab'[winner % 2]} (lineage {'ab'[winner % 2]})"}
    assert [o.runner_id for o in observe_runners(machine.shell, machine.root) if o.alive] == [f"r{winner}"]


def test_room_is_free_once_its_runner_is_gone(machine: TestMachine) -> None:
    a, b = an_owner(machine, "a"), an_owner(machine, "b")
    start_runner(machine.shell, machine.root, a_launch("r1"), fence=a)
    machine.ready("r1")
    with pytest.raises(RoomTaken, match=r"project a \(lineage a\)"):
        start_runner(machine.shell, machine.root, a_launch("r2"), fence=b)
    [entry] = read_ledger(machine.shell, machine.root).reservations
    assert (entry.runner_id, entry.project, entry.ram) == ("r1", "a", 600)

    stop_runner(machine.shell, machine.root, "r1", wait=20, fence=a)
    assert read_ledger(machine.shell, machine.root).reservations == ()
    start_runner(machine.shell, machine.root, a_launch("r2"), fence=b)
    machine.ready("r2")
    os.kill(machine.status("r2")["supervisor"]["pid"], 9)
    until(lambda: read_ledger(machine.shell, machine.root).reservations == ())


def test_a_runner_that_came_back_with_its_machine_has_what_it_took(machine: TestMachine) -> None:
    """Its reservation is of the boot before."""
    a, b = an_owner(machine, "a"), an_owner(machine, "b")
    start_runner(machine.shell, machine.root, a_launch("r1"), fence=a)
    machine.ready("r1")
    ledger = Path(os.environ["FALPLAN_MACHINE_DIR"]) / "ledger.json"
    body = json.loads(ledger.read_text())
    for entry in body["reservations"].values():
        entry["boot_id"] = "another"
    ledger.write_text(json.dumps(body))

    assert [r.runner_id for r in read_ledger(machine.shell, machine.root).reservations] == ["r1"]
    with pytest.raises(RoomTaken):
        start_runner(machine.shell, machine.root, a_launch("r2"), fence=b)


POINTS = {
    "ledger.save.before_write": False,
    "ledger.save.before_rename": False,
    "ledger.save.after_rename": True,
    "agent.start.after_reserve": True,
    "agent.start.after_supervisor": True,
}
"""Failpoint of the agent -> whether what it was recording is recorded when it is killed there."""


@pytest.mark.parametrize("point", [p for p in POINTS if p.startswith("ledger.")])
def test_an_agent_killed_while_it_takes_a_claim_leaves_a_whole_ledger(
    machine: TestMachine, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Seen red with a ledger that was written in place: it was torn."""
    an_owner(machine, "before")
    monkeypatch.setenv("FALPLAN_FAILPOINTS", f"{point}=kill")
    with pytest.raises(FalplanError, match="status -9"):
        take_claim(machine.shell, machine.root, a_claim("/data"))
    monkeypatch.delenv("FALPLAN_FAILPOINTS")

    assert set(read_ledger(machine.shell, machine.root).claims) == {"before", *["l"] * POINTS[point]}
    assert take_claim(machine.shell, machine.root, a_claim("/data")) == Taken(1)


@pytest.mark.parametrize("point", POINTS)
def test_an_agent_killed_while_it_starts_a_runner_leaks_no_room(
    machine: TestMachine, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Whoever asked kills what it can't tell of; then another project has the room.

    Seen red with a `kill` that kept the reservation; and with a ledger that gave away the room of a runner that lived.
    """
    a, b = an_owner(machine, "a"), an_owner(machine, "b")
    for fence in (a, b):
        confirm_claim(machine.shell, machine.root, fence)
    monkeypatch.setenv("FALPLAN_FAILPOINTS", f"{point}=kill")
    with pytest.raises(FalplanError, match="status -9"):
        start_runner(machine.shell, machine.root, a_launch("r1"), fence=a)
    monkeypatch.delenv("FALPLAN_FAILPOINTS")
    held = read_ledger(machine.shell, machine.root).reservations

    assert [r.runner_id for r in held] == ["r1"] * POINTS[point]
    if point == "agent.start.after_supervisor":
        machine.ready("r1")
        with pytest.raises(RoomTaken):
            start_runner(machine.shell, machine.root, a_launch("r2"), fence=b)
    assert not kill_runner(machine.shell, machine.root, "r1", fence=a).alive
    start_runner(machine.shell, machine.root, a_launch("r2"), fence=b)
    machine.ready("r2")


def test_room_of_a_runner_that_never_came_is_free_after_a_while(
    machine: TestMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who asked is dead, too. Seen red with a ledger that waited for the runner of every reservation for ever."""
    a, b = an_owner(machine, "a"), an_owner(machine, "b")
    monkeypatch.setenv("FALPLAN_FAILPOINTS", "agent.start.after_reserve=kill")
    with pytest.raises(FalplanError, match="status -9"):
        start_runner(machine.shell, machine.root, a_launch("r1"), fence=a)
    monkeypatch.delenv("FALPLAN_FAILPOINTS")
    with pytest.raises(RoomTaken):
        start_runner(machine.shell, machine.root, a_launch("r2"), fence=b)
    body = json.loads(ledger_file().read_text())
    for entry in body["reservations"].values():
        entry["at"] -= 31  # half a minute goes by
    ledger_file().write_text(json.dumps(body))

    start_runner(machine.shell, machine.root, a_launch("r2"), fence=b)
    machine.ready("r2")


# -- labels ---------------------------------------------------------------------------------------------------------------


def test_a_runner_tells_whose_it_is_and_what_it_serves(machine: TestMachine) -> None:
    place = {"region": "here", "machine_type": "XS", "vcpu": 0.5, "ram": 1, "gpus": [], "because": ""}
    labels = Labels("l", "cp-1", 3, "demo", "acme/one", "r-1", "XS", place, 12.5)  # type: ignore[arg-type]
    start_runner(machine.shell, machine.root, replace(a_launch("r1"), labels=labels.to_json()))
    start_runner(machine.shell, machine.root, a_launch("r2"))
    machine.ready("r1")
    machine.ready("r2")
    seen = observe_runners(machine.shell, machine.root)
    [one] = [o for o in seen if o.runner_id == "r1"]

    assert labels_of(one.labels) == labels
    assert adoptable(seen, {("acme/one", "r-1")}) == [(one, labels)]
    assert adoptable(seen, {("acme/one", "r-2")}) == []


def test_what_has_ended_or_has_no_labels_is_not_adopted() -> None:
    dead = ObservedRunner("r1", "EXITED", False, labels={"lineage": "l"})

    assert adoptable([dead, replace(dead, alive=True)], {("", "")}) == []
