"""The life of one app process, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from falplan.control.launch import kill_runner, stop_runner
from falplan.core.secret import SecretValue
from falplan.runner import supervisor
from tests.runner.machine import TestMachine, a_machine, call, is_alive, python, server, until


@pytest.fixture
def machine(short_tmp: Path) -> Iterator[TestMachine]:
    with a_machine(short_tmp) as found:
        yield found


def test_an_app_is_ready_once_it_takes_connections(machine: TestMachine) -> None:
    machine.start("r1", server("import time; time.sleep(0.3)"))

    assert not machine.see("r1").ready
    seen = machine.ready("r1")
    assert call(seen.address, "GET", "/")[0] == 200


def test_the_environment_holds_what_was_given_and_no_more(
    machine: TestMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_CONTROL_PLANE", "x")
    machine.start("r1", server(), env={"PLAIN": "p"}, secrets={"TOKEN": SecretValue(b"s3cret")})
    body = call(machine.ready("r1").address, "GET", "/")[1].decode()

    assert '"PLAIN": "p"' in body and '"TOKEN": "s3cret"' in body and '"CUDA_VISIBLE_DEVICES": ""' in body
    assert "OF_THE_CONTROL_PLANE" not in body
    files = [p for p in Path(machine.root).rglob("*") if p.is_file() and b"s3cret" in p.read_bytes()]
    assert files == []


def test_gpus_are_counted_as_nvidia_smi_does(machine: TestMachine) -> None:
    machine.start("r1", server(), gpus=(2, 3))
    body = call(machine.ready("r1").address, "GET", "/")[1]

    assert b'"CUDA_VISIBLE_DEVICES": "2,3"' in body and b'"CUDA_DEVICE_ORDER": "PCI_BUS_ID"' in body


def test_a_crash_before_ready_says_the_status_and_the_last_words(machine: TestMachine) -> None:
    """Seen red with a supervisor that told the status alone and left out what the app had written."""
    machine.start("r1", python("import sys; print('no weights', file=sys.stderr); sys.exit(4)"))
    seen = machine.ended("r1")

    assert (seen.state, seen.exit_code) == ("EXITED", 4)
    assert seen.reason == "exited with status 4 before it was ready: no weights"


def test_a_signal_is_named(machine: TestMachine) -> None:
    """Seen red with a supervisor that read a signal as an exit status: exited with status 0."""
    machine.start("r1", server())
    pid = machine.ready("r1").pid
    assert pid
    os.kill(pid, signal.SIGKILL)

    seen = machine.ended("r1")
    assert (seen.exit_signal, seen.reason) == (9, "killed by signal 9 (SIGKILL)")


def test_a_missing_program_is_an_end_with_a_reason(machine: TestMachine) -> None:
    """Seen red with a supervisor that did not catch a start that fails: it told of its own failure."""
    machine.start("r1", ("/no/such/program",))

    assert machine.ended("r1").reason == "'/no/such/program' can't be started: No such file or directory"


def test_an_app_that_never_listens_is_ended_after_the_startup_timeout(machine: TestMachine) -> None:
    """Seen red with a supervisor that had no startup timeout: the runner never ended."""
    machine.start("r1", python("import time; time.sleep(600)"), startup_timeout=0.4, grace=0.2)
    seen = machine.ended("r1")

    assert seen.reason.startswith("startup timeout after 0.4 s")
    assert not is_alive(seen.pid or 0)


STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time, os; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=%s)
"""


@pytest.mark.parametrize("own_session", [True, False])
def test_after_grace_everything_the_app_started_is_killed(machine: TestMachine, own_session: bool) -> None:
    """Seen red with a supervisor that killed the app's own process alone: its child lived on, in either session."""
    machine.start("r1", server(STUBBORN % own_session), grace=0.4)
    machine.ready("r1")
    child = int(until(lambda: next((x["m"] for x in machine.lines("r1") if x["s"] == "STDOUT"), None)))

    seen = stop_runner(machine.shell, machine.root, "r1", wait=20)
    assert (seen.state, seen.reason, seen.exit_signal) == ("EXITED", "told to stop", 9)
    assert not is_alive(child) and not is_alive(seen.pid or 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the name that keeps a port is Linux's")
def test_a_port_is_kept_from_other_runners_before_the_app_listens_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with a port that was only looked at: an app that was slow to start found another one's server on it."""
    monkeypatch.setattr(supervisor, "quiet_ports", lambda: range(9_500, 9_503))  # no runner of another test gets these
    chosen = [supervisor.free_port() for _ in range(3)]
    port, _ = supervisor.free_port()
    for _, claim in chosen:
        assert claim
        claim.close()

    assert sorted(p for p, _ in chosen) == [9_500, 9_501, 9_502]
    assert port not in range(9_500, 9_503)


def test_the_system_gives_quiet_ports_to_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        given = set()
        for _ in range(50):
            with socket.create_connection(listening.getsockname()) as connection:
                given.add(connection.getsockname()[1])

    assert supervisor.quiet_ports()
    assert not given & set(supervisor.quiet_ports())


def test_a_stop_lets_the_app_finish_within_grace(machine: TestMachine) -> None:
    """Seen red with a supervisor that sent SIGKILL at once: no exit code and no last words."""
    code = "import signal, sys, time\ndef end(*a): time.sleep(0.3); print('bye', flush=True); sys.exit(0)\nsignal.signal(signal.SIGTERM, end)"
    machine.start("r1", server(code), grace=20)
    machine.ready("r1")

    seen = stop_runner(machine.shell, machine.root, "r1", wait=20)
    assert (seen.exit_code, seen.reason) == (0, "told to stop")
    assert "bye" in [x["m"] for x in machine.lines("r1")]


@pytest.mark.parametrize("by", ["auto", "poll"])
def test_an_app_that_takes_too_much_memory_is_killed_and_told_so(machine: TestMachine, by: str) -> None:
    """Seen red with a supervisor that neither set a limit nor polled: the app lived on.

    `auto`, where there are control groups, also with a supervisor that left its control group behind.
    """
    code = server("import threading,time\nthreading.Timer(0.3, lambda: globals().update(x=b'x' * 400_000_000)).start()")
    machine.start("r1", code, memory_limit=150_000_000, options={"memory_by": by}, grace=0.2)
    seen = machine.ended("r1")

    assert seen.reason == "memory limit 150 MB exceeded"
    group = machine.status("r1")["cgroup"]
    assert not group or not Path(group).exists()


def test_a_killed_supervisor_takes_the_app_along_and_is_told_as_lost(machine: TestMachine) -> None:
    """Seen red with an app that was not tied to its supervisor by a death signal: it lived on alone.

    And with an agent that did not kill what had outlived a supervisor.
    """
    code = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    machine.start("r1", server(code))
    seen = machine.ready("r1")
    os.kill(machine.status("r1")["supervisor"]["pid"], signal.SIGKILL)
    until(lambda: not is_alive(seen.pid or 0))

    lost = until(lambda: (o := machine.see("r1")).state == "LOST" and o)
    assert lost.reason == "its supervisor was killed"
    assert len(lost.survivors) == 1  # what went into a session of its own outlives its parent
    killed = kill_runner(machine.shell, machine.root, "r1")
    assert killed.survivors == () and not is_alive(lost.survivors[0])


def test_lines_keep_their_stream_and_their_requests_mark(machine: TestMachine) -> None:
    code = "import sys; print('plain'); print('\\x1freq-1\\x1fmarked'); print('wrong', file=sys.stderr); sys.stdout.write('no end')"
    machine.start("r1", python(code))
    machine.ended("r1")
    found = [(x["s"], x["m"], x.get("r")) for x in machine.lines("r1") if x["s"] != "SYSTEM"]

    assert sorted(found, key=str) == sorted(
        [
            ("STDOUT", "plain", None),
            ("STDOUT", "marked", "req-1"),
            ("STDERR", "wrong", None),
            ("STDOUT", "no end", None),
        ],
        key=str,
    )


def test_a_flood_without_newlines_is_cut_and_bounded(machine: TestMachine) -> None:
    """Seen red with a log that was never rotated: 3 MB; and with lines that were not cut: one of 3 MB."""
    machine.start("r1", python("import sys; sys.stdout.write('x' * 3_000_000)"), options={"log_bytes": 500_000})
    machine.ended("r1")
    folder = Path(machine.root) / "runners/r1"

    lines = [json.loads(x) for p in folder.glob("log*.jsonl") for x in p.read_text().splitlines()[1:]]
    assert max(len(x["m"]) for x in lines) == 65536
    assert sum(p.stat().st_size for p in folder.glob("log*.jsonl")) <= 1_000_000


def test_a_runner_whose_folder_is_removed_ends(machine: TestMachine) -> None:
    """Seen red with a supervisor that did not look whether its folder is still there: the app lived on."""
    machine.start("r1", server(), grace=0.2)
    pid = machine.ready("r1").pid
    machine.shell.remove(f"{machine.root}/runners/r1")

    until(lambda: not is_alive(pid or 0))


def test_a_long_path_gets_a_short_socket_that_goes_with_the_runner(tmp_path: Path) -> None:
    """Seen red with a supervisor that left the socket's short folder behind."""
    code = "import os, socket\ns = socket.socket(socket.AF_UNIX); s.bind(os.environ['FALPLAN_SOCKET']); s.listen(); s.accept(); s.accept(); s.accept()"
    with a_machine(tmp_path / ("long" * 30)) as machine:
        machine.start("r1", python(code + "\nimport time; time.sleep(600)"), listen="unix", grace=0.2)
        path = Path(machine.ready("r1").address.removeprefix("unix:"))
        assert len(str(path)) <= 104 and path.parent.stat().st_mode & 0o077 == 0

        stop_runner(machine.shell, machine.root, "r1", wait=20)
        assert not path.parent.exists()
