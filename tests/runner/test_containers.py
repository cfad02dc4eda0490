"""Runners that are containers, of a real Podman and a real Docker: begun, seen, ended, whatever happened to who watched them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from falplan.control.images import ensure_image, remove_images_except, unused_images
from falplan.control.launch import ObservedRunner, find_strays, forget_runner, kill_runner, stop_runner
from falplan.control.tools import ask
from falplan.core.errors import FalplanError
from falplan.core.secret import SecretValue
from tests.lab.engines import EngineLab, docker, podman, registry
from tests.runner.machine import TestMachine, a_machine, call, is_alive, until

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.getuid() != 0, reason="needs root, for engines of the test's own"),
    pytest.mark.faults,  # a minute, of which make test has ten
]
ENGINES: dict[str, Callable[[], Any]] = {"podman": podman, "docker": docker}


@dataclass
class Place:
    """A machine with one engine, and an image there."""

    machine: TestMachine
    engine: EngineLab
    image: str

    def start(self, runner_id: str, argv: tuple[str, ...] = (), *, port: int = 0, **values: Any) -> ObservedRunner:
        image = ensure_image(self.machine.shell, self.machine.root, self.image)
        wanted = {"engine": image.engine, "image": image.id, "port": port, "vcpu": 0.5, "gpus": []}
        return self.machine.start(runner_id, argv, container=wanted, **values)

    def answer(self, runner_id: str, path: str = "/") -> Any:
        status, body = call(self.machine.ready(runner_id).address, "GET", path)
        assert status == 200
        return json.loads(body)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            "podman", marks=[*map(pytest.mark.needs, ("podman", "slirp4netns")), pytest.mark.xdist_group("podman")]
        ),
        pytest.param(
            "docker", marks=[*map(pytest.mark.needs, ("docker.io", "iproute2")), pytest.mark.xdist_group("docker")]
        ),
    ],
)
def lab(request: pytest.FixtureRequest) -> Iterator[tuple[EngineLab, str]]:
    with ENGINES[request.param]() as engine:
        yield engine, engine.make_image(1)


@pytest.fixture
def place(lab: tuple[EngineLab, str], short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    engine, image = lab
    engine.use(monkeypatch)
    with a_machine(short_tmp / "root") as machine:
        yield Place(machine, engine, image)
    assert engine.containers() == []


def test_a_container_serves_with_its_variables_and_is_told_to_end(place: Place) -> None:
    """Seen red with a supervisor that told the client alone to end: the container lived on."""
    secret = SecretValue(b"line 1\nhidden-7")
    place.start(
        "r1", env={"MODE": "fast", "PATH": "/opt", "GONE": ""}, secrets={"TOKEN": secret}, memory_limit=256 << 20
    )
    answer = place.answer("r1")
    env = answer["env"]

    assert (env["MODE"], env["PATH"], env["GONE"], env["TOKEN"]) == ("fast", "/opt", "", "line 1\nhidden-7")
    assert env["FALPLAN_RUNNER"] == "r1" and "CUDA_VISIBLE_DEVICES" not in env
    lines = {(x["s"], x["m"], x.get("r")) for x in place.machine.lines("r1")}
    assert {("STDOUT", "begun", None), ("STDOUT", "of a request", "request-7"), ("STDERR", "wrong", None)} <= lines
    words = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert "hidden-7" not in words and "falplan-r1" in words
    assert place.engine.containers() == ["falplan-r1"]
    ended = stop_runner(place.machine.shell, place.machine.root, "r1", wait=20)
    assert (ended.state, ended.reason) == ("EXITED", "told to stop")
    assert ("STDOUT", "told to end") in {(x["s"], x["m"]) for x in place.machine.lines("r1")}
    assert place.engine.containers() == []


def test_two_containers_listen_on_the_same_port_of_their_own(place: Place) -> None:
    for name in ("r1", "r2"):
        place.start(name, env={"PORT": "8000"}, port=8000)
    first, second = place.answer("r1"), place.answer("r2")

    assert first["env"]["PORT"] == second["env"]["PORT"] == "8000"
    assert first["host"] != second["host"]


def test_a_container_is_not_ready_before_somebody_listens_in_it(place: Place) -> None:
    """Seen red with a probe that took a connection to the engine's proxy for one to the app."""
    place.start("r1", env={"BEFORE": "import os, time\nwhile not os.path.exists('/tmp/go'): time.sleep(0.02)"})
    until(lambda: place.engine.ask("ps", "--quiet", "--filter", "status=running"))
    for _ in range(10):
        assert place.machine.see("r1").state == "SETUP"
        subprocess.run(["sleep", "0.1"], check=True)  # as long as a proxy may take to be asked
    program = place.engine.ask("inspect", "--format", "{{json .Config.Cmd}}", "falplan-r1")
    place.engine.ask("exec", "falplan-r1", json.loads(program)[0], "-I", "-c", "open('/tmp/go', 'w')")

    assert place.answer("r1")["version"] == 1


@pytest.mark.parametrize(
    ("before", "reason", "exit_code", "exit_signal"),
    [
        ("sys.exit('no model')", "exited with status 1 before it was ready: no model", 1, None),
        ("os.kill(os.getpid(), 15)", "killed by signal 15 (SIGTERM) before it was ready", None, 15),
    ],
)
def test_how_an_app_ended_is_told_as_of_a_command(
    place: Place, before: str, reason: str, exit_code: int | None, exit_signal: int | None
) -> None:
    place.start("r1", env={"BEFORE": f"import os, sys; {before}"})
    ended = place.machine.ended("r1")

    assert ended.reason.startswith(reason)
    assert (ended.exit_code, ended.exit_signal) == (exit_code, exit_signal)
    assert place.engine.containers() == []


def test_more_memory_than_its_limit_ends_it_and_is_told(place: Place) -> None:
    place.start("r1", memory_limit=64 << 20)
    with pytest.raises(OSError):
        place.answer("r1", "/blow")
        raise AssertionError("it got more than its limit")
    ended = place.machine.ended("r1")

    assert "memory limit" in ended.reason and "67 MB" in ended.reason
    assert place.engine.containers() == []


def test_what_an_engine_refuses_is_told_in_its_words(place: Place) -> None:
    place.start("r1", ("/no/such/program",))
    ended = place.machine.ended("r1")

    assert "before it was ready" in ended.reason and "no such file or directory" in ended.reason.lower()
    assert place.engine.containers() == []


def test_a_container_whose_supervisor_was_killed_is_known_and_ended(place: Place) -> None:
    """Seen red with an agent that killed processes alone: the container stayed, ended."""
    place.start("r1")
    place.answer("r1")
    supervisor = place.machine.status("r1")["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not is_alive(supervisor))
    lost = place.machine.see("r1")

    assert lost.state == "LOST" and lost.survivors
    assert place.engine.containers() == ["falplan-r1"]
    with pytest.raises(FalplanError, match="still alive"):
        forget_runner(place.machine.shell, place.machine.root, "r1")
    gone = kill_runner(place.machine.shell, place.machine.root, "r1")
    assert not gone.survivors and place.engine.containers() == []
    forget_runner(place.machine.shell, place.machine.root, "r1")


def test_containers_without_a_folder_are_found_and_those_of_others_left_alone(place: Place) -> None:
    """Seen red with an agent that looked for folders and processes: a container that was created and never begun was no stray."""
    others = place.engine.ask(
        "create", "--name", "falplan-r9", "--label", "falplan.home=/other", "--label", "falplan.runner=r9", place.image
    )
    place.start("r1")
    place.answer("r1")
    label = f"falplan.home={os.path.realpath(place.machine.root)}"
    place.engine.ask("create", "--name", "falplan-r2", "--label", label, "--label", "falplan.runner=r2", place.image)
    known = find_strays(place.machine.shell, place.machine.root, ["r1"])
    ended = ask(
        place.machine.shell, place.machine.root, {"verb": "clear", "root": place.machine.root, "lineage": "none"}
    )

    assert known == ["r2"] and ended == ["r1", "r2"]
    assert place.engine.containers() == ["falplan-r9"]
    place.engine.ask("rm", others)


def test_an_image_that_is_not_there_is_told_with_where_it_was_looked_for(place: Place) -> None:
    where = place.machine.shell, place.machine.root
    with pytest.raises(FalplanError, match=f"{place.engine.name} there has no image localhost/none:1: bring it there"):
        ensure_image(*where, "localhost/none:1")
    missing = f"127.0.0.1:9/none@sha256:{'0' * 64}"
    with pytest.raises(FalplanError, match=f"{place.engine.name} pull {missing}: .*refused"):
        ensure_image(*where, missing)
    before = place.engine.images()

    assert ask(*where, {"verb": "prune_images", "root": place.machine.root, "keep": []}) == [missing]
    assert place.engine.images() == before


@pytest.mark.needs("docker-registry")
def test_an_image_is_fetched_by_its_digest_and_removed_once_nobody_needs_it(place: Place) -> None:
    where, engine = (place.machine.shell, place.machine.root), place.engine
    before = engine.images()
    with registry(engine) as found:
        found.log_in(engine)
        name = found.push(engine, place.image, "acme/app")
        engine.ask("logout", found.where)
        engine.ask("image", "rm", f"{found.where}/acme/app:1")
        assert ensure_image(*where, place.image).id == place.image  # of its id, which is there
        with pytest.raises(FalplanError, match=rf"(?s){engine.name} pull {name}: .*{engine.name} login {found.where}"):
            ensure_image(*where, name)
        found.log_in(engine)
        lines: list[str] = []
        image = ensure_image(*where, name, progress=lines.append)
        assert lines == [f"{engine.name} fetches {name}"]
        assert ensure_image(*where, name) == image
        wrong = f"{name.partition('@')[0]}@sha256:{'1' * 64}"
        with pytest.raises(FalplanError, match=f"{engine.name} pull {wrong}: .*(unknown|not found)"):
            ensure_image(*where, wrong)
    wanted = {"engine": image.engine, "image": image.id, "port": 0, "vcpu": 0.5, "gpus": []}
    place.machine.start("r1", (), container=wanted)
    assert place.answer("r1")["version"] == 1
    stop_runner(*where, "r1", wait=20)

    assert list(unused_images(*where, [])) == [name, wrong]
    assert remove_images_except(*where, [name]) == [wrong]
    assert remove_images_except(*where, []) == [name]
    assert engine.images() == before
