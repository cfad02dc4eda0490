"""Secrets on their way to hosts: in no process's arguments on either side, at no instant, and in no file and no log anywhere."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.canaries import leaked, word
from tests.lab.fleet import Fleet, a_fleet
from tests.lab.networks import NETWORKS

from .sandbox import Broken, wait_until

LEAST_RATE = 25.0
"""Looks a second, at least, at what processes are called: a hundred on a machine with nothing else to do."""


def parts(full: bool) -> Iterator[tuple[str, Callable[[random.Random], None]]]:
    yield "secrets through deploys on hosts", partial(deploys, count=50 if full else 2)


def deploys(rng: random.Random, count: int) -> None:
    """Each deploy has new values, and a control plane that was killed before some. Seen red with values in a supervisor's
    arguments."""
    with a_fleet(("a", "b"), least=2, most=2, secrets=True) as fleet:
        with _watching(fleet) as watched:
            for number in range(count):
                fleet.version, fleet.box.planted = number, word(number)
                kept = word(number + 500)
                if number and rng.random() < 0.3:
                    fleet.box.kill_control_plane()
                    fleet.apply()
                fleet.box.set_secret("KEPT", kept.encode())
                fleet.apply()
                _check_there(fleet, (word(number), kept))
        _check_lines(watched)
        _check_files(fleet)
        fleet.destroy()
        _check_files(fleet)


def _check_there(fleet: Fleet, values: tuple[str, str]) -> None:
    """The app has them: they have been on the way."""
    wanted = [hashlib.sha256(value.encode()).hexdigest() for value in values]
    wait_until(lambda: fleet.call()["secrets"] == wanted, 30, lambda: f"{fleet.call()} {wanted}")


@contextmanager
def _watching(fleet: Fleet) -> Iterator[list[str]]:
    """What processes on either side were called meanwhile; whole once it is over."""
    names = [fleet.lab.name, *(host.network for host in fleet.lab.hosts)]
    inodes = [str((NETWORKS / name).stat().st_ino) for name in names]
    argv = [sys.executable, "-m", "tests.faults.cmdlines", *inodes]
    lines: list[str] = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        yield lines
        found = json.loads(watcher.communicate("\n")[0])
    rate = found["rounds"] / found["seconds"]
    print(f"    {len(found['lines'])} command lines, {rate:.0f} looks a second", flush=True)
    if rate < LEAST_RATE:
        raise Broken(f"only {rate:.0f} looks a second: that proves nothing")
    lines += found["lines"]


def _check_lines(lines: list[str]) -> None:
    known = ("agent.py", "supervisor.py", "server.py", "import sys", "falplan")
    unseen = [name for name in known if not any(name in line for line in lines)]
    if unseen:
        raise Broken(f"{unseen} were never seen: {lines}")
    found = [line for line in lines if leaked(line.encode("latin-1"))]
    if found:
        raise Broken(f"a secret is in command lines: {found}")


def _check_files(fleet: Fleet) -> None:
    """Disks and memory disks of all hosts with their sshds' logs, and all that the command line and the control plane keep."""
    folders = [fleet.box.folder]
    for host in fleet.lab.hosts:
        folders += [host.folder, *(Path(f"/proc/{host.first}/root/{name}") for name in ("run", "tmp"))]
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and "root" not in path.relative_to(folder).parts[:1]:
                found += [f"{path}: {shape}" for shape in leaked(path.read_bytes())]
    if found:
        raise Broken(f"a secret lies in {found}")
