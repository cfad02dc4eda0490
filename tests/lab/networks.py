"""Network namespaces by name: going into one, setting one up, and removing it with all that runs in it, or ran in it before."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults.sandbox import Missing

NETWORKS = Path("/run/netns")
PREFIX = "fpf-lab"
"""What the names of namespaces and folders begin with; behind it stand the pid of whoever made the lab, and a number."""
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def within(network: str) -> Iterator[None]:
    """Put this thread, and the processes that it starts, into a network namespace."""
    with Path("/proc/thread-self/ns/net").open("rb") as before, (NETWORKS / network).open("rb") as wanted:
        _enter(wanted.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace can't be entered")


def remove_network(network: str) -> None:
    """Remove a namespace, and end what still runs in it."""
    if not (NETWORKS / network).exists():
        return
    for pid in pids_in(network):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run("ip", "netns", "del", network, check=False)


def pids_in(network: str) -> list[int]:
    return [int(pid) for pid in run("ip", "netns", "pids", network, check=False).stdout.split()]


def configure(network: str, *lines: str) -> None:
    """`ip` commands in a namespace."""
    subprocess.run(
        ["ip", "-n", network, "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True
    )


def run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, check=check, capture_output=True, text=True)


def check_machine() -> None:
    """Raise `Missing` by the name of what this machine lacks."""
    if os.geteuid() != 0:
        raise Missing("root, for network namespaces", installable=False)
    for program in ("ip", "iptables", "nsenter", "unshare", "sshd"):
        if shutil.which(program) is None and not (program == "sshd" and Path("/usr/sbin/sshd").exists()):
            raise Missing({"ip": "iproute2", "sshd": "openssh-server"}.get(program, program))


def sweep() -> None:
    """Remove the labs of processes that are no more."""
    for folder in (NETWORKS, Path(tempfile.gettempdir())):
        for path in folder.glob(f"{PREFIX}-*"):
            owner = re.match(rf"{PREFIX}-(\d+)-", path.name)
            if owner is None or Path(f"/proc/{owner[1]}").exists():
                continue
            if folder == NETWORKS:
                remove_network(path.name)
            else:
                shutil.rmtree(path, ignore_errors=True)
