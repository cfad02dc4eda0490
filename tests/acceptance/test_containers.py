"""Apps that are containers: deployed here and on hosts, called, changed, lost and destroyed. By a real Podman of the test's own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import ExitCode
from tests.faults.sandbox import Sandbox, wait_until
from tests.lab.engines import EngineLab, path_without, podman
from tests.lab.loopback import LoopbackHost

pytestmark = [
    pytest.mark.needs("podman"),
    pytest.mark.needs("slirp4netns"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.getuid() != 0, reason="needs root, for an engine of the test's own"),
    pytest.mark.xdist_group("podman"),
    pytest.mark.faults,  # they wait for an engine that stores images by copying: minutes
]
Make = Callable[..., LoopbackHost]
SECRET = "hidden-0815"


@dataclass
class Fleet:
    """A project with one app that is a container."""

    box: Sandbox
    engine: EngineLab
    images: dict[int, str]
    regions: dict[str, Any] = field(default_factory=lambda: {"here": {"provider": "local"}})

    def write(self, version: int = 1, **more: Any) -> None:
        app = {
            "image": self.images[version],
            "port": 8000,
            "machine_type": "XS",
            "min_concurrency": 1,
            "max_concurrency": 4,
            "environment_variables": {"MODE": "fast"},
            "health_check": {"path": "/"},
            **more,
        }
        spec = {
            "version": 1,
            "project": "boxes",
            "owner": "acme",
            "gateway": {"ephemeral": True},
            "regions": self.regions,
        }
        spec |= {"environments": {"main": {"secrets": {"TOKEN": {"env": "PLANTED"}}}}, "apps": {"web": app}}
        (self.box.project / "falplan.yaml").write_text(json.dumps(spec))

    def must(self, *args: str) -> str:
        return self.box.must(*args, PLANTED=SECRET).out

    def call(self) -> Any:
        return json.loads(self.must("call", "web", "{}"))

    def runners(self) -> dict[str, str]:
        """Runner -> the machine that it is on."""
        return {row["runner_id"]: row["machine"] for row in json.loads(self.must("runners", "list", "--json"))}

    def wait_for(self, number: int) -> None:
        """Until so many containers run, and are those that are known."""

        def agree() -> bool:
            names = set(self.engine.containers())
            return len(names) == number and names == {f"falplan-{r}" for r in self.runners()}

        wait_until(agree, 30, lambda: f"{self.engine.containers()}, known: {self.runners()}")


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[EngineLab, dict[int, str]]]:
    with podman() as found:
        yield found, {1: found.make_image(1), 2: found.make_image(2)}


@pytest.fixture
def fleet(engine: tuple[EngineLab, dict[int, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    engine[0].use(monkeypatch)
    images = engine[0].images()
    box = Sandbox(planted=SECRET)
    (box.folder / "run").mkdir(mode=0o700)
    try:
        yield Fleet(box, *engine)
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()
    assert engine[0].containers() == []
    assert engine[0].images() == images


def test_a_container_is_deployed_called_scaled_changed_lost_and_destroyed(fleet: Fleet) -> None:
    fleet.write()
    planned = fleet.must("plan")
    assert f'image    = "{fleet.images[1]}"' in planned and "lock" not in planned
    fleet.must("apply", "--auto-approve")
    answer = fleet.call()

    assert answer["version"] == 1
    assert {"MODE": "fast", "TOKEN": SECRET, "PORT": "8000", "FAL_APP_NAME": "acme/web"}.items() <= answer[
        "env"
    ].items()
    (name,) = fleet.engine.containers()
    told = json.loads(fleet.engine.ask("inspect", name))[0]["Config"]
    assert SECRET not in json.dumps(told["Labels"]) and not any(SECRET in word for word in told["Cmd"])
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0

    fleet.write(min_concurrency=2)
    fleet.must("apply", "--auto-approve")
    fleet.wait_for(2)

    fleet.write(2)
    planned = fleet.must("plan")
    assert f'"{fleet.images[1]}" -> "{fleet.images[2]}"' in planned and "makes a new revision" in planned
    fleet.must("apply", "--auto-approve")
    assert fleet.call()["version"] == 2
    fleet.wait_for(1)

    before = fleet.engine.containers()
    fleet.box.kill_control_plane()
    fleet.must("apply", "--auto-approve")
    assert fleet.call()["version"] == 2 and fleet.engine.containers() == before

    (supervisor,) = fleet.box.processes("supervisor")
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: before != fleet.engine.containers(), 30)
    fleet.wait_for(1)
    assert fleet.call()["version"] == 2
    fleet.box.destroy()


def test_the_command_of_an_image_is_overridden_and_its_end_is_told(fleet: Fleet) -> None:
    fleet.write(command=["/no/such/program"])
    ran = fleet.box.run("apply", "--auto-approve", PLANTED=SECRET)

    assert ran.code == ExitCode.FAILED
    assert "never got healthy" in ran.err and "no such file or directory" in ran.err.lower()
    fleet.box.destroy()


@pytest.mark.needs("openssh-server")
def test_containers_are_put_where_an_engine_is_and_end_with_their_host(
    fleet: Fleet, make_host: Make, tmp_path: Path
) -> None:
    bare = path_without({"podman", "docker"}, tmp_path / "bare")
    hosts = {name: make_host(name, start=False) for name in ("a", "b")}
    for host in hosts.values():
        host.path = bare
        host.start()
    bodies = {n: {"address": h.address, "port": h.port, "host_key": list(h.keys.values())} for n, h in hosts.items()}
    key = str(hosts["a"].client_key)
    fleet.regions = {"lab": {"provider": "ssh", "user": "root", "identity_file": key, "hosts": bodies}}
    fleet.write()
    refused = fleet.box.run("plan", PLANTED=SECRET)

    assert refused.code == ExitCode.REFUSED
    assert "app.main.web needs Podman or Docker, which none of the 2 machines that it may be put on has" in refused.err
    assert "lab/a, lab/b have neither" in refused.err

    hosts["a"].stop()
    hosts["a"].path = os.environ["PATH"]
    hosts["a"].start()
    warned = fleet.must("plan")
    assert "which 1 of the 2 machines that it may be put on lack: it is put on the others" in warned
    fleet.must("apply", "--auto-approve")
    assert fleet.call()["env"]["TOKEN"] == SECRET
    assert set(fleet.runners().values()) == {"lab/a"}

    del bodies["a"]
    fleet.regions["here"] = {"provider": "local"}
    fleet.write()
    fleet.must("apply", "--auto-approve")
    assert fleet.call()["version"] == 1
    assert "lab/a" not in fleet.runners().values()
    fleet.wait_for(1)
    fleet.box.destroy()


def test_an_image_that_can_t_be_fetched_fails_the_build_by_the_name_of_the_machine(fleet: Fleet) -> None:
    fleet.images[3] = f"127.0.0.1:9/acme/none@sha256:{'0' * 64}"
    fleet.write(3)
    ran = fleet.box.run("apply", "--auto-approve", PLANTED=SECRET)

    assert ran.code == ExitCode.FAILED
    assert f"podman pull {fleet.images[3]}" in ran.err and "refused" in ran.err
    fleet.box.destroy()
