"""`falplan host check` on real sshds: one broken host for each way in which hosts are broken, all in one command."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from falplan.cli.schema import schema_text
from falplan.core.errors import ExitCode
from tests.faults.sandbox import Ran, Sandbox, wait_until
from tests.lab import smi
from tests.lab.loopback import LoopbackHost, fingerprint_of, make_key

pytestmark = [pytest.mark.needs("openssh-server"), pytest.mark.timeout(300)]
Make = Callable[..., LoopbackHost]

ANYWHERE = {"cgroups", "docker", "podman", "systemd", "memory", "disk", "inodes", "open-files", "linger", "user-units"}
"""What is true of the machine that runs the tests, which all loopback hosts are."""

HERE = {"here": {"provider": "local"}}

SERVER = """
import http.server, os
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""

PATH = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not p.endswith("shims"))
"""Without a version manager's scripts, of which each takes seconds to say which Python it is not."""

SUDO = """#!/bin/sh
echo "sudo: a password is required" >&2
exit 1
"""


def listing(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Every file below a folder: kind, mode, size, time of change and contents."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        known = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(known.st_mode) else ""
        found[str(path.relative_to(folder))] = (known.st_mode, known.st_size, known.st_mtime_ns, content)
    return found


@dataclass
class Fleet:
    """A spec of hosts. `bodies` are theirs as the spec says them."""

    box: Sandbox
    make: Make
    hosts: dict[str, LoopbackHost] = field(default_factory=dict)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    apps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, *, more: str = "", gpus: Any = None, fails: str = "", **body: Any) -> LoopbackHost:
        """A host that is up; `gpus` are what its nvidia-smi tells, if it has one."""
        host = self.make(name, start=False, more=more)
        tools = host.folder / "bin"
        tools.mkdir()
        if gpus is not None:
            smi.install(tools, gpus, fails=fails)
        host.path = f"{tools}:{PATH}"
        host.start()
        self.hosts[name] = host
        self.bodies[name] = {"address": host.address, "port": host.port, "host_key": list(host.keys.values()), **body}
        return host

    def write(self) -> None:
        first = next(iter(self.hosts.values()))
        bodies = {n: {k: v for k, v in b.items() if v is not None} for n, b in self.bodies.items()}
        region = {"provider": "ssh", "user": "root", "identity_file": str(first.client_key), "hosts": bodies}
        (self.box.project / "web.py").write_text(SERVER)
        web = {"command": ["python3", "web.py"], "files": ["web.py"], "machine_type": "XS", "regions": ["dc1"]}
        spec = {"version": 1, "project": "fleet", "gateway": {"ephemeral": True}, "regions": {"dc1": region, **HERE}}
        spec["apps"] = {"web": web, **self.apps}
        (self.box.project / "falplan.yaml").write_text(json.dumps(spec))

    def run(self, *args: str, **more: str) -> Ran:
        self.write()
        return self.box.run("host", "check", *args, **more)

    def check(self, *args: str) -> tuple[Ran, dict[str, dict[str, str]]]:
        """(what it printed, host -> code -> severity), from JSON that is as its schema says."""
        ran = self.run("--json", *args)
        body = json.loads(ran.out)
        jsonschema.validate(body, json.loads(schema_text("host-check")))
        assert ran.code == (ExitCode.DONE if body["ok"] else ExitCode.FAILED)
        return ran, {h["name"]: {f["code"]: f["severity"] for f in h["findings"]} for h in body["hosts"]}


@pytest.fixture
def fleet(make_host: Make) -> Iterator[Fleet]:
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    try:
        yield Fleet(box, make_host)
    finally:
        box.clean()


H100S = smi.gpus((smi.H100, 8))


def kept_in_memory(fleet: Fleet) -> set[str]:
    return {p.name for place in ("/dev/shm", "/run", fleet.box.folder / "run") for p in Path(place).glob("falplan-*")}


def test_each_broken_host_gives_its_named_problem_and_nothing_is_left_there(fleet: Fleet) -> None:
    """Seen red with sshds that forward (`forward-ports`, `forward-sockets`) and with a check that left the folder of its socket."""
    one = smi.gpus((smi.H100, 1))
    fleet.add("fine", gpus=H100S)
    fleet.add("forward-ports", more="AllowTcpForwarding no")
    fleet.add("forward-sockets", more="AllowStreamLocalForwarding no")
    fleet.add("session", more="MaxSessions 0")
    fleet.add("sudo", sudo=True)
    fleet.add("login")
    fleet.add("host-key")
    fleet.add("host-key-unknown", host_key=None)
    fleet.add("unreachable")
    fleet.add("open-files")
    fleet.add("gpu-driver", gpus=H100S, fails=smi.NO_DRIVER)
    fleet.add("gpu-lost", gpus=[*H100S[:7], {**H100S[7], "lost": True}])
    fleet.add("gpu-driver-old", gpus=smi.gpus((smi.A100, 4), driver="470.256.02"))
    fleet.add("gpu-mig", gpus=smi.gpus((smi.A100, 4), mig=True))
    fleet.add("gpu-ecc", gpus=smi.gpus((smi.A100, 1), ecc=3))
    fleet.add("gpu-persistence", gpus=smi.gpus((smi.H100, 1), persistent=False))
    fleet.add("gpu-kinds", gpus=smi.gpus((smi.A100, 4), (smi.H100, 2)))
    fleet.add("gpu-reserve", gpus=one, reserve={"gpus": 2})
    busy = fleet.add("gpu-busy", gpus=one)
    hosts = fleet.hosts
    smi.install(busy.folder / "bin", one, processes=[(0, os.getpid(), "python")])
    (hosts["sudo"].folder / "bin" / "sudo").write_text(SUDO)
    (hosts["sudo"].folder / "bin" / "sudo").chmod(0o755)
    (hosts["login"].folder / "authorized_keys").write_text("")
    hosts["host-key"].end()
    hosts["host-key"].renew("ed25519")
    hosts["host-key"].start()
    hosts["unreachable"].end()
    limited = hosts["open-files"].process
    assert limited is not None
    resource.prlimit(limited.pid, resource.RLIMIT_NOFILE, (256, 256))
    before = {n: listing(h.folder / "home") for n, h in hosts.items()}
    shared = kept_in_memory(fleet)
    ran, found = fleet.check()

    assert ran.code == ExitCode.FAILED
    expected = {n: {n} - {"fine"} for n in hosts}
    expected["forward-ports"].add("forward-sockets")  # sshd then leads to no sockets either
    assert {n: codes.keys() - (ANYWHERE - {n}) for n, codes in found.items()} == expected
    warned = {n for n, codes in found.items() if codes.get(n) == "warning"}
    assert warned == {"open-files", "gpu-persistence", "gpu-kinds", "gpu-busy"}
    assert {n: listing(h.folder / "home") for n, h in hosts.items()} == before
    assert not any((h.folder / "ledger").exists() for h in hosts.values())
    assert "Accepted" not in hosts["host-key-unknown"].log.replace("preauth", "")
    wait_until(lambda: kept_in_memory(fleet) <= shared, 20)  # a check beside this one has a folder there for a moment
    assert not list(fleet.box.folder.glob("state/falplan/*"))  # no control plane was started for it


def test_text_groups_what_hosts_have_in_common_and_says_how_to_heal_it(fleet: Fleet) -> None:
    for name in ("a", "b", "c"):
        fleet.add(name, gpus=H100S)
    fleet.add("d", more="AllowTcpForwarding no")
    fleet.add("e", host_key=None)
    ran = fleet.run("--inventory")
    key = fleet.hosts["e"].keys["ed25519"]

    assert ran.code == ExitCode.FAILED
    assert (
        "error[forward-ports]: dc1/d\n  seen:     sshd leads to no port there: administratively prohibited" in ran.out
    )
    assert "fix:      `AllowTcpForwarding yes` in sshd_config there" in ran.out
    assert f'then write `host_key: "{key}"` at regions.dc1.hosts.e' in ran.out
    assert "8 x NVIDIA H100 80GB HBM3  550.127.08" in ran.out
    assert ran.out.endswith("1 has errors: dc1/d; 1 could not be looked at: dc1/e.\n")

    fine = fleet.run("dc1/a", "host.dc1.b")
    assert fine.code == ExitCode.DONE and "dc1/c" not in fine.out
    wrong = fleet.run("dc1/x")
    assert wrong.code == ExitCode.USAGE and "the spec has no such host. Did you mean dc1/" in wrong.err


def test_what_the_apps_of_an_environment_need_counts(fleet: Fleet) -> None:
    """Seen red with a check that asked for the Python of every app, wherever it may run."""
    fleet.add("a")
    (fleet.box.project / "lib.py").write_text("")
    fleet.apps = {
        "old": {"command": ["python3", "lib.py"], "files": ["lib.py"], "machine_type": "XS", "regions": ["dc1"]}
    }
    fleet.apps["old"] |= {"requirements": ["idna"], "python_version": "3.17"}
    ran, found = fleet.check()
    assert found["a"]["python-version"] == "error" and "Python 3.17, for the environments of app.main.old" in ran.out

    fleet.apps["old"]["regions"] = ["here"]
    ran, found = fleet.check()
    assert ran.code == ExitCode.DONE and "python-version" not in found["a"]
    (fleet.box.project / "falplan.yaml").write_text("version: 1\nprojct: x\n")
    assert fleet.box.run("host", "check").code == ExitCode.SPEC_INVALID


def test_a_clock_that_is_off_is_measured(fleet: Fleet) -> None:
    """This machine's own clock is the one that is off here: the hosts share their kernel with it."""
    fleet.add("a")
    fleet.write()
    script = (
        "import sys; from falplan import clock; real = clock.now; clock.now = lambda: real() + 90.0;"
        "from falplan.cli import main; main(sys.argv[1:])"
    )
    argv = [sys.executable, "-c", script, "-C", str(fleet.box.project), "host", "check", "--json"]
    ran = subprocess.run(argv, capture_output=True, text=True, env=fleet.box.environ(), timeout=60)
    [host] = json.loads(ran.stdout)["hosts"]
    [told] = [f for f in host["findings"] if f["code"] == "clock"]

    assert ran.returncode == ExitCode.FAILED
    assert told["severity"] == "error" and "s behind this machine's" in told["seen"]
    assert -91 < host["inventory"]["clock_offset"] < -89


def test_a_key_that_was_trusted_by_a_plan_is_trusted(fleet: Fleet) -> None:
    fleet.add("a", host_key=None)
    fleet.write()
    assert fleet.check()[1]["a"] == {"host-key-unknown": "error"}
    try:
        fleet.box.must("plan", "--out", str(fleet.box.folder / "plan"))
        fleet.box.must("apply", str(fleet.box.folder / "plan"))
        before = listing(fleet.hosts["a"].folder / "home")
        ran, found = fleet.check()
        assert ran.code == ExitCode.DONE and not found["a"].keys() - ANYWHERE
        after = listing(fleet.hosts["a"].folder / "home")
        assert {n: v for n, v in after.items() if "/runners/" not in n} == {
            n: v for n, v in before.items() if "/runners/" not in n
        }
        fleet.box.kill_control_plane()
        assert fleet.check()[0].code == ExitCode.DONE
    finally:
        fleet.box.run("destroy", "--auto-approve")


def test_a_bastion_whose_key_nobody_knows_is_a_finding_of_the_hosts_behind_it(fleet: Fleet, tmp_path: Path) -> None:
    bastion = fleet.add("bastion")
    fleet.add("behind", jump=f"root@{bastion.address}:{bastion.port}")
    _, found = fleet.check("dc1/behind")

    assert found["behind"] == {"host-key": "error"}
    assert fingerprint_of(make_key(tmp_path / "other")) not in fleet.hosts["behind"].log
