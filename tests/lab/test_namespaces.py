"""The lab itself: hosts that know nothing of each other's labs, a disk that is kept, and nothing that stays behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from falplan.sdk.ssh import SshShell
from falplan.sdk.values import Command
from tests.lab.loopback import CREDENTIALS
from tests.lab.namespaces import HOME, Lab, LabHost
from tests.lab.needed import needed
from tests.lab.networks import NETWORKS, pids_in, sweep
from tests.runner.machine import is_alive, until

pytestmark = pytest.mark.needs("openssh-server")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with needed(Lab()) as made:
        yield made


def say(lab: Lab, host: LabHost, script: str) -> str:
    """What a command on the host prints, by a connection of its own."""
    shell = SshShell(host.target(), CREDENTIALS)
    with lab.inside():
        output = shell.run(Command(("sh", "-c", script)))
    shell.close()
    return output.stdout.decode().strip()


def test_two_labs_with_the_same_addresses_know_nothing_of_each_other(lab: Lab) -> None:
    with Lab() as other:
        first, second = lab.add("one"), other.add("two")

        assert first.address == second.address and first.trusted != second.trusted
        assert (say(lab, first, "hostname; echo $HOME"), say(other, second, "hostname")) == (f"one\n{HOME}", "two")


def test_power_takes_what_is_in_memory_and_leaves_what_is_on_the_disk(lab: Lab) -> None:
    host = lab.add("one")
    look = "cat /proc/sys/kernel/random/boot_id; ls /opt/kept /tmp/lost 2>/dev/null"
    before = say(lab, host, f"touch /opt/kept /tmp/lost; {look}").splitlines()
    host.power_off()
    host.boot()
    after = say(lab, host, look).splitlines()

    assert before[1:] == ["/opt/kept", "/tmp/lost"] and after[1:] == ["/opt/kept"]
    assert before[0] != after[0] and not Path("/opt/kept").exists()


SLEEPER = """
import sys
from tests.lab.namespaces import Lab
with Lab() as lab:
    lab.add("one", delay=0.001)
    print(lab.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_swept(lab: Lab) -> None:
    argv = [sys.executable, "-c", SLEEPER]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        left = pids_in(f"{name}-one")
        process.kill()
    sweep()

    until(lambda: not any(map(is_alive, left)), 10)
    assert left and not list(NETWORKS.glob(f"{name}*")) and not (lab.folder.parent / name).exists()
    assert lab.folder.exists()
