"""GPUs are given to one runner alone, as the runners themselves see it: on this machine and on hosts, whatever comes and goes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.sandbox import Sandbox, wait_until
from tests.lab import smi
from tests.lab.loopback import LoopbackHost

pytestmark = pytest.mark.timeout(300)
Make = Callable[..., LoopbackHost]

SERVER = """
import fcntl, http.server, json, os, subprocess, sys
machine, runner, log = os.environ["MACHINE"] or os.environ["HOME"], os.environ["FAL_JOB_ID"], os.environ["LOG"]
visible = os.environ["CUDA_VISIBLE_DEVICES"]
smi = ["nvidia-smi", "-i", visible, "-L"]
said = subprocess.run(smi, capture_output=True, text=True).stdout if visible else ""
taken, held = [], []
for gpu in filter(None, visible.split(",")):
    file = open(os.path.join(os.path.dirname(log), machine.replace("/", "_") + "-" + gpu), "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
    except OSError:
        taken.append(gpu)
    held.append(file)
body = {"runner": runner, "machine": machine, "visible": visible, "order": os.environ["CUDA_DEVICE_ORDER"],
        "seen": [line.split(":")[0].split()[1] for line in said.splitlines()], "taken": taken, "pid": os.getpid(),
        "version": VERSION}
with open(log, "a") as file:
    file.write(json.dumps(body) + "\\n")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.do_GET()
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@dataclass
class Farm:
    """A project whose apps take GPUs: `apps` are (GPUs each, runners at least, machine type)."""

    box: Sandbox
    region: dict[str, Any]
    environment: Mapping[str, str]
    apps: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    version: int = 1

    @property
    def log(self) -> Path:
        return self.box.folder / "seen" / "log"

    def write(self) -> None:
        self.log.parent.mkdir(exist_ok=True)
        (self.box.project / "gpu.py").write_text(SERVER.replace("VERSION", str(self.version)))
        apps = {name: self._app(*wanted) for name, wanted in self.apps.items()}
        spec = {"version": 1, "project": "farm", "gateway": {"ephemeral": True}, "regions": {"here": self.region}}
        (self.box.project / "falplan.yaml").write_text(json.dumps({**spec, "apps": apps}))

    def _app(self, gpus: int, least: int, machine_type: str) -> dict[str, Any]:
        return {
            "command": ["python3", "gpu.py"],
            "files": ["gpu.py"],
            "machine_type": machine_type,
            "num_gpus": gpus,
            "regions": ["here"],
            "keep_alive": 300,
            "min_concurrency": least,
            "max_concurrency": 8,
            "health_check": {"path": "/"},
            "environment_variables": {"LOG": str(self.log), "MACHINE": self.region.get("machine", "")},
        }

    def apply(self) -> None:
        self.write()
        self.box.must("apply", "--auto-approve", **self.environment)

    def up(self) -> list[dict[str, Any]]:
        """The runners that are up, each as it saw itself when it began."""
        rows = json.loads(self.box.must("runners", "list", "--json").out)
        told = {line["runner"]: line for line in map(json.loads, self.log.read_text().splitlines())}
        return [
            {**told[r["runner_id"]], "given": r["placement"]["gpus"], "app": r["endpoint"]}
            for r in rows
            if r["state"] in ("IDLE", "RUNNING") and r["runner_id"] in told
        ]

    def settle(self, gpus: int, **wanted: int) -> list[dict[str, Any]]:
        """Wait until so many runners of each app are up, and check that each has GPUs of its own, `gpus` in all."""

        def counted() -> bool:
            up = self.up()
            return {n: sum(r["app"].endswith(f"/{n}") for r in up) for n in wanted} == wanted

        wait_until(counted, 60, lambda: self.box.run("runners", "list").out)
        up = self.up()
        check_exclusive(up, gpus)
        return up


def check_exclusive(up: Sequence[Mapping[str, Any]], gpus: int) -> None:
    """What runners see is what they were given, and nobody else sees it."""
    every = [(r["machine"], gpu) for r in up for gpu in r["seen"]]
    assert len(every) == len(set(every)) == gpus
    for runner in up:
        assert runner["visible"] == ",".join(runner["seen"]) == ",".join(map(str, runner["given"]))
        assert runner["order"] == "PCI_BUS_ID"


def no_gpu_was_ever_shared(farm: Farm) -> bool:
    """Each runner locks its GPUs as it begins, and holds them until it ends: nobody ever found one locked."""
    return not [r for r in map(json.loads, farm.log.read_text().splitlines()) if r["taken"]]


def tools_of(box: Sandbox, *args: Any, **more: Any) -> dict[str, str]:
    """An nvidia-smi of the sandbox, first on the path."""
    smi.install(box.folder / "tools", *args, **more)
    return {"PATH": f"{box.folder / 'tools'}:{os.environ['PATH']}"}


@pytest.fixture
def box(make_host: Make) -> Iterator[Sandbox]:
    """Hosts end after it: what runs on them is removed while they are there."""
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    try:
        yield box
    finally:
        box.run("destroy", "--auto-approve")
        box.clean()


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.needs("openssh-server"))])
def farm(request: pytest.FixtureRequest, box: Sandbox, make_host: Make) -> Farm:
    """Eight H100: on this machine, or four on each of two hosts."""
    if request.param == "local":
        return Farm(box, {"provider": "local"}, tools_of(box, smi.gpus((smi.H100, 8))))
    bodies: dict[str, Any] = {}
    for name in ("a", "b"):
        host = make_host(name, start=False)
        smi.install(host.folder / "bin", smi.gpus((smi.H100, 4)))
        host.path = f"{host.folder / 'bin'}:{os.environ['PATH']}"
        host.start()
        bodies[name] = {"address": host.address, "port": host.port, "host_key": list(host.keys.values())}
        key = str(host.client_key)
    return Farm(box, {"provider": "ssh", "user": "root", "identity_file": key, "hosts": bodies}, {})


def test_no_gpu_is_given_to_two_live_runners(farm: Farm) -> None:
    """Seen red with placements that left a machine's GPUs free, and with runners that saw every GPU."""
    farm.apps = {"one": (1, 2, "GPU-H100"), "two": (2, 1, "GPU-H100")}
    farm.apply()
    farm.settle(4, one=2, two=1)

    farm.version = 2  # deployed anew: old and new runners side by side
    farm.apply()
    wait_until(lambda: [r["version"] for r in farm.up()] == [2, 2, 2], 60, lambda: farm.box.run("runners", "list").out)
    farm.settle(4, one=2, two=1)

    farm.apps["one"] = (1, 4, "GPU-H100")  # scaled out
    farm.apply()
    farm.settle(6, one=4, two=1)

    victim, *others = farm.settle(6, one=4, two=1)
    psutil.Process(victim["pid"]).kill()
    wait_until(lambda: victim["runner"] not in [r["runner"] for r in farm.up()], 60)
    after = farm.settle(6, one=4, two=1)
    assert {r["runner"] for r in others} < {r["runner"] for r in after}
    answer = json.loads(farm.box.must("call", "one", "{}").out)
    assert answer["visible"] in [r["visible"] for r in after if r["app"].endswith("/one")]
    assert no_gpu_was_ever_shared(farm)


def test_every_gpu_is_used_and_no_more(box: Sandbox) -> None:
    farm = Farm(box, {"provider": "local"}, tools_of(box, smi.gpus((smi.H100, 8))), {"two": (2, 4, "GPU-H100")})
    farm.apply()
    up = farm.settle(8, two=4)

    assert sorted(gpu for r in up for gpu in r["seen"]) == [str(n) for n in range(8)]
    farm.apps["two"] = (2, 5, "GPU-H100")
    farm.write()
    ran = box.run("plan", **farm.environment)
    assert "no room for a runner of app.main.two" in ran.out + ran.err


def test_a_gpu_that_is_lost_is_given_to_nobody_and_the_others_keep_their_index(box: Sandbox) -> None:
    gpus = smi.gpus((smi.H100, 4))
    gpus[1]["lost"] = True
    farm = Farm(box, {"provider": "local"}, tools_of(box, gpus), {"one": (1, 3, "GPU-H100")})
    farm.apply()

    assert sorted(gpu for r in farm.settle(3, one=3) for gpu in r["seen"]) == ["0", "2", "3"]


def test_only_the_first_kind_of_a_mixed_machine_is_given_out(box: Sandbox) -> None:
    gpus = smi.gpus((smi.A100, 4), (smi.H100, 2))
    farm = Farm(box, {"provider": "local"}, tools_of(box, gpus), {"one": (1, 4, "GPU-A100")})
    farm.apply()
    up = farm.settle(4, one=4)
    assert sorted(gpu for r in up for gpu in r["seen"]) == ["0", "1", "2", "3"]

    farm.apps["other"] = (1, 1, "GPU-H100")
    farm.write()
    ran = box.run("plan", **farm.environment)
    assert "no room for a runner of app.main.other" in ran.out + ran.err


@pytest.mark.parametrize("fails", [smi.NO_DRIVER, ""])
def test_a_machine_whose_driver_does_not_answer_gives_out_no_gpu(box: Sandbox, fails: str) -> None:
    farm = Farm(box, {"provider": "local"}, tools_of(box, [], fails=fails), {"one": (1, 1, "GPU-H100")})
    farm.write()
    ran = box.run("plan", **farm.environment)

    assert "no room for a runner of app.main.one" in ran.out + ran.err


def test_a_gpu_on_which_somebody_else_computes_is_given_to_nobody(box: Sandbox) -> None:
    environment = tools_of(box, smi.gpus((smi.H100, 2)), processes=[(0, os.getpid(), "python")])
    farm = Farm(box, {"provider": "local"}, environment, {"one": (1, 1, "GPU-H100")})
    farm.apply()

    assert [r["seen"] for r in farm.settle(1, one=1)] == [["1"]]


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.needs("openssh-server"))])
def divided(request: pytest.FixtureRequest, box: Sandbox, make_host: Make) -> Farm:
    """Four H100, of which the second and the last one are in MIG mode: on this machine, or on a host."""
    gpus = smi.gpus((smi.H100, 4))
    gpus[1]["mig"] = gpus[3]["mig"] = True
    if request.param == "local":
        return Farm(box, {"provider": "local"}, tools_of(box, gpus))
    host = make_host("a", start=False)
    smi.install(host.folder / "bin", gpus)
    host.path = f"{host.folder / 'bin'}:{os.environ['PATH']}"
    host.start()
    body = {"address": host.address, "port": host.port, "host_key": list(host.keys.values())}
    key = str(host.client_key)
    return Farm(box, {"provider": "ssh", "user": "root", "identity_file": key, "hosts": {"a": body}}, {})


def test_a_gpu_in_mig_mode_is_given_to_nobody_and_named_where_one_is_missing(divided: Farm) -> None:
    """Seen red with GPUs in MIG mode that were offered like whole ones: three runners came up."""
    divided.apps = {"one": (1, 2, "GPU-H100")}
    divided.apply()
    assert sorted(gpu for r in divided.settle(2, one=2) for gpu in r["seen"]) == ["0", "2"]

    divided.box.must("apps", "scale", "one", "--min-concurrency", "3", **divided.environment)
    why = "it needs 1 GPU, 0 of 2 are free; GPUs 1, 3 are in MIG mode"
    wait_until(
        lambda: why in divided.box.must("runners", "list").out, 30, lambda: divided.box.run("runners", "list").out
    )
    divided.apps["two"] = (1, 1, "GPU-H100")
    divided.write()
    ran = divided.box.run("plan", **divided.environment)
    assert ran.code == 6 and why in ran.err
    assert "given to nobody: GPUs 1, 3 are in MIG mode" in ran.out


def test_reserved_gpus_are_the_last_ones_whether_they_are_divided_or_not(box: Sandbox) -> None:
    """Seen red with divided GPUs left out first: one that was whole and not reserved was kept back in their place."""
    gpus = smi.gpus((smi.H100, 4))
    gpus[3]["mig"] = True
    region = {"provider": "local", "reserve": {"gpus": 1}}
    farm = Farm(box, region, tools_of(box, gpus), {"one": (1, 3, "GPU-H100")})
    farm.apply()

    assert sorted(gpu for r in farm.settle(3, one=3) for gpu in r["seen"]) == ["0", "1", "2"]


# -- with a GPU -----------------------------------------------------------------------------------------------------------


def real_gpus() -> list[str]:
    """Names of this machine's own GPUs, as nvidia-smi lists them by index; empty where there is none, or no driver."""
    program = shutil.which("nvidia-smi")
    if program is None or not Path("/dev/nvidia0").exists():
        return []
    query = [program, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines() if done.returncode == 0 else []


@pytest.mark.gpu
def test_an_app_sees_the_real_gpu_that_it_was_given_and_no_other(box: Sandbox) -> None:
    """On a machine with a GPU: CUDA itself, and not only what a variable says, counts what the app may use."""
    gpus = real_gpus()
    farm = Farm(box, {"provider": "local"}, {}, {"one": (1, 1, "GPU-HERE")})
    farm.write()
    spec = json.loads((box.project / "falplan.yaml").read_text())
    spec["machine_types"] = {"GPU-HERE": {"vcpu": 1, "ram": "1 GiB", "gpu": gpus[0].removeprefix("NVIDIA "), "gpus": 1}}
    (box.project / "falplan.yaml").write_text(json.dumps(spec))
    assert "launch 1 runner" in box.must("plan").out
    box.must("apply", "--auto-approve")
    [runner] = farm.settle(1, one=1)
    answer = json.loads(box.must("call", "one", "{}").out)

    assert answer["visible"] == runner["visible"] and len(answer["seen"]) == 1
    assert cuda_devices(answer["visible"]) == 1
    assert box.run("plan", "--detailed-exitcode").code == 0


def cuda_devices(visible: str) -> int:
    """How many devices CUDA's driver counts in a process with this CUDA_VISIBLE_DEVICES."""
    code = (
        "import ctypes; cuda = ctypes.CDLL('libcuda.so.1'); n = ctypes.c_int(); assert cuda.cuInit(0) == 0;"
        "assert cuda.cuDeviceGetCount(ctypes.byref(n)) == 0; print(n.value)"
    )
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    done = subprocess.run(["python3", "-c", code], capture_output=True, text=True, env=env, check=True, timeout=60)
    return int(done.stdout)
