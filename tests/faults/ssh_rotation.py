"""Host keys that are changed one host after the other, while callers call and new versions are deployed: nobody notices."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.acceptance.load import Load
from tests.lab.fleet import Fleet, a_fleet
from tests.lab.loopback import fingerprint_of, make_key
from tests.lab.namespaces import LabHost

from .sandbox import Broken, wait_until


def parts(full: bool) -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    count = 10 if full else 2
    yield f"the keys of {count} hosts are changed", partial(rotated, count=count)


def rotated(rng: random.Random, count: int) -> None:
    """Old and new are trusted, the host changes, the old one is trusted no more; each step with a deploy, under load.

    Seen red with ways to runners that ended whenever a host's settings changed: direct calls failed.
    """
    with a_fleet([f"h{n}" for n in range(count)], least=2, most=2) as fleet:
        fleet.apply()
        load = Load(fleet.box, callers=3, endpoint="acme/app")
        load.start()
        try:
            for host in fleet.hosts:
                _rotate(fleet, host)
        finally:
            load.stop()
        if load.failures:
            raise Broken(f"{len(load.failures)} of {sum(load.versions.values())}: {load.failures[:5]}")
        if load.versions.keys() != set(range(1, fleet.version + 1)):
            raise Broken(f"not all versions were called: {load.versions}")
        fleet.check_converged()
        fleet.destroy()


def _rotate(fleet: Fleet, host: LabHost) -> None:
    old, new = host.trusted, _new_key(host)
    _deploy(fleet, host, [old, new])
    _exchange(host, new)
    wait_until(lambda: fleet.run("plan", "--detailed-exitcode").code == 0, 60, lambda: fleet.run("plan"))
    _deploy(fleet, host, [new])


def _deploy(fleet: Fleet, host: LabHost, keys: list[str]) -> None:
    fleet.keys[host.name] = keys
    fleet.version += 1
    fleet.apply()
    wait_until(lambda: fleet.call()["version"] == fleet.version, 30)


def _etc(host: LabHost) -> Path:
    """Its /etc/ssh as it sees it: what is below its disk must not be changed from outside while it runs."""
    return Path(f"/proc/{host.first}/root/etc/ssh")


def _new_key(host: LabHost) -> str:
    """Make the next key, beside the one in use. Its fingerprint."""
    return fingerprint_of(make_key(_etc(host) / "next_key"))


def _exchange(host: LabHost, new: str) -> None:
    """Its sshd takes the next key for connections that are made from now on."""
    (_etc(host) / "next_key").replace(_etc(host) / "lab_key")
    assert host.first is not None
    os.kill(host.first, signal.SIGHUP)
    host.trusted = new
    wait_until(host.listens, 20)
