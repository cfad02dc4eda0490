"""Hosts that can't be used as they are: a full disk, another key, a sudo that does not work. Told clearly, and over once it is repaired."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lab.fleet import a_fleet, trace_of, wait_as_before
from tests.lab.loopback import fingerprint_of, make_key
from tests.lab.namespaces import HOME, LabHost

from .sandbox import Broken, Ran, wait_until
from .ssh_fleet import check_clear


def parts() -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    yield "a host's disk is full", disk_full
    yield "a host in use shows another key", changed_key
    yield "a host's sudo does not work", no_sudo


def disk_full(rng: random.Random) -> None:
    """A new version that does not fit: the old one serves on, and nothing of the new one is left half-way."""
    with a_fleet(("a",)) as fleet:
        [host] = fleet.hosts
        _mount(host, "-t", "tmpfs", "-o", "size=4m", "tmpfs", HOME)
        fleet.apply()
        fleet.version, fleet.weight = 2, rng.randrange(8, 16) << 20
        fleet.write()
        ran = fleet.run("apply", "--auto-approve")
        _check_says(ran, "No space left", "(on a)")
        if fleet.call()["version"] != 1:
            raise Broken(f"the old version does not serve: {fleet.rows()}")
        _mount(host, "-o", "remount,size=400m", HOME)
        fleet.check_converged()
        if fleet.call()["version"] != 2:
            raise Broken(f"the new version does not serve: {fleet.rows()}")
        fleet.destroy()
        left = list(Path(f"/proc/{host.first}/root{HOME}").rglob("*"))
        if left:
            raise Broken(f"left: {left}")


def changed_key(rng: random.Random) -> None:
    """While a runner is there: nobody goes there any more, other hosts do its work, and commands name both keys."""
    with a_fleet(("a", "b")) as fleet:
        host = fleet.hosts[0]
        fleet.apply(FALPLAN_HOST_LEASE="5")
        key = Path(f"/proc/{host.first}/root/etc/ssh/lab_key")
        right = key.read_bytes()
        other = fingerprint_of(make_key(key))
        _reload(host)
        for command in (("plan",), ("drift",), ("apply", "--auto-approve")):
            ran = fleet.run(*command)
            if ran.code != 6 or host.trusted not in ran.err or other not in ran.err:
                raise Broken(f"{command}: {ran}")
        wait_until(lambda: "b" in fleet.where(), 60, fleet.rows)
        if fleet.call(n=1)["host"] != "b":
            raise Broken("a request went to the host whose key has changed")
        key.write_bytes(right)
        _reload(host)
        fleet.check_converged()
        fleet.destroy()


def no_sudo(rng: random.Random) -> None:
    """Nothing is left by the attempt, and it works without."""
    with a_fleet(("a",), more={"a": {"sudo": True}}) as fleet:
        [host] = fleet.hosts
        _inside(
            host, "sh", "-c", "test ! -e /etc/sudoers || : > /etc/sudoers"
        )  # nobody may do anything, or there is no sudo
        before = trace_of(host)
        ran = fleet.run("apply", "--auto-approve")
        _check_says(ran, "sudo does not work there", "a (root@10.77.0.2)")
        wait_as_before(host, before)
        fleet.more = {}
        fleet.check_converged()
        fleet.destroy()
        wait_as_before(host, before, fleet.calls)


def _check_says(ran: Ran, *words: str) -> None:
    check_clear(ran, "a")
    told = ran.out + ran.err
    if not ran.code or any(word not in told for word in words):
        raise Broken(f"exit {ran.code}, and it does not say {words}\n{told}")


def _mount(host: LabHost, *argv: str) -> None:
    _inside(host, "mount", *argv)


def _inside(host: LabHost, *argv: str) -> None:
    inside = ["nsenter", "-t", str(host.first), "--mount", "--root"]
    subprocess.run([*inside, *argv], check=True, capture_output=True)


def _reload(host: LabHost) -> None:
    """Its sshd reads its key again, and every connection is lost."""
    assert host.first is not None
    os.kill(host.first, signal.SIGHUP)
    wait_until(host.listens, 20)
    host.kill_connections()
