"""A fake EC2 whose machines are real: for each instance that runs, a host of a lab at its address, with what its user data says.

What cloud-init would do is done here: the user that the user data names is let in, by the key that it names, and the host's key is shown on
the instance's console. Instances that end are switched off and thrown away.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from falplan.sdk.testing.fakeec2 import Account, FakeEc2, Instance, fake_ec2
from falplan.sdk.testing.fakeec2.consoles import keys_as_printed
from falplan.sdk.testing.fakeec2.metadata import ADDRESS, Metadata, metadata_at
from tests.faults.sandbox import Sandbox
from tests.lab.fleet import SERVER, give_gpus
from tests.lab.namespaces import Lab, LabHost
from tests.lab.networks import configure, within

SMALL = {"vcpu": 0.25, "ram": "256MB", "gpus": 1, "vram": "40GB"}
"""What runners take beside a GPU: a host has no more than this machine, whatever its instance is sold with."""
SPEED = 10.0
"""Seconds of the account that go by in one."""


@dataclass
class Cloud:
    """A lab and an account. `hosts` are those that are up, by instance id; `problems` what its keeper could not do."""

    lab: Lab
    fake: FakeEc2
    hosts: dict[str, LabHost] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    speed: float = SPEED
    _asked: dict[str, contextlib.ExitStack] = field(default_factory=dict)  #: what answers for metadata, by instance id
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def account(self) -> Account:
        return self.fake.account

    def alive(self) -> list[Instance]:
        """Instances that cost money."""
        return [i for i in self.account.instances() if i.state(self.account.now) not in ("shutting-down", "terminated")]

    def keep(self) -> None:
        """Let time go on, and the hosts be as their instances are, until the end."""
        last = time.monotonic()
        with within(self.lab.name):
            while not self._over.wait(0.05):
                now = time.monotonic()
                with self.fake.mutex:
                    self.account.advance((now - last) * self.speed)
                last = now
                try:
                    self._step()
                except Exception as exc:
                    self.problems.append(repr(exc))

    def _step(self) -> None:
        for instance in self.account.instances():
            state = instance.state(self.account.now)
            if state == "running" and instance.id not in self.hosts:
                self.hosts[instance.id] = self._boot(instance)
            elif state in ("shutting-down", "terminated") and instance.id in self.hosts:
                self.hosts.pop(instance.id).remove()
                self._asked.pop(instance.id).close()

    def _boot(self, instance: Instance) -> LabHost:
        self.account.consoles[instance.id] = ""
        host = LabHost(self.lab, instance.id[-8:], int(instance.body["PrivateIpAddress"].rpartition(".")[2]))
        self.lab.hosts.append(host)
        host.make()
        give_gpus(host, instance.kind.gpu.count if instance.kind.gpu else 0)
        self._initialise(host, instance)
        self._asked[instance.id] = self._tell(host, instance)
        key = (host.disk / "etc/ssh/lab_key.pub").read_text()
        self.account.consoles[instance.id] = keys_as_printed(" ".join(key.split()[:2]))
        return host

    def _tell(self, host: LabHost, instance: Instance) -> contextlib.ExitStack:
        """Metadata that are reached from within the host alone, and whatever it runs to read them."""
        configure(host.network, f"addr add {ADDRESS[0]}/32 dev lo")
        with within(host.network):
            listening = socket.socket()
            listening.bind(ADDRESS)
        stack = contextlib.ExitStack()
        stack.enter_context(metadata_at(listening, Metadata(instance, self._when)))
        inside = [
            "nsenter",
            "-t",
            str(host.first),
            "--pid",
            "--mount",
            "--net",
            "--root",
            "/usr/local/lib/falplan-notices",
        ]
        reading = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(reading.wait)
        stack.callback(reading.kill)
        return stack

    def _when(self, told: float) -> float:
        """A time of the account as this machine's clock will show it."""
        return time.time() + (told - self.account.now) / self.speed

    def _initialise(self, host: LabHost, instance: Instance) -> None:
        """As cloud-init: users and their keys. They are root by another name, for the lab's Python is root's alone."""
        asked: Any = yaml.safe_load(base64.b64decode(self._user_data(instance)))
        for file in asked["write_files"]:
            path = Path(f"{host.disk}{file['path']}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])
            path.chmod(int(file.get("permissions", "0644"), 8))
        users = [user for user in asked["users"] if isinstance(user, dict)]
        with (host.disk / "etc/passwd").open("a") as accounts:
            for user in users:
                home = f"/home/{user['name']}"
                accounts.write(f"{user['name']}:x:0:0::{home}:/bin/sh\n")
                folder = Path(f"{host.disk}{home}/.ssh")
                folder.mkdir(parents=True, mode=0o700)
                (folder / "authorized_keys").write_text("\n".join(user["ssh_authorized_keys"]) + "\n")

    def _user_data(self, instance: Instance) -> str:
        for call in self.fake.calls_of("RunInstances"):
            if call.parameters.get("ClientToken") == instance.body.get("ClientToken"):
                told = call.parameters["UserData"]
                return told if isinstance(told, str) else told.decode()
        raise LookupError(instance.id)

    def end(self) -> None:
        self._over.set()


@contextlib.contextmanager
def a_cloud() -> Iterator[Cloud]:
    """This thread is in the lab until the end, and nothing is left after it."""
    with Lab() as lab, lab.inside(), fake_ec2() as fake:
        catalog = fake.account.catalog
        zones = tuple(replace(zone, cidr="10.77.0.0/24") for zone in catalog.zones)
        fake.account.catalog = replace(catalog, zones=zones)
        fake.account.now = time.time()
        cloud = Cloud(lab, fake)
        keeper = threading.Thread(target=cloud.keep, name="keeper", daemon=True)
        keeper.start()
        try:
            yield cloud
        finally:
            cloud.end()
            keeper.join(30)
            for stack in cloud._asked.values():
                stack.close()


@dataclass
class CloudProject:
    """A project whose one app runs on machines that are bought. `write` puts down what is wanted now."""

    cloud: Cloud
    box: Sandbox = field(default_factory=Sandbox)
    version: int = 1
    least: int = 0
    most: int = 4
    machine_type: str = "lab-H100"
    region: dict[str, Any] = field(default_factory=dict)
    app: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.box.folder / "run").mkdir(mode=0o700, exist_ok=True)
        prices = {t.name: f"{t.price}" for t in self.cloud.account.catalog.types}
        body = {"collected": "2026-11-01", "source": "the fake account", "usd_an_hour": {"us-east-1": prices}}
        (self.box.folder / "prices.json").write_text(json.dumps(body))
        self.write()

    @property
    def calls(self) -> str:
        return f"/srv{self.box.folder}/calls.log"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "FALPLAN_AWS_PRICES": str(self.box.folder / "prices.json"),
            "AWS_ACCESS_KEY_ID": "AKIAFAKE",
            "AWS_SECRET_ACCESS_KEY": "nobody looks at it",
            "AWS_CONFIG_FILE": str(self.box.folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.box.folder / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def write(self) -> None:
        url = self.cloud.fake.url
        region: dict[str, Any] = {
            "provider": "aws",
            "region": "us-east-1",
            "max_machines": 4,
            "budget_per_hour": 100,
            "public": False,
            "ssh_from": ["10.77.0.1/32"],
            "idle_timeout": 60,
            "endpoints": {"ec2": url, "ssm": url, "pricing": url},
            **self.region,
        }
        app: dict[str, Any] = {
            "command": ["python3", "server.py"],
            "files": ["server.py"],
            "machine_type": self.machine_type,
            "regions": ["us-east"],
            "keep_alive": 300,
            "min_concurrency": self.least,
            "max_concurrency": self.most,
            "startup_timeout": 120,
            "health_check": {"path": "/"},
            "environment_variables": {"CALLS": self.calls},
            **self.app,
        }
        spec: dict[str, Any] = {"version": 1, "project": "cloud", "owner": "acme", "gateway": {"ephemeral": True}}
        types = {f"lab-{gpu}": {**SMALL, "gpu": gpu} for gpu in ("H100", "L40S")}
        spec |= {"regions": {"us-east": region}, "machine_types": types, "apps": {"app": app}}
        (self.box.project / "falplan.yaml").write_text(json.dumps(spec))
        (self.box.project / "server.py").write_text(SERVER.replace("VERSION", str(self.version)))

    def must(self, *args: str) -> str:
        return self.box.must(*args, **self.environ).out

    def apply(self) -> str:
        self.write()
        return self.must("apply", "--auto-approve")

    def machines(self) -> list[str]:
        """Those that the control plane tells of; none if it does not answer."""
        ran = self.box.run("machines", "list", "--json", **self.environ)
        return [m["machine"] for m in json.loads(ran.out)["machines"]] if ran.code == 0 else []

    def call(self, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.must("call", "app", json.dumps(body)))
        return answer
