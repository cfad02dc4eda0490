"""One machine, several control planes: projects that share it, and copies of one data folder that must not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from falplan.control.launch import Reservation, RunnerLaunch, start_runner
from falplan.control.ledger import Claim, Fence, Process, take_claim
from falplan.core.errors import ExitCode
from falplan.engine.client import AdminClient, Answered, Unreachable, connect
from falplan.stores.home import ControlHome
from tests.faults.sandbox import Sandbox, kill, wait_until
from tests.runner.machine import a_machine, server

pytestmark = pytest.mark.faults


SPEC = """
version: 1
project: %(project)s
owner: acme
regions: {here: {provider: local, capacity: {ram: 700 MB}}}
apps:
  one: {command: [python3, one.py], files: [one.py], machine_type: XS, keep_alive: %(keep)d, min_concurrency: %(least)d, environment_variables: {CALLS: "%(calls)s"}}
"""


def write_project(box: Sandbox, name: str, *, least: int, keep: int = 300) -> None:
    """A project whose machine has room for one runner in all."""
    values = {"project": name, "least": least, "keep": keep, "calls": box.calls}
    (box.project / "falplan.yaml").write_text(SPEC % values)


@pytest.fixture
def projects(tmp_path: Path) -> Iterator[dict[str, Sandbox]]:
    """Three projects of one machine: `early` and `late` start a runner on demand, `greedy` keeps one."""
    settings: dict[str, dict[str, int]] = {
        "early": {"least": 0, "keep": 0},
        "greedy": {"least": 1},
        "late": {"least": 0},
    }
    made = {}
    with ExitStack() as cleaned:
        for name, numbers in settings.items():
            made[name] = box = Sandbox(machine=tmp_path / "ledger")
            cleaned.callback(box.clean)
            write_project(box, name, **numbers)
        yield made


def home_of(box: Sandbox) -> ControlHome:
    [folder] = (box.folder / "state" / "falplan").iterdir()
    return ControlHome(folder)


def admin_of(home: ControlHome) -> AdminClient:
    at, key = home.endpoint(), home.key("admin")
    assert at and key
    return connect(at.url, key, home.tls / "ca.pem")


def claims_of(box: Sandbox) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(Path(box.environ()["FALPLAN_MACHINE_DIR"], "ledger.json").read_text())["claims"]
    return claims


def events_of(box: Sandbox, kind: str) -> list[str]:
    return [e["message"] for e in admin_of(home_of(box)).get("/events")["events"] if e["kind"] == kind]


def test_a_runner_waits_for_the_room_of_another_project_and_says_whose_it_is(projects: dict[str, Sandbox]) -> None:
    """Seen red with control planes that did not read each other's reservations: two runners where there was room for one."""
    early, greedy, late = projects["early"], projects["greedy"], projects["late"]
    early.must("apply", "--auto-approve")
    wait_until(lambda: not early.runner_marks(), 30)
    greedy.must("apply", "--auto-approve")
    whose = f"taken by project greedy (lineage {home_of(greedy).folder.name})"

    calling = early.start("call", "one", '{"n": 7}')
    wait_until(lambda: any(whose in m for m in events_of(early, "runner.no_room")), 30)
    assert calling.poll() is None
    assert not early.runner_marks() and len(greedy.runner_marks()) == 1
    refused = late.run("plan")
    assert refused.code == ExitCode.REFUSED, refused
    assert whose in refused.err, refused

    greedy.destroy()
    out, err = calling.communicate(timeout=60)
    assert (json.loads(out or "{}").get("n"), calling.returncode) == (7, 0), err
    assert events_of(early, "rollout.failed") == []
    early.destroy()


def test_a_successor_has_the_machine_while_the_one_before_it_finishes(projects: dict[str, Sandbox]) -> None:
    """Seen red with a successor that did not say whom it succeeds: it was refused, and the old one served on."""
    box = projects["greedy"]
    box.must("apply", "--auto-approve")
    before = claims_of(box)
    spec = box.project / "falplan.yaml"
    spec.write_text(spec.read_text() + "gateway: {hostname: other.localhost}\n")
    box.must("apply", "--auto-approve")
    after = claims_of(box)
    [lineage] = before

    assert admin_of(home_of(box)).get("/status")["epoch"] == after[lineage]["epoch"] == before[lineage]["epoch"] + 1
    at = home_of(box).endpoint()
    assert at and after[lineage]["process"]["pid"] == at.pid != before[lineage]["process"]["pid"]
    wait_until(lambda: len(box.processes("serve")) == 1, 30)
    box.check_processes()


SMI = """#!%(python)s
import sys
gpus = [f"{i}, GPU-0000000{i}, NVIDIA H100 80GB HBM3, 81559 MiB" for i in range(8)]
print("" if "compute-apps" in sys.argv[1] else chr(10).join(gpus))
"""


def test_a_first_plan_sees_the_gpus_of_another_project_as_taken(tmp_path: Path, short_tmp: Path) -> None:
    """Seen red with a plan that asked the provider alone: 8 GPUs were promised."""
    (tmp_path / "nvidia-smi").write_text(SMI % {"python": sys.executable})
    (tmp_path / "nvidia-smi").chmod(0o755)
    spec = (
        "version: 1\nproject: second\napps: {one: {command: [python3, one.py], machine_type: GPU-H100, num_gpus: %d}}\n"
    )
    with a_machine(short_tmp) as machine, ExitStack() as cleaned:
        box = Sandbox(machine=Path(os.environ["FALPLAN_MACHINE_DIR"]))
        cleaned.callback(box.clean)
        owner = Claim("l-1", "cp-1", 1, machine.root, "first", "box", Process(2**22, "1", "b"))
        fence = Fence("l-1", "cp-1", take_claim(machine.shell, machine.root, owner).epoch)
        reservation = Reservation(1, 2**30, (0, 5), 64, 2**40)
        start_runner(machine.shell, machine.root, RunnerLaunch("r1", server(), reservation=reservation), fence=fence)
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        (box.project / "falplan.yaml").write_text(spec % 8)
        refused = box.run("plan", **path)
        (box.project / "falplan.yaml").write_text(spec % 6)
        fits = box.run("plan", **path)

    assert refused.code == ExitCode.REFUSED, refused
    assert "it needs 8 GPU, 6 of 8 are free; 2 of 8 GPUs and 1.0 of " in refused.err
    assert "are taken by project first (lineage l-1)" in refused.err
    assert fits.code == 0, fits


def a_copy(box: Sandbox) -> ControlHome:
    """The data folder of a control plane that is dead, copied as a whole, with its own port still to be chosen."""
    home = home_of(box)
    copy = box.folder / "copy" / home.folder.name
    subprocess.run(["cp", "-a", f"{home.folder}/.", str(_made(copy))], check=True)
    (copy / "gateway.json").unlink()
    (copy / "endpoint.json").unlink(missing_ok=True)
    return ControlHome(copy)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, mode=0o700)
    return folder


def serve(box: Sandbox, home: ControlHome) -> subprocess.Popen[str]:
    """A control plane in the foreground, once it listens or has ended."""
    process = box.start("serve", "--home", str(home.folder))

    def settled() -> bool:
        at = home.endpoint()
        return process.poll() is not None or (at is not None and at.pid == process.pid)

    wait_until(settled, 60)
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_of_a_control_plane_and_its_copy_exactly_one_acts(box: Sandbox) -> None:
    """Seen red with a claim that compared ids and not data folders: the original acted again after its copy."""
    box.must("apply", "--auto-approve")
    box.kill_control_plane()
    home, copy = home_of(box), a_copy(box)
    running = serve(box, copy)
    assert running.poll() is None

    code, err = ended(serve(box, home))
    assert (code, f"pid {running.pid} on " in err, f"data in {copy.folder}" in err) == (ExitCode.LOCKED, True, True), (
        err
    )
    kill([psutil.Process(running.pid)])
    running.communicate()
    code, err = ended(serve(box, home))
    assert (code, f"A copy of it at {copy.folder} acted since" in err) == (ExitCode.LOCKED, True), err
    again = serve(box, copy)
    assert again.poll() is None
    kill([psutil.Process(again.pid)])
    again.communicate()


def test_a_control_plane_and_its_copy_started_at_once(box: Sandbox) -> None:
    """Seen red with control planes that took no claim: both served."""
    box.must("apply", "--auto-approve")
    box.kill_control_plane()
    homes = [home_of(box), a_copy(box)]
    both: list[subprocess.Popen[str]] = []
    threads = [threading.Thread(target=lambda h=h: both.append(serve(box, h))) for h in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alive = [p for p in both if p.poll() is None]
    [over] = [p for p in both if p.poll() is not None]
    code, err = ended(over)
    kill([psutil.Process(p.pid) for p in alive])
    for process in alive:
        process.communicate()

    assert len(alive) == 1
    assert (code, f"pid {alive[0].pid} on " in err) == (ExitCode.LOCKED, True), err


def test_a_control_plane_whose_machine_was_taken_stops_and_leaves_the_runners(box: Sandbox) -> None:
    """Its claim looked dead to another one, as it does across containers.

    Seen red with a controller that went on after it was told; and with an agent that believed the copied status of a runner: the
    original's apps were killed.
    """
    box.must("apply", "--auto-approve")
    box.kill_control_plane()
    home, copy = home_of(box), a_copy(box)
    original = serve(box, home)
    assert original.poll() is None
    path = box.folder / "ledger" / "ledger.json"
    body = json.loads(path.read_text())
    body["claims"][home.folder.name]["process"]["start"] = "0"
    path.write_text(json.dumps(body))
    before = set(box.runner_marks())
    admin = admin_of(home)
    running = serve(box, copy)
    told: list[Any] = []
    watching = threading.Thread(target=_watch, args=(admin, told))
    watching.start()
    box.run("runners", "stop", sorted(before)[0])
    code, err = ended(original)
    watching.join()

    assert code == ExitCode.LOCKED
    assert f"pid {running.pid} on " in err and f"data in {copy.folder}" in err
    assert any(f"pid {running.pid} on " in t for t in told)
    kill([psutil.Process(running.pid)])
    running.communicate()
    assert before <= set(box.runner_marks())
    shutil.rmtree(copy.folder.parent, ignore_errors=True)


def _watch(admin: AdminClient, told: list[Any]) -> None:
    """Everything that its status says of being fenced, until it is gone."""
    while True:
        try:
            found = admin.get("/status").get("fenced")
        except (Unreachable, Answered):
            return
        if found:
            told.append(found)
