"""Hosts in network namespaces: each with an address, a disk, processes and a name of its own, and a cable that can be pulled.

A lab is a namespace with a bridge; nothing in it reaches this machine's network, and nothing outside reaches the lab, so any number of
labs use the same addresses. Whoever wants to talk to a host goes `inside`, which is true of one thread alone. A host's disk is this
machine's own, copied on write; its sshd is its process 1, with which all of it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from falplan.sdk.ssh import Target
from tests.faults.sandbox import Missing
from tests.lab.loopback import fingerprint_of, make_key, sshds_below
from tests.lab.networks import NETWORKS, PREFIX, check_machine, configure, pids_in, remove_network, run, sweep, within

HOME = "/home/lab"
"""root's home on a host: its own, not that of whoever runs the tests."""
PATIENCE = 20.0
"""Seconds for a host to boot, or to end."""

CONFIG = """\
HostKey /etc/ssh/lab_key
AuthorizedKeysFile /etc/ssh/lab_authorized .ssh/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PidFile none
UseDNS no
MaxSessions 100
SetEnv SHLVL=2
"""

_numbers = itertools.count(1)


class Lab:
    """A context: what is made in it is gone after it, or swept by the next lab if the process was killed."""

    def __init__(self) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self.folder = Path(tempfile.gettempdir()) / self.name
        self.key = self.folder / "client"
        self.hosts: list[LabHost] = []

    def __enter__(self) -> Lab:
        check_machine()
        sweep()
        self.folder.mkdir(mode=0o700)
        make_key(self.key)
        made = run("ip", "netns", "add", self.name, check=False)
        if made.returncode:
            shutil.rmtree(self.folder)
            raise Missing(f"the right to make network namespaces ({made.stderr.strip()})", installable=False)
        try:
            configure(self.name, "link set lo up", "link add br0 type bridge", "addr add 10.77.0.1/24 dev br0")
            configure(self.name, "link set br0 up")
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    def add(self, name: str, *, delay: float = 0.0) -> LabHost:
        """A host that is up. `delay` in seconds is that of its cable, each way."""
        host = LabHost(self, name, len(self.hosts) + 2, delay)
        self.hosts.append(host)
        host.make()
        return host

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """What this thread connects, and the processes that it starts, are in the lab."""
        with within(self.name):
            yield

    def remove(self) -> None:
        """Remove it with all of its hosts. May be called again."""
        for host in self.hosts:
            host.remove()
        remove_network(self.name)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class LabHost:
    """One host. `disk` is what it has written, seen from here."""

    lab: Lab
    name: str
    number: int
    delay: float = 0.0
    process: subprocess.Popen[bytes] | None = None
    trusted: str = ""
    wire: subprocess.Popen[bytes] | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Path:
        return self.lab.folder / self.name

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def network(self) -> str:
        return f"{self.lab.name}-{self.name}"

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def port_of_bridge(self) -> str:
        return f"v{self.number}"

    def make(self) -> None:
        """Make its disk and its network, and boot it."""
        for part in ("root", "work", "disk/etc/ssh", f"disk{HOME}", "disk/usr/local/bin", "disk/var/tmp"):
            (self.folder / part).mkdir(parents=True, mode=0o755)
        (self.disk / "var/tmp").chmod(0o1777)
        os.setxattr(self.disk / "var/tmp", "trusted.overlay.opaque", b"y")  # what lies there is this machine's ledger
        (self.disk / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        users = Path("/etc/passwd").read_text()
        (self.disk / "etc/passwd").write_text(re.sub(r"(?m)^root:.*$", f"root:x:0:0:root:{HOME}:/bin/sh", users))
        # The first that falplan looks for; what is on a person's path need not be on sshd's.
        (self.disk / "usr/local/bin/python3").symlink_to(Path(sys.executable).resolve())
        ssh = self.disk / "etc" / "ssh"
        (ssh / "lab_config").write_text(CONFIG)
        self.trusted = fingerprint_of(make_key(ssh / "lab_key"))
        shutil.copy(f"{self.lab.key}.pub", ssh / "lab_authorized")
        run("ip", "netns", "add", self.network)
        self._lay_cable()
        configure(self.network, "link set lo up", f"addr add {self.address}/24 dev eth0", "link set eth0 up")
        self.boot()

    def _lay_cable(self) -> None:
        ours = self.port_of_bridge
        if self.delay:
            self._lay_slow_cable()
        else:
            configure(self.lab.name, f"link add {ours} type veth peer name eth0 netns {self.network}")
        configure(self.lab.name, f"link set {ours} master br0", f"link set {ours} up")

    def _lay_slow_cable(self) -> None:
        argv = [sys.executable, "-m", "tests.lab.wire", self.lab.name, self.port_of_bridge, self.network, "eth0"]
        pipe = subprocess.PIPE
        self.wire = subprocess.Popen([*argv, str(self.delay)], stdin=pipe, stdout=pipe, stderr=pipe)
        assert self.wire.stdout is not None and self.wire.stderr is not None
        if not self.wire.stdout.readline():
            raise Missing(f"/dev/net/tun ({self.wire.stderr.read().decode()[-200:].strip()})", installable=False)

    # -- power --

    def boot(self) -> None:
        """Switch it on, and wait until its sshd listens."""
        space = ["nsenter", f"--net={NETWORKS / self.network}", "unshare", "--mount", "--pid", "--uts", "--ipc"]
        first = [
            sys.executable,
            str(Path(__file__).with_name("boot.py")),
            str(self.folder),
            self.name,
            str(uuid.uuid4()),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*space, "--fork", "--kill-child", *first], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.join()
        wait(self.listens, self._has_ended, lambda: f"{self.name} does not boot: {self.log}")

    def power_off(self) -> None:
        """As when its plug is pulled: nobody is told. Its disk is kept, and what was in memory is gone."""
        self.cut()
        first = self.first
        if first is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(PATIENCE)  # which lasts until the last process of the host is gone
            self.process = None

    @property
    def first(self) -> int | None:
        """The pid of its process 1, as it is called outside."""
        if self.process is None:
            return None
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return int(children[0]) if children else None
        return None

    def _has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def listens(self) -> bool:
        """Whether something answers at its port. Asked from within, where a slow cable does not matter."""
        with within(self.network), socket.socket() as probe:
            return probe.connect_ex((self.address, 22)) == 0

    # -- its network --

    def cut(self) -> None:
        """Pull the cable."""
        configure(self.lab.name, f"link set {self.port_of_bridge} down")

    def join(self) -> None:
        """Plug it in again."""
        configure(self.lab.name, f"link set {self.port_of_bridge} up")

    def drop(self) -> None:
        """Lose every packet, and say nothing."""
        self._drop("-I")

    def undrop(self) -> None:
        """No longer."""
        self._drop("-D")

    def _drop(self, change: str) -> None:
        self.filter(change, "INPUT", "-i", "eth0", "-j", "DROP")
        self.filter(change, "OUTPUT", "-o", "eth0", "-j", "DROP")

    def filter(self, *rule: str) -> None:
        """Change its packet filter, as `iptables` does."""
        with self._turn, within(self.network):
            run("iptables", "-w", *rule)

    def kill_connections(self) -> None:
        """End every connection at once, as when its sshd crashes. What runs there goes on."""
        for pid in sshds_below(self.first) if self.first else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # -- for those who look --

    def processes(self) -> list[int]:
        """Pids of all that runs there, as they are called outside."""
        return pids_in(self.network)

    def target(self, **more: object) -> Target:
        """How to reach it, its key trusted."""
        values: dict[str, object] = {
            "address": self.address,
            "port": 22,
            "user": "root",
            "trusted": (self.trusted,),
            "identity_files": (str(self.lab.key),),
        }
        return Target(self.name, **{**values, **more})  # type: ignore[arg-type]

    @property
    def log(self) -> str:
        file = self.folder / "log"
        return file.read_text(errors="replace")[-2000:] if file.exists() else ""

    def remove(self) -> None:
        """Switch it off and throw it away. May be called again."""
        if self.process is not None:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.power_off()
        if self.wire is not None:
            self.wire.kill()
            self.wire.communicate()
            self.wire = None
        remove_network(self.network)


def wait(true: Callable[[], bool], failed: Callable[[], bool], explain: Callable[[], str]) -> None:
    """Until it is true; RuntimeError with the explanation once it has failed, or the time is over."""
    give_up = time.monotonic() + PATIENCE
    while not true():
        if failed() or time.monotonic() > give_up:
            raise RuntimeError(explain())
        time.sleep(0.01)
