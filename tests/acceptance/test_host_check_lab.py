"""`falplan host check` on hosts that are broken below their sshd: mounts, users, buses. Each has a disk of its own, compared file by file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import ExitCode
from falplan.sdk.ssh import SshShell
from falplan.sdk.values import Command
from tests.acceptance.test_host_check import ANYWHERE, SERVER, listing
from tests.faults.sandbox import Missing, Sandbox
from tests.lab import smi
from tests.lab.loopback import CREDENTIALS
from tests.lab.namespaces import HOME, Lab, LabHost
from tests.lab.needed import needed
from tests.lab.systemd import add_systemd

pytestmark = [pytest.mark.needs("openssh-server"), pytest.mark.timeout(300)]

NEW_DEV = """
mount -t tmpfs -o mode=755 tmpfs /mnt
for n in null zero full random urandom tty; do cp -a /dev/$n /mnt/$n; done
mkdir -p /mnt/shm /mnt/pts && mount -t tmpfs -o mode=1777 tmpfs /mnt/shm
touch /mnt/nvidia0 /mnt/nvidiactl && chmod 600 /mnt/nvidia0
mount --move /mnt /dev
"""

USER = "useradd -m -s /bin/sh -p '*' deploy"

BUS = """
mount -t tmpfs tmpfs /sys/bus/pci/devices
for n in 10 11; do
    mkdir /sys/bus/pci/devices/0000:$n:00.0
    echo 0x10de > /sys/bus/pci/devices/0000:$n:00.0/vendor
    echo 0x030200 > /sys/bus/pci/devices/0000:$n:00.0/class
done
"""

BROKEN = {
    "python": "rm -f /usr/bin/python3* /usr/local/bin/python3*",
    "folder-read-only": f"mkdir {HOME}/.local; mount -t tmpfs -o ro tmpfs {HOME}/.local",
    "folder-noexec": f"mkdir {HOME}/.local; mount -t tmpfs -o noexec,size=20g tmpfs {HOME}/.local",
    "inodes": f"mkdir {HOME}/.local; mount -t tmpfs -o nr_inodes=50,size=20g tmpfs {HOME}/.local",
    "disk": f"mkdir {HOME}/.local; mount -t tmpfs -o size=1m tmpfs {HOME}/.local",
    "folder-permission": f"{USER}; chown root /home/deploy; chmod 755 /home/deploy",
    "tmp-noexec": "mount -o remount,noexec /tmp",
    "tmp-read-only": "mount -o remount,ro /tmp",
    "selinux": "mount -t tmpfs tmpfs /sys/fs; mkdir /sys/fs/selinux; echo 1 > /sys/fs/selinux/enforce",
    "gpu-driver-missing": BUS,
    "gpu-missing": BUS,
    "gpu-permission": f"{USER}; {NEW_DEV}",
}
"""Problem -> what makes a host have it, run there as root."""

SEVERITY = {"folder-noexec", "tmp-noexec", "tmp-read-only", "selinux", "gpu-missing"}
"""Those that are warnings where no environment is built."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with needed(Lab()) as made:
        yield made


def run_there(host: LabHost, script: str) -> None:
    shell = SshShell(host.target(), CREDENTIALS)
    with host.lab.inside():
        output = shell.run(Command(("sh", "-ec", script)))
    shell.close()
    assert output.code == 0, output.stderr.decode()


def check(lab: Lab, box: Sandbox, *args: str, **users: str) -> tuple[int, dict[str, Any]]:
    """(exit status, JSON) of a check of all hosts of the lab."""
    bodies = {
        h.name: {"address": h.address, "host_key": h.trusted, "user": users.get(h.name.replace("-", "_"), "root")}
        for h in lab.hosts
    }
    (box.project / "web.py").write_text(SERVER)
    region = {"provider": "ssh", "identity_file": str(lab.key), "hosts": bodies}
    web = {"command": ["python3", "web.py"], "files": ["web.py"], "machine_type": "XS", "regions": ["lab"]}
    spec = {"version": 1, "project": "fleet", "gateway": {"ephemeral": True}, "regions": {"lab": region}}
    (box.project / "falplan.yaml").write_text(json.dumps({**spec, "apps": {"web": web}}))
    argv = [sys.executable, "-m", "falplan", "-C", str(box.project), "host", "check", "--json", *args]
    with lab.inside():
        ran = subprocess.run(argv, capture_output=True, text=True, env=box.environ(), timeout=200, check=False)
    return ran.returncode, json.loads(ran.stdout)


def test_each_broken_host_gives_its_named_problem_and_is_as_it_was(lab: Lab) -> None:
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    try:
        for name in ("fine", *BROKEN):
            run_there(lab.add(name), BROKEN.get(name, "true"))
        smi.install(lab.hosts[-2].disk / "usr/local/bin", smi.gpus((smi.H100, 1)))
        before = {h.name: listing(h.disk) for h in lab.hosts}
        code, body = check(lab, box, folder_permission="deploy", gpu_permission="deploy")
        found = {h["name"]: {f["code"]: f["severity"] for f in h["findings"]} for h in body["hosts"]}

        assert code == ExitCode.FAILED
        assert {n: c.keys() - (ANYWHERE - {n}) for n, c in found.items()} == {n: {n} - {"fine"} for n in before}
        assert {n for n in BROKEN if found[n][n] == "warning"} == SEVERITY
        assert {h.name: listing(h.disk) for h in lab.hosts} == before
        assert not [
            p for h in lab.hosts for p in h.processes() if b"falplan" in Path(f"/proc/{p}/cmdline").read_bytes()
        ]
    finally:
        box.clean()


def test_a_user_whose_processes_end_with_the_login_is_told_how_to_keep_them(lab: Lab) -> None:
    """Seen red with a look that asked for the user's systemd without saying where it is: it never answers over SSH."""
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    try:
        try:
            plain = add_systemd(lab, "plain")
        except Missing as exc:
            pytest.skip(str(exc))
        plain.run("useradd -m -s /bin/sh -p '*' deploy")
        _, body = check(lab, box, plain="deploy")
        [host] = body["hosts"]
        assert {"linger", "user-units"} <= {f["code"] for f in host["findings"] if f["severity"] == "warning"}
        assert "systemd" not in {f["code"] for f in host["findings"]} and host["inventory"]["systemd"]

        plain.add_lingering_user("worker")
        _, body = check(lab, box, plain="worker")
        assert not {"linger", "user-units"} & {f["code"] for f in body["hosts"][0]["findings"]}
        _, body = check(lab, box)
        assert not {"linger", "user-units", "systemd"} & {f["code"] for f in body["hosts"][0]["findings"]}
    finally:
        box.clean()


@pytest.mark.faults
def test_a_host_that_goes_away_while_it_is_looked_at_is_unreachable(lab: Lab) -> None:
    box = Sandbox()
    (box.folder / "run").mkdir(mode=0o700)
    try:
        host = lab.add("slow")
        # A program that is asked there takes the host with it.
        (host.disk / "usr/local/bin/nvidia-smi").write_text("#!/bin/sh\nip link set eth0 down\nsleep 100\n")
        (host.disk / "usr/local/bin/nvidia-smi").chmod(0o755)
        code, body = check(lab, box)

        assert code == ExitCode.FAILED
        [told] = body["hosts"][0]["findings"]
        assert (told["code"], body["hosts"][0]["outcome"]) == ("unreachable", "unreachable")
    finally:
        box.clean()
