"""Runners through a shell: once each, seen whatever happened, never signalled by pid alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from falplan.control.launch import (
    RunnerLaunch,
    find_strays,
    forget_runner,
    kill_runner,
    observe_runners,
    start_runner,
    stop_runner,
)
from falplan.core.errors import FalplanError
from falplan.core.secret import SecretValue
from tests.runner.machine import TestMachine, a_machine, call, is_alive, server, until


@pytest.fixture
def machine(short_tmp: Path) -> Iterator[TestMachine]:
    with a_machine(short_tmp) as found:
        yield found


def test_a_runner_is_started_once_for_its_id(machine: TestMachine) -> None:
    """Seen red with an agent and a supervisor that did not look who came before: they fell over one another."""
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(bool(machine.start("r1", server())))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pid = machine.ready("r1").pid

    assert len(seen) == 4
    assert machine.start("r1", server()).pid == pid
    assert next(x["m"] for x in machine.lines("r1") if x["s"] == "SYSTEM").startswith("ready")


def test_a_runner_that_ended_is_not_started_again(machine: TestMachine) -> None:
    """Seen red with an agent that started what had ended, as it starts what is absent: SETUP again."""
    machine.start("r1", ("/no/such/program",))
    machine.ended("r1")

    assert machine.start("r1", server()).state == "EXITED"


def test_a_runner_outlives_the_process_that_started_it(machine: TestMachine) -> None:
    """Seen red with a supervisor that ended once the process that had started it was gone."""
    code = (
        "from falplan_providers.local import LocalShell\nfrom falplan.control.launch import *\n"
        f"start_runner(LocalShell(), {machine.root!r}, RunnerLaunch('r1', {server()!r}))\nimport os; os.kill(os.getpid(), 9)"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": paths}, timeout=30)

    machine.ready("r1")
    time.sleep(1.2)  # the supervisor looks around every half second
    seen = machine.see("r1")
    assert seen.ready
    assert call(seen.address, "GET", "/")[0] == 200
    assert stop_runner(machine.shell, machine.root, "r1", wait=20).state == "EXITED"


def test_files_are_the_runners_own(machine: TestMachine, tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    (files / "sub/data.txt").write_text("data")
    (files / "sub/data.txt").chmod(0o444)
    machine.start("r1", server("open('new.txt', 'w').write(open('sub/data.txt').read())"), files=str(files))
    body = json.loads(call(machine.ready("r1").address, "GET", "/")[1])

    assert body["cwd"] == f"{os.path.realpath(machine.root)}/runners/r1/work"
    assert Path(body["cwd"], "new.txt").read_text() == "data"
    assert not (files / "new.txt").exists()


def test_a_reused_pid_is_never_signalled(machine: TestMachine) -> None:
    """Seen red with an agent that knew a process by its pid alone: the foreign one was killed."""
    machine.start("r1", server())
    machine.ready("r1")
    status = machine.status("r1")
    stop_runner(machine.shell, machine.root, "r1", wait=20)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as foreign:
        for who in ("supervisor", "child"):
            status[who]["pid"] = foreign.pid  # the start time is still the old one
        path = f"{machine.root}/runners/r1/status.json"
        machine.shell.write_file(path, json.dumps({**status, "state": "READY"}).encode())
        stop_runner(machine.shell, machine.root, "r1")
        killed = kill_runner(machine.shell, machine.root, "r1")

        assert foreign.poll() is None
        assert (killed.alive, killed.state) == (False, "LOST")
        foreign.kill()


def test_another_boot_is_told(machine: TestMachine) -> None:
    """Seen red with an agent that did not compare boots: its supervisor was killed."""
    machine.start("r1", server())
    machine.ready("r1")
    status = machine.status("r1")
    kill_runner(machine.shell, machine.root, "r1")
    status["supervisor"]["boot_id"] = "another"
    machine.shell.write_file(f"{machine.root}/runners/r1/status.json", json.dumps(status).encode())

    assert machine.see("r1").reason == "the machine was restarted"


def test_a_live_runner_is_not_forgotten_and_a_dead_one_is(machine: TestMachine) -> None:
    """Seen red with an agent that forgot a live runner; and with one that could not forget twice."""
    machine.start("r1", server())
    machine.ready("r1")
    with pytest.raises(FalplanError, match="still alive"):
        forget_runner(machine.shell, machine.root, "r1")
    stop_runner(machine.shell, machine.root, "r1", wait=20)
    forget_runner(machine.shell, machine.root, "r1")
    forget_runner(machine.shell, machine.root, "r1")

    assert observe_runners(machine.shell, machine.root) == []
    assert list((Path(machine.root) / "runners").iterdir()) == []


def test_strays_are_those_nobody_knows_even_without_a_folder(machine: TestMachine, tmp_path: Path) -> None:
    """Seen red with an agent that looked at folders alone; and with one that took marks of another root for its own."""
    marks = {"FALPLAN_RUNNER": "r9", "FALPLAN_RUNNER_FOLDER": f"{os.path.realpath(machine.root)}/runners/r9"}
    other = {"FALPLAN_RUNNER": "r9", "FALPLAN_RUNNER_FOLDER": f"{tmp_path}/elsewhere/runners/r9"}
    argv = [sys.executable, "-c", "import time; time.sleep(600)"]
    with (
        subprocess.Popen(argv, env={**os.environ, **marks}) as ours,
        subprocess.Popen(argv, env={**os.environ, **other}) as foreign,
    ):
        try:
            machine.start("r1", server())
            machine.start("r2", server())
            until(lambda: find_strays(machine.shell, machine.root, ["r1"]) == ["r2", "r9"])
            kill_runner(machine.shell, machine.root, "r9")

            assert ours.wait(10) == -signal.SIGKILL
            assert is_alive(foreign.pid)
        finally:
            ours.kill()
            foreign.kill()


def test_secrets_show_in_no_repr() -> None:
    assert "s3cret" not in repr(RunnerLaunch("r1", ("x",), secrets={"TOKEN": SecretValue(b"s3cret")}))


def test_an_id_that_would_leave_the_folder_is_refused(machine: TestMachine) -> None:
    with pytest.raises(FalplanError, match="no runner id"):
        machine.start("../evil", server())


@pytest.mark.bench
def test_looking_at_twenty_runners_takes_one_short_call(machine: TestMachine) -> None:
    for i in range(20):
        folder = Path(machine.root) / f"runners/r{i}"
        folder.mkdir(parents=True)
        (folder / "lock").touch()
        (folder / "status.json").write_text(json.dumps({"protocol": 1, "state": "EXITED", "reason": "x"}))
    observe_runners(machine.shell, machine.root)
    began = time.perf_counter()
    assert len(observe_runners(machine.shell, machine.root)) == 20

    assert time.perf_counter() - began < 1.0


def test_a_killed_start_is_finished_by_the_next_one(machine: TestMachine, tmp_path: Path) -> None:
    """Seen red with an agent that took runner.json for a start; and with one that kept a half-made work folder."""
    folder = Path(machine.root) / "runners/r1"
    (folder / "work.tmp").mkdir(parents=True)
    (folder / "work.tmp" / "half").touch()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "app.py").touch()
    (folder / "runner.json").write_text("{")  # killed before the supervisor was called

    assert machine.see("r1").state == "ABSENT"
    start_runner(machine.shell, machine.root, RunnerLaunch("r1", server(), files=str(tmp_path / "files")))
    pid = machine.ready("r1").pid
    assert pid and is_alive(pid)
    assert [p.name for p in (folder / "work").iterdir()] == ["app.py"]
