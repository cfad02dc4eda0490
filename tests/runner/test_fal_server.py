"""Real fal.App files, served in a real environment."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from falplan.control.launch import ObservedRunner, fal_argv, stop_runner
from falplan.control.logs import RunnerLogs
from falplan.runner import supervisor
from tests.conftest_environments import fal_environment
from tests.runner.machine import APPS, TestMachine, a_machine, call, until

SCRIPTS = Path(supervisor.__file__).parent


@pytest.fixture
def machine(short_tmp: Path) -> Iterator[TestMachine]:
    with a_machine(short_tmp) as found:
        yield found


def serve(machine: TestMachine, entry: str) -> ObservedRunner:
    argv = fal_argv(str(fal_environment()), machine.root, entry)
    return machine.start("r1", argv, listen="unix", files=str(APPS), startup_timeout=120, grace=30)


def test_an_app_answers_as_on_fal_and_tears_down_on_sigterm(machine: TestMachine) -> None:
    serve(machine, "hello.py::Hello")
    address = machine.ready("r1").address

    assert json.loads(call(address, "POST", "/", {"name": "you"})[1])["message"] == "hello you"
    assert json.loads(call(address, "POST", "/async", {"name": "you"})[1])["message"] == "hello you"
    status, body = call(address, "POST", "/", {})
    assert (status, json.loads(body)["detail"][0]["loc"]) == (422, ["body", "name"])
    assert call(address, "POST", "/fail", {"name": "x"}) == (500, b'{"detail":"Internal Server Error"}')
    assert call(address, "POST", "/stream", {})[1].count(b"data: ") == 3
    assert call(address, "GET", "/health")[0] == 200
    seen = stop_runner(machine.shell, machine.root, "r1", wait=30)
    assert (seen.exit_code, seen.reason) == (0, "told to stop")
    printed = [x["m"] for x in machine.lines("r1") if x["s"] == "STDOUT"]
    assert printed.index("setup runs") < printed.index("handle_exit runs") < printed.index("teardown runs")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, whose supervisor gives the app to another user")
def test_an_app_listens_on_a_socket_that_is_not_its_own_to_replace(short_tmp: Path) -> None:
    """As the supervisor of a unit of the system starts it."""
    folder = short_tmp / "r1"
    (folder / "work").mkdir(parents=True)
    config = {
        "protocol": 2,
        "runner_id": "r1",
        "argv": [str(fal_environment()), "-u", str(SCRIPTS / "fal_server.py"), "hello.py::Hello"],
        "cwd": str(APPS),
        "env": {},
        "startup_timeout": 60,
        "grace": 10,
        "listen": {"kind": "unix"},
        "secrets": False,
    }
    (folder / "runner.json").write_text(json.dumps(config))
    (folder / "owner.json").write_text(json.dumps({"uid": 0, "gid": 0, "groups": []}))
    argv = [sys.executable, "-I", "-S", str(SCRIPTS / "supervisor.py"), str(folder), "--unit"]
    with subprocess.Popen(argv) as running:
        try:
            status = folder / "status.json"
            until(lambda: status.exists() and json.loads(status.read_text())["state"] == "READY", 60)
            address = json.loads(status.read_text())["address"]
            answer = json.loads(call(address, "POST", "/", {"name": "you"})[1])
        finally:
            (folder / "ending").touch()
            running.terminate()
            running.wait(30)

    assert answer["message"] == "hello you"
    assert stat.S_IMODE((folder / "app.sock").stat().st_mode) & 0o022 == 0
    assert json.loads(status.read_text())["reason"] == "told to stop"


def test_lines_carry_the_request_that_printed_them(machine: TestMachine) -> None:
    serve(machine, "hello.py::Hello")
    address = machine.ready("r1").address
    paths = ["/", "/async"] * 3

    def ask(i: int) -> None:
        call(address, "POST", paths[i], {"name": f"n{i}", "wait": 0.2}, request_id=f"req-{i}")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs = RunnerLogs(machine.shell, machine.root)

    for i in range(6):
        said = [e.message for e in logs.of_request("r1", f"req-{i}")]
        assert said == ([f"async for n{i}", f"async done for n{i}"] if i % 2 else [f"sync for n{i}"])
    assert "setup runs" in [e.message for e in logs.tail("r1", 100) if e.request_id is None]


def test_a_request_in_flight_is_finished_at_a_stop(machine: TestMachine) -> None:
    serve(machine, "hello.py::Hello")
    address = machine.ready("r1").address
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(call(address, "POST", "/", {"name": "n", "wait": 1})[0]))
    thread.start()
    while "sync for n" not in [x["m"] for x in machine.lines("r1")]:
        thread.join(0.02)
    stop_runner(machine.shell, machine.root, "r1", wait=30)
    thread.join()

    assert answers == [200]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("broken_import.py::BrokenImport", "there is no module 'no_such_module_anywhere'"),
        ("broken_setup.py::BrokenSetup", "setup() failed: RuntimeError: the weights are missing"),
        ("hello.py::Nobody", "there is no class Nobody in hello.py"),
        ("nowhere.py::Nobody", "nowhere.py is not among the app's files"),
    ],
)
def test_an_app_that_cannot_be_served_says_why(machine: TestMachine, entry: str, reason: str) -> None:
    serve(machine, entry)
    seen = machine.ended("r1", 60)

    assert seen.exit_code == 1
    assert reason in seen.reason
