"""A runner's TLS front as its supervisor keeps it: a listening socket, and a process that serves it. See `front.py`, which lies beside it.

A part of the supervisor. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LINUX = sys.platform.startswith("linux")
STARTS = 10.0  # seconds that its process may take to serve
AGAIN = 1.0  # seconds between two starts of it
ENDS = 7.0  # seconds that it gets for what is under way; it takes less by itself
WAITING = 256  # connections in the queue of the socket
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4


class Front:
    """The front of one runner. The socket stays the same however often the process is started anew, so that nobody is refused.

    `wanted` is {ports: [first, last], bind, fingerprint}, `given` {certificate, key, token}: `bind` is an address of this machine, or
    anything else for all of them. `claim(port)` keeps other runners off a port, None if one has it.

    Raises:
        OSError: none of the ports is free.
    """

    def __init__(
        self, wanted: dict[str, Any], given: dict[str, str], claim: Callable[[int], socket.socket | None]
    ) -> None:
        if LINUX:  # this process keeps the key for another start: nobody but root looks into its memory from now on
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        self.given, self.fingerprint = given, str(wanted["fingerprint"])
        self.door, self.claimed = open_door(str(wanted.get("bind") or ""), wanted["ports"], claim)
        self.port = int(self.door.getsockname()[1])
        self.pid, self.started_at = 0, 0.0
        self.tells = -1  # what it says for the log
        self._stdin: Any = None
        self._stdout: Any = None

    def status(self) -> dict[str, Any]:
        """What the control plane needs to know of it."""
        return {"port": self.port, "fingerprint": self.fingerprint}

    def start(self, target: str) -> None:
        """Start its process, and wait until it serves what listens on `target`.

        Raises:
            OSError: it can't serve, and why.
        """
        self.started_at = time.monotonic()
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "front.py")
        parent = os.getpid()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-W", "ignore", program, str(self.door.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            cwd="/",
            pass_fds=(self.door.fileno(),),
            preexec_fn=lambda: _follow(parent),
        )
        process.returncode = 0  # the supervisor reaps by itself
        assert process.stdin and process.stdout  # noqa: S101 - both were asked for
        self.pid, self._stdin, self._stdout = process.pid, process.stdin, process.stdout
        self.tells = process.stdout.fileno()
        process.stdin.write(json.dumps({**self.given, "target": target}).encode() + b"\n")
        process.stdin.flush()
        said = first_line(self.tells, STARTS)
        if said != "serves":
            self.kill()
            raise OSError(0, said or "it said nothing", "TLS front")

    def is_due(self) -> bool:
        """Whether its process has ended, and is to be started anew."""
        return not self.pid and time.monotonic() - self.started_at >= AGAIN

    def ended(self) -> None:
        """Its process was reaped."""
        self.pid = 0
        for end in (self._stdin, self._stdout):
            try:
                end.close()
            except OSError:
                pass  # what it was never told is of no use any more

    def let_finish(self) -> float:
        """Take nobody else, and let it end with the connections that are open. Until when it may take, in monotonic seconds."""
        self.door.close()
        self.claimed.close()
        if self.pid:
            self._stdin.close()
        return time.monotonic() + ENDS

    def kill(self) -> None:
        """End its process at once."""
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _follow(parent: int) -> None:
    """In the child, before exec: it ends with its supervisor."""
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    signal.set_wakeup_fd(-1)


def first_line(handle: int, seconds: float) -> str:
    """What a process says first; what came until time was up."""
    import select

    came, deadline = b"", time.monotonic() + seconds
    while b"\n" not in came:
        if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
            break
        piece = os.read(handle, 1) if came else os.read(handle, 6)  # not what it says for the log
        if not piece:
            break
        came += piece
    return came.decode(errors="replace").strip()


def open_door(
    bind: str, ports: list[int], claim: Callable[[int], socket.socket | None]
) -> tuple[socket.socket, socket.socket]:
    """A listening socket on one of the ports, and what keeps other runners off it.

    Raises:
        OSError: none is free.
    """
    first, last = ports
    count = last - first + 1
    begin = int.from_bytes(os.urandom(4), "big") % count
    for family, address in addresses(bind):
        for step in range(count):
            port = first + (begin + step) % count
            claimed = claim(port)
            if claimed is None:
                continue
            try:
                return listening(family, address, port), claimed
            except OSError as exc:
                claimed.close()
                if not is_taken(exc):
                    break  # the address is none of this machine's, or it has no addresses of this kind
    raise OSError(0, f"none of the ports {first}-{last} is free (`direct_ports`)", "TLS front")


def addresses(bind: str) -> list[tuple[socket.AddressFamily, str]]:
    """Where to listen: at one address if it is this machine's, else at all of them."""
    every = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]  # noqa: S104 - behind a network that translates addresses
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, bind)
        except OSError:
            continue
        return [(family, bind), *every]
    return every


def listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
        sock.bind((address, port))
        sock.listen(WAITING)
    except OSError:
        sock.close()
        raise
    return sock


def is_taken(exc: OSError) -> bool:
    import errno

    return exc.errno in (errno.EADDRINUSE, errno.EACCES)
