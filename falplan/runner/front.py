"""The TLS front of one runner: relays to its app what comes from whoever knows the runner's token. Keeps no app, and reads no HTTP.

`python -I -S front.py FD` serves the listening socket FD. Its standard input holds one line, {certificate, key, token, target}: PEM texts,
hexadecimal digits, and `unix:/path` or `tcp:HOST:PORT`. What it prints is for the runner's log. Once standard input ends it takes nobody
else, and ends with the last connection that is open.

A caller sends `falplan/1 TOKEN` and a newline inside TLS before all else. It is answered `ok` and a newline once the app has taken a
connection for it, `no` if the app takes none; whoever says something else, or nothing for SLOW seconds, is cut off without a word. From
then on bytes are relayed both ways, no faster than they are read on the other side. A caller that ends its side (close_notify) still gets
the rest of the answer; one that is cut off ends the app's connection, too. An app that ends its side has answered.
Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import ctypes
import errno
import hmac
import json
import os
import resource
import selectors
import signal
import socket
import ssl
import struct
import sys
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LINUX = sys.platform.startswith("linux")
GREETING = b"falplan/1 "
TAKEN, REFUSED = b"ok\n", b"no\n"
SLOW = 10.0  # seconds within which a caller shows its token, and the app takes the connection
STRANGERS = 64  # callers that have shown no token yet; for another one the oldest has to go
LINGER = 5.0  # seconds that open connections get when it ends, and that a caller gets to read the end of its answer
CHUNK = 64 << 10
TURNS = 8  # chunks of one connection before others have their turn
QUIET = 10.0  # seconds between two lines of the log about callers that were turned away
PR_SET_DUMPABLE = 4
CAPABILITY_VERSION_3 = 0x20080522


class Hall:
    """All connections of the front, on one thread."""

    def __init__(self, door: socket.socket, given: dict[str, str]) -> None:
        self.context = context_of(given["certificate"], given["key"])
        self.greeting = GREETING + given["token"].encode() + b"\n"
        self.target = given["target"]
        self.door, self.selector, self.ending = door, selectors.DefaultSelector(), 0.0
        self.strangers: dict[Visit, float] = {}  # -> when they came, the oldest first
        self.visits: set[Visit] = set()
        self.again: set[Visit] = set()  # those who can go on without waiting
        self.turned_away, self.told_at = 0, -QUIET
        self.open_at = 0.0
        door.setblocking(False)
        self.selector.register(door, selectors.EVENT_READ, self.admit)
        self.selector.register(0, selectors.EVENT_READ, self.end)

    def serve(self) -> None:
        """Until it is told to end, and those who are there have gone."""
        while not self.ending or (self.visits and time.monotonic() < self.ending):
            for key, events in self.selector.select(self.patience()):
                key.data(events)
            again, self.again = self.again, set()
            for visit in again:
                visit.go(0)
            self.tidy()

    def patience(self) -> float:
        if self.again:
            return 0.0
        return 0.02 if any(v.waits_for_app for v in self.strangers) else 0.5

    def end(self, _: int) -> None:
        """Take nobody else."""
        if not os.read(0, 1024):
            self.ending = time.monotonic() + LINGER
            self.selector.unregister(0)
            self.close_door()
            self.door.close()
            for visit in list(self.strangers):
                visit.close()

    def close_door(self) -> None:
        try:
            self.selector.unregister(self.door)
        except KeyError:
            pass  # it was closed for a moment

    def admit(self, _: int) -> None:
        """Take those who knock, so many at a time."""
        for _turn in range(STRANGERS):
            try:
                caller, whence = self.door.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self.close_door()  # they wait in the socket's queue
                    self.open_at = time.monotonic() + 0.1
                    return
                continue
            if len(self.strangers) >= STRANGERS:
                next(iter(self.strangers)).turn_away("others came before it had shown a token")
            try:
                visit = Visit(self, caller, str(whence[0]))
            except OSError:
                caller.close()  # it has gone already
                continue
            self.visits.add(visit)
            self.strangers[visit] = time.monotonic()
            visit.go(0)

    def tidy(self) -> None:
        """End what takes too long."""
        now = time.monotonic()
        if self.open_at and now >= self.open_at and not self.ending:
            self.open_at = 0.0
            self.selector.register(self.door, selectors.EVENT_READ, self.admit)
        for visit, since in list(self.strangers.items()):
            if now - since > SLOW:
                visit.turn_away(f"no token within {SLOW:g} s")
            elif visit.waits_for_app:
                visit.go(0)
        for visit in [v for v in self.visits if v.over_at and now > v.over_at]:
            visit.close()

    def tell(self, whence: str, why: str) -> None:
        """Say that somebody was turned away; many at once are counted."""
        now = time.monotonic()
        self.turned_away += 1
        if now - self.told_at < QUIET:
            return
        more = f", as {self.turned_away - 1} others since the last time" if self.turned_away > 1 else ""
        print(f"direct: {whence} was turned away{more}: {why}", flush=True)
        self.turned_away, self.told_at = 0, now


class Visit:
    """One connection of a caller, and the one to the app that belongs to it."""

    def __init__(self, hall: Hall, caller: socket.socket, whence: str) -> None:
        keep_alive(caller)
        caller.setblocking(False)
        self.hall, self.whence = hall, whence
        self.tls = hall.context.wrap_socket(
            caller, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.app: socket.socket | None = None
        self.step: Callable[[], bool] = self.shake
        self.came = b""  # of the greeting
        self.up, self.down = memoryview(b""), memoryview(b"")  # to the app, to the caller
        self.up_ended = self.up_refused = False
        self.tls_wants = 0  # what TLS itself waits for
        self.waits_for_app = False
        self.over_at = 0.0
        self.watched: dict[socket.socket, int] = {}

    def go(self, _: int) -> None:
        """Do what can be done now, then wait for what is missing."""
        if self not in self.hall.visits:
            return  # it was closed by what happened on its other side
        self.tls_wants = 0
        try:
            for _turn in range(TURNS):
                if not self.step():
                    break
            else:
                self.hall.again.add(self)
        except ssl.SSLError as exc:
            self.turn_away(f"no TLS: {exc.reason or 'it ended'}") if self in self.hall.strangers else self.close()
        except OSError:
            self.close()
        if self in self.hall.visits:
            self.watch()

    # -- steps: whether there is more to do at once --

    def shake(self) -> bool:
        if not self.wants(self.tls.do_handshake):
            return False
        self.step = self.hear
        return True

    def hear(self) -> bool:
        """The greeting, and no byte more."""
        greeting = self.hall.greeting
        piece = self.received(len(greeting) - len(self.came))
        if piece is None:
            return False
        self.came += piece
        if not piece or not GREETING.startswith(self.came[: len(GREETING)]):
            self.turn_away("it said something else in place of a token" if piece else "it said nothing")
            return False
        if len(self.came) < len(greeting):
            return True
        if not hmac.compare_digest(self.came, greeting):
            self.turn_away("it has not the runner's token")
            return False
        self.step = self.knock
        return True

    def knock(self) -> bool:
        """Connect to the app."""
        self.waits_for_app = False
        if self.app is None:
            self.app, self.where = door_of(self.hall.target)
        result = self.app.connect_ex(self.where)
        if result in (errno.EAGAIN, errno.EALREADY, errno.EINPROGRESS):
            self.waits_for_app = True  # nobody tells when the queue of a unix socket has room again
            return False
        taken = result in (0, errno.EISCONN) and not met_itself(self.app)
        self.down = memoryview(TAKEN if taken else REFUSED)
        self.hall.strangers.pop(self, None)
        self.step = self.relay if taken else self.finish
        return True

    def relay(self) -> bool:
        """A chunk each way."""
        up = self.lift()
        down = self.lower()
        return (up or down) and self.step == self.relay

    def lift(self) -> bool:
        """From the caller to the app."""
        app = self.app
        assert app is not None  # noqa: S101 - it was connected to
        if not self.up and not self.up_ended:
            piece = self.received(CHUNK)
            if piece is None:
                return False
            self.up = memoryview(piece)
            if not piece:
                self.up_ended = True
                if not self.up_refused:
                    app.shutdown(socket.SHUT_WR)
        if not self.up:
            return False
        try:
            self.up = self.up[len(self.up) if self.up_refused else app.send(self.up) :]
        except BlockingIOError:
            return False
        except OSError:
            self.up_refused = True  # it reads no more; what it answered is still to be read
        return True

    def lower(self) -> bool:
        """From the app to the caller."""
        app = self.app
        assert app is not None  # noqa: S101 - it was connected to
        if not self.down:
            try:
                piece = app.recv(CHUNK)
            except BlockingIOError:
                return False
            self.down = memoryview(piece)
            if not piece:
                self.step = self.finish
                return True
        return self.pour()

    def pour(self) -> bool:
        """Send what there is for the caller."""
        sent = self.wants(lambda: self.tls.send(self.down))
        if sent is None:
            return False
        self.down = self.down[sent:]
        return True

    def finish(self) -> bool:
        """All that is left for the caller, then the end of it."""
        if self.down:
            return self.pour()
        if self.wants(self.farewell) is None:
            return False
        self.over_at = time.monotonic() + LINGER
        socket.socket.shutdown(self.tls, socket.SHUT_WR)
        self.step = self.linger
        return True

    def farewell(self) -> bool:
        """close_notify: the answer was not cut off."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantWriteError:
            raise
        except (ssl.SSLError, ValueError):
            pass  # it was sent; what the caller still sends is read by `linger`
        return True

    def linger(self) -> bool:
        """Read on until the caller has gone: closing on what it sent would take the end of the answer from it."""
        try:
            piece = socket.socket.recv(self.tls, CHUNK)
        except BlockingIOError:
            return False
        if not piece:
            self.close()
        return bool(piece)

    # -- what steps are made of --

    def received(self, most: int) -> bytes | None:
        """At most so many bytes of the caller, none once it has ended its side; None if there are none now."""
        try:
            piece: bytes | None = self.wants(lambda: self.tls.recv(most))
        except ssl.SSLZeroReturnError:
            return b""
        return piece

    def wants(self, act: Callable[[], Any]) -> Any:
        """What it returns, True in place of nothing; None after noting what TLS waits for."""
        try:
            found = act()
        except ssl.SSLWantReadError:
            self.tls_wants |= selectors.EVENT_READ
            return None
        except ssl.SSLWantWriteError:
            self.tls_wants |= selectors.EVENT_WRITE
            return None
        return True if found is None else found

    def watch(self) -> None:
        """Wait for what the next step needs."""
        relaying = self.step == self.relay
        tls = self.tls_wants
        if self.down:
            tls |= selectors.EVENT_WRITE
        if self.step == self.linger:
            tls |= selectors.EVENT_READ
        self.wait_for(self.tls, tls)
        if self.app is not None:
            app = 0
            if relaying:
                app = selectors.EVENT_WRITE if self.up else 0
                app |= 0 if self.down else selectors.EVENT_READ
            self.wait_for(self.app, app)

    def wait_for(self, sock: socket.socket, events: int) -> None:
        before = self.watched.get(sock, 0)
        if events == before:
            return
        if not before:
            self.hall.selector.register(sock, events, self.go)
        elif events:
            self.hall.selector.modify(sock, events, self.go)
        else:
            self.hall.selector.unregister(sock)
        self.watched[sock] = events

    def turn_away(self, why: str) -> None:
        """End it without a word to the caller."""
        self.hall.tell(self.whence, why)
        self.close()

    def close(self) -> None:
        """End both connections. May be called again."""
        for sock, events in self.watched.items():
            if events:
                self.hall.selector.unregister(sock)
        self.watched.clear()
        self.hall.strangers.pop(self, None)
        self.hall.visits.discard(self)
        self.hall.again.discard(self)
        self.tls.close()
        if self.app is not None:
            self.app.close()


# -- sockets --------------------------------------------------------------------------------------------------------------


def context_of(certificate: str, key: str) -> ssl.SSLContext:
    """For a server with this certificate. The library reads files alone: it gets two pipes, so that the key lies in none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # the certificate is shown each time
    ends = [piped(certificate.encode()), piped(key.encode())]
    try:
        context.load_cert_chain(*(f"/dev/fd/{end}" for end in ends))
    finally:
        for end in ends:
            os.close(end)
    return context


def piped(content: bytes) -> int:
    """A descriptor to read so little from that a pipe holds it."""
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return reader


def keep_alive(sock: socket.socket) -> None:
    """A peer from which nothing comes for 30 seconds, though it is asked, counts as lost."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def door_of(target: str) -> tuple[socket.socket, Any]:
    """A socket for `unix:/path` or `tcp:HOST:PORT`, and where it is to be connected to."""
    kind, _, where = target.partition(":")
    host, _, port = where.rpartition(":")
    unix = kind == "unix"
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    if not unix:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, where if unix else (host, int(port))


def met_itself(sock: socket.socket) -> bool:
    """Whether a connection to a free port of the ephemeral range met itself."""
    return sock.family == socket.AF_INET and sock.getsockname() == sock.getpeername()


def give_up_rights() -> None:
    """Strangers speak to this process: it keeps no capability, also as root. Nobody but root looks into its memory: not the app, either,
    if it is of the same user."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.capset(
        struct.pack("II", CAPABILITY_VERSION_3, 0), bytes(24)
    )  # capset(2): itself; effective, permitted, inheritable


def main(descriptor: int) -> int:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if LINUX:
        give_up_rights()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # whoever started it says when it ends
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            return 1
        line += piece
    try:
        hall = Hall(socket.socket(fileno=descriptor), json.loads(line))
    except (OSError, ssl.SSLError, ValueError, KeyError) as exc:
        print(f"failed {type(exc).__name__}: {exc}", flush=True)
        return 1
    del line
    print("serves", flush=True)
    hall.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
