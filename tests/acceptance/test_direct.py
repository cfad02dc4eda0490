"""Runners of hosts that are reached by TLS, without SSH (`reach: direct`), through the real command line, sshds and clients."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from falplan.core.errors import ExitCode
from falplan.stores.home import ControlHome
from falplan.stores.runner_identity import identities
from falplan.stores.sealing import Seal
from tests.acceptance.load import Load
from tests.acceptance.test_hosts import Fleet
from tests.faults.sandbox import Ran, Sandbox, in_flight, wait_until
from tests.lab.loopback import LoopbackHost

pytestmark = [pytest.mark.needs("openssh-server"), pytest.mark.timeout(300)]
Make = Callable[..., LoopbackHost]
NO_FORWARDING = "DisableForwarding yes"
"""Of an sshd that leads to no port and no socket: what answers was reached without it."""


class DirectFleet(Fleet):
    """The same, with `reach: direct`."""

    more: dict[str, Any]

    def __init__(self, box: Sandbox, hosts: list[LoopbackHost]) -> None:
        self.more = {"reach": "direct"}
        super().__init__(box, hosts)

    def write(self) -> None:
        super().write()
        path = self.box.project / "falplan.yaml"
        spec = json.loads(path.read_text())
        spec["regions"]["lab"] |= self.more
        path.write_text(json.dumps(spec))

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.must("runners", "list", "--json"))
        return [row for row in found if row["state"] in ("IDLE", "RUNNING")]

    def folder(self, row: dict[str, Any]) -> Path:
        host = self.host_of(row)
        [found] = (host.folder / "home").glob(f".local/share/falplan/*/runners/{row['runner_id']}")
        return found

    def host_of(self, row: dict[str, Any]) -> LoopbackHost:
        return next(h for h in self.hosts if h.folder.name == row["machine"].partition("/")[2])

    def status(self, row: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder(row) / "status.json").read_text())
        return found


@pytest.fixture
def fleet(make_host: Make) -> Iterator[DirectFleet]:
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    try:
        yield DirectFleet(box, [make_host(name, more=NO_FORWARDING) for name in ("a", "b")])
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()


@pytest.mark.faults
def test_an_app_on_hosts_that_forward_nothing_lives_from_the_first_plan_to_the_last(fleet: DirectFleet) -> None:
    """Scaled out, redeployed, its host removed, its control plane killed: each request arrives. Nothing is left."""
    a, b = fleet.hosts
    fleet.apply()
    assert fleet.call()["version"] == 1
    assert not list((fleet.box.folder / "run").glob("falplan-ssh-*")), "no way through SSH was opened"
    assert fleet.box.run("plan", "--detailed-exitcode").code == 0
    assert fleet.box.run("drift").code == 0

    fleet.version, fleet.least = 2, 2
    fleet.apply()
    wait_until(lambda: len(fleet.where()) == 2, 30)
    assert fleet.call()["version"] == 2

    before = [row["runner_id"] for row in fleet.rows()]
    fleet.box.kill_control_plane()
    fleet.apply()
    assert fleet.call()["version"] == 2
    assert [row["runner_id"] for row in fleet.rows()] == before

    fleet.hosts = [b]
    fleet.apply()
    wait_until(lambda: fleet.where() == ["b", "b"], 30)
    assert fleet.call()["home"] == str(b.folder / "home")
    fleet.check_clean(a)
    fleet.must("destroy", "--auto-approve")
    fleet.check_clean(b)
    assert not fronts(fleet)


def fronts(fleet: DirectFleet) -> list[int]:
    """Pids of fronts on the fleet's hosts."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "/front.py" in line and any(str(h.folder) in line for h in fleet.hosts):
            found.append(process.pid)
    return found


def test_key_and_token_of_a_runner_lie_nowhere(fleet: DirectFleet) -> None:
    """Neither with the control plane nor on the host, nor where the processes of either can be looked at. The check sees a planted one."""
    fleet.apply()
    fleet.call()
    [row] = fleet.rows()
    [home] = (fleet.box.folder / "state" / "falplan").iterdir()
    identity = identities(Seal.kept_in(ControlHome(home).secrets_key))(row["runner_id"])
    assert identity.fingerprint == fleet.status(row)["front"]["fingerprint"]
    seed = identity.key.reveal().split(b"\n")[1]
    wanted = (
        identity.token.reveal(),
        bytes.fromhex(identity.token.reveal().decode()),
        seed,
        base64.b64decode(seed)[-32:],
    )
    fleet.box.run("runners", "logs", row["runner_id"])

    folders = [fleet.box.folder, *(h.folder for h in fleet.hosts)]
    assert holding(folders, wanted) == []
    planted = fleet.box.folder / "planted"
    planted.write_bytes(b"x" + wanted[0])
    assert holding(folders, wanted) == [str(planted)]
    planted.unlink()


def holding(folders: list[Path], wanted: Iterable[bytes]) -> list[str]:
    """Files of these folders, and of their processes, that hold one of these."""
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in " ".join(process.info["cmdline"] or ()) for folder in folders):
            files += [Path(f"/proc/{process.pid}/{name}") for name in ("cmdline", "environ")]
    found = []
    for path in files:
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            found += [str(path)] if any(w in content for w in wanted) else []
    return found


@pytest.mark.faults
def test_an_upgrade_under_load_fails_no_call_to_a_direct_runner(fleet: DirectFleet, newer: Path) -> None:
    """For a while two control planes are beside each other: the certificate and the token are the same for both."""
    fleet.least = 2
    fleet.apply()
    wait_until(lambda: len(fleet.where()) == 2, 30)
    before = [row["runner_id"] for row in fleet.rows()]
    load = Load(fleet.box, callers=8, endpoint="acme/web")
    load.start()
    wait_until(lambda: sum(load.versions.values()) > 50, 30)
    fleet.box.falplan = (str(newer), "-m", "falplan")
    ran = fleet.box.must("apply", "--auto-approve")
    answered = sum(load.versions.values())
    wait_until(lambda: sum(load.versions.values()) > answered + 50, 30)
    load.stop()

    assert "side by side" in ran.err
    assert load.failures == []
    assert {row["runner_id"] for row in fleet.rows()} >= set(before), "more may have come with the load"
    assert not list((fleet.box.folder / "run").glob("falplan-ssh-*"))


@pytest.mark.faults
def test_a_runner_and_a_front_that_are_killed_are_replaced(fleet: DirectFleet) -> None:
    fleet.apply()
    [row] = fleet.rows()
    [front] = fronts(fleet)
    os.kill(front, signal.SIGKILL)
    assert fleet.call()["version"] == 1
    assert [r["runner_id"] for r in fleet.rows()] == [row["runner_id"]]

    os.kill(fleet.status(row)["supervisor"]["pid"], signal.SIGKILL)
    wait_until(lambda: [r for r in fleet.rows() if r["runner_id"] != row["runner_id"]], 60)
    assert fleet.call()["version"] == 1


@pytest.mark.faults
def test_a_request_under_way_survives_the_loss_of_the_ssh_connection(fleet: DirectFleet) -> None:
    fleet.apply()
    [row] = fleet.rows()
    done: list[Ran] = []
    worker = threading.Thread(target=lambda: done.append(fleet.box.run("call", "web", '{"sleep": 2}')))
    worker.start()
    wait_until(lambda: in_flight(fleet.box) == 1, 20)
    fleet.host_of(row).cut_all()
    worker.join(120)

    assert done[0].code == 0 and json.loads(done[0].out)["version"] == 1
    assert [r["runner_id"] for r in fleet.rows()] == [row["runner_id"]]


@pytest.mark.faults
def test_the_way_changes_without_disturbing_runners(make_host: Make) -> None:
    """From direct to SSH at once, and back for those that have a front; others get one when they are replaced."""
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    fleet = DirectFleet(box, [make_host("a")])
    try:
        fleet.more = {}
        fleet.apply()
        [first] = fleet.rows()
        fleet.more = {"reach": "direct", "direct_ports": "21000-21999"}
        fleet.apply()
        assert fleet.call()["version"] == 1
        assert [r["runner_id"] for r in fleet.rows()] == [first["runner_id"]]
        fleet.version = 2
        fleet.apply()
        [second] = fleet.rows()
        assert 21_000 <= fleet.status(second)["front"]["port"] <= 21_999
        for more in ({}, {"reach": "direct"}):
            fleet.more = more
            fleet.apply()
            assert fleet.call()["version"] == 2
        assert [r["runner_id"] for r in fleet.rows()] == [second["runner_id"]]
        fleet.must("destroy", "--auto-approve")
        fleet.check_clean(fleet.hosts[0])
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()


@pytest.mark.faults
def test_a_port_that_nobody_gets_to_ends_with_a_reason(fleet: DirectFleet) -> None:
    fleet.hosts = fleet.hosts[:1]
    fleet.write()
    path = fleet.box.project / "falplan.yaml"
    spec = json.loads(path.read_text())
    spec["regions"]["lab"]["hosts"]["a"]["direct_address"] = "255.255.255.255"
    del spec["apps"]["web"]["health_check"]
    path.write_text(json.dumps(spec))
    applied = fleet.box.run("apply", "--auto-approve")
    assert applied.code == ExitCode.FAILED, applied.err
    assert re.search(
        r"255\.255\.255\.255:2\d{4} \(`reach: direct`\): Network is unreachable", applied.out + applied.err
    )
    assert not fronts(fleet)


CALLS = """
import asyncio, json, sys, fal_client
from pathlib import Path

APP, NAME = "acme/app", {"name": "you"}

def seen(name, work):
    try:
        return name, work()
    except Exception as exc:
        return name, f"{type(exc).__name__}: {exc}"

def cancelled():
    handle = fal_client.submit(APP, {"name": "you", "wait": 60}, path="/slow")
    while not isinstance(handle.status(), fal_client.InProgress):
        pass
    handle.cancel()
    events = [type(e).__name__ for e in handle.iter_events(interval=0.05)]
    return events[-1], fal_client.run(APP, NAME)["message"]

def queued():
    handle = fal_client.submit(APP, NAME)
    return handle.get()["message"]

def left():
    for part in fal_client.stream(APP, {"name": "abc"}):
        return part

work = {"run": lambda: fal_client.run(APP, NAME)["message"], "queue": queued, "cancel": cancelled, "left": left,
        "stream": lambda: list(fal_client.stream(APP, {"name": "abc"}))}
print(json.dumps(dict(seen(*item) for item in work.items())))
"""


@pytest.mark.faults
def test_the_real_client_runs_queues_streams_and_cancels_on_a_fal_app(make_host: Make) -> None:
    """Its runner listens on a unix socket."""
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    shutil.rmtree(box.project)
    shutil.copytree(Path(__file__).parents[1] / "apps" / "deployed", box.project)
    host = make_host("a", more=NO_FORWARDING)
    path = box.project / "falplan.yaml"
    spec = yaml.safe_load(path.read_text())
    body = {"address": host.address, "port": host.port, "host_key": list(host.keys.values())}
    region = {"provider": "ssh", "user": "root", "identity_file": str(host.client_key), "reach": "direct"}
    spec["gateway"] = {"ephemeral": True}
    spec["variables"]["trace"]["default"] = str(box.folder / "trace.txt")
    spec["regions"] = {"lab": region | {"hosts": {"a": body}}}
    path.write_text(json.dumps(spec))
    try:
        box.must("apply", "--auto-approve")
        (box.folder / "calls.py").write_text(CALLS)
        told = json.loads(box.must("exec", "--", sys.executable, str(box.folder / "calls.py")).out)
        assert told["run"] == told["queue"] == "hello you"
        assert told["cancel"] == ["Completed", "hello you"]
        assert len(told["stream"]) == 3 and told["left"] == told["stream"][0]
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()


@pytest.mark.faults
def test_a_control_plane_that_lost_its_key_reaches_its_runners_through_ssh_until_they_are_replaced(
    make_host: Make,
) -> None:
    """Seen red with a control plane that took whatever front there was for its own: the runner it found was ended."""
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    fleet = DirectFleet(box, [make_host("a")])
    ways = (box.folder / "run").glob
    try:
        fleet.apply()
        [first] = fleet.rows()
        box.kill_control_plane()
        for folder in (box.folder / "state" / "falplan").iterdir():
            shutil.rmtree(folder)
        fleet.apply()
        assert fleet.call()["version"] == 1
        assert [r["runner_id"] for r in fleet.rows()] == [first["runner_id"]]
        assert list(ways("falplan-ssh-*"))
        fleet.version = 2
        fleet.apply()
        assert fleet.call()["version"] == 2
        [second] = fleet.rows()
        [home] = (box.folder / "state" / "falplan").iterdir()
        identity = identities(Seal.kept_in(ControlHome(home).secrets_key))(second["runner_id"])
        assert fleet.status(second)["front"]["fingerprint"] == identity.fingerprint
        fleet.must("destroy", "--auto-approve")
        fleet.check_clean(fleet.hosts[0])
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()
