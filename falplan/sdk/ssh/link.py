"""Falplan's hand on another machine, from this side: requests over one channel, and a watch that nobody waits for a dead one.

`falplan.runner.hand` describes the frames.
"""

from __future__ import annotations

import functools
import json
import marshal
import queue
import re
import shlex
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from importlib import resources
from importlib.abc import InspectLoader
from importlib.util import MAGIC_NUMBER, find_spec
from typing import TYPE_CHECKING, Any

from falplan.core.errors import FalplanError
from falplan.core.values import Json
from falplan.runner.hand import HEAD, READY
from falplan.sdk.shell import Unreachable
from falplan.sdk.ssh.connect import PATIENCE, SILENCE, Connection, words

if TYPE_CHECKING:
    import paramiko

MODULES = (
    "processes.py",
    "containers.py",
    "images.py",
    "placing.py",
    "archives.py",
    "units.py",
    "commands.py",
    "inventory.py",
    "rules.py",
    "ledger.py",
    "foreign.py",
    "agent.py",
    "fronting.py",
    "facts.py",
    "hand.py",
)
"""What is sent. The last one is begun."""

FACTS = ("fronting.py", "facts.py")
"""What is begun in its place to look at a machine closely, and adds verbs to it."""

EXAMINED = 180.0
"""Seconds for such a look: each program that is asked there has its own, shorter, deadline."""

NOISE = 1 << 18  # bytes that a machine's start files may print before the hand says that it is there
PIECE = 1 << 15  # paramiko copies what it has not sent yet for each packet: large pieces are slow
NO_PYTHON = 119
PYTHONS = ("python3", *(f"python3.{n}" for n in range(14, 8, -1)), "/usr/local/bin/python3", "/opt/bin/python3")

TELL = "sys.stdout.buffer.write(b'\\0falplan-python '+e.MAGIC_NUMBER.hex().encode()+b'\\0');sys.stdout.flush()\n"
TOLD = re.compile(rb"\0falplan-python ([0-9a-f]+)\0")
LOADER = f"""import sys
if sys.version_info<(3,9):sys.exit({NO_PYTHON})
import marshal,threading,types,zlib
import _frozen_importlib_external as e
{TELL}class Late(types.ModuleType):
 def __getattr__(m,n):
  with lock:
   v=sources.pop(m.__name__,None)
   if v is not None:exec(load(v,m.__name__+".py","exec"),m.__dict__)
  if n in m.__dict__:return m.__dict__[n]
  raise AttributeError(n)
lock=threading.RLock()
r=sys.stdin.buffer
load=compile if r.read(1)==b"s" else lambda v,*_:marshal.loads(v)
sources=dict(marshal.loads(zlib.decompress(r.read(int(r.read(8),16)))))
for k in sources:sys.modules[k]=Late(k)
sys.modules[k].main()"""
"""It says what kind of compiled modules this Python takes, and reads those, or sources. A module is compiled or loaded when it is first
used, with all that it imports: most connections never unpack anything, nor look for GPUs."""

TELLER = LOADER.replace(TELL, "").replace("[k].main()", "[k].tell()")
"""For a program that tells one thing and ends. It is given sources."""

Event = Callable[[Mapping[str, Any]], None]


class HandFailed(FalplanError):
    """The machine says why it could not be done. `kind` and `body` are the hand's."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        super().__init__("A request to a machine failed", str(body.get("text") or body["kind"]))
        self.kind, self.body = str(body["kind"]), body


class NoPython(FalplanError):
    """There is no Python there that is new enough."""


class NoSudo(FalplanError):
    """The user who logs in can't become root without a question."""


class NoSession(Unreachable):
    """The machine takes the login, and runs nothing."""


def remote_command(*, sudo: bool) -> str:
    """What is run on the machine: the first Python that is new enough. Its program comes on standard input."""
    as_root = "sudo -n -- " if sudo else ""
    loader = shlex.quote(LOADER)
    script = (
        f"for p in {' '.join(PYTHONS)}; do command -v $p >/dev/null 2>&1 || continue; "
        f'{as_root}"$p" -I -S -B -u -c {loader}; r=$?; [ $r = {NO_PYTHON} ] || exit $r; done; '
        f"echo there is no Python 3.9 or newer >&2; exit {NO_PYTHON}"
    )
    return f"/bin/sh -c {shlex.quote(script)}"


_packing = threading.Lock()


def program_of(more: tuple[str, ...] = (), magic: bytes = b"") -> bytes:
    """What the loader reads: modules, `more` behind the others, so that the last one of these is begun.

    Compiled, if `magic` is that of our own Python: compiling takes a host as long as starting Python does. Otherwise sources.
    """
    with _packing:  # many connections begin at once: one makes it, and the others have it
        return _packed((*(n for n in MODULES if n not in more), *more), compiled=magic == MAGIC_NUMBER)


@functools.cache
def _packed(names: tuple[str, ...], *, compiled: bool) -> bytes:
    modules = []
    for name in (n.removesuffix(".py") for n in names):
        source = resources.files("falplan.runner").joinpath(f"{name}.py")
        modules.append((name, _code_of(f"falplan.runner.{name}") if compiled else source.read_bytes()))
    packed = zlib.compress(marshal.dumps(modules, 2))  # every Python reads this version of lists, text and bytes
    return (b"c" if compiled else b"s") + b"%08x" % len(packed) + packed


def _code_of(module: str) -> bytes:
    """A module as our own Python keeps it compiled, which takes no time to read."""
    spec = find_spec(module)
    assert spec is not None and isinstance(spec.loader, InspectLoader)  # noqa: S101 - it is a part of falplan
    return marshal.dumps(spec.loader.get_code(module))


class Link:
    """A hand that is there. `request` may be called from several threads.

    `more` are modules that are sent beside its own, and add verbs: the `main` of the last one is run.
    """

    def __init__(self, connection: Connection, more: tuple[str, ...] = ()) -> None:
        self.connection = connection
        self.where = connection.target.where
        self._channel = self._open()
        self._sending = threading.Lock()
        self._waiting: dict[int, queue.Queue[tuple[dict[str, Any], bytes] | None]] = {}
        self._number = 0
        self._mutex = threading.Lock()
        self._heard = time.monotonic()
        self._asked = 0.0  #: when the first thing was sent that nothing was heard after: before that, silence is no sign of anything
        self.lost = ""
        self._rest = self._start(more)
        threading.Thread(target=self._read, name=f"ssh {self.where}", daemon=True).start()
        self.facts: Mapping[str, Any] = self.request({"do": "hello"}, timeout=PATIENCE)[0]

    # -- beginning --

    def _open(self) -> paramiko.Channel:
        import paramiko

        try:
            channel = self.connection.transport.open_session(timeout=PATIENCE)
            channel.settimeout(PATIENCE)
            channel.exec_command(remote_command(sudo=self.connection.target.sudo))
        except (paramiko.SSHException, EOFError, OSError) as exc:
            detail = f"{self.where} takes the login and runs no command: {words(exc)}."
            raise NoSession("The host can't be reached", detail) from exc
        return channel

    def _start(self, more: tuple[str, ...]) -> bytes:
        """Send the program that its Python takes, and read until it says that it is there. What the machine printed before is noise."""
        give_up = time.monotonic() + PATIENCE
        told = self._read_until(TOLD, b"", give_up)
        try:
            self._channel.sendall(program_of(more, bytes.fromhex(told[1].decode())))
        except (OSError, EOFError):
            pass  # what it says in place of listening tells why
        found = self._read_until(re.compile(re.escape(READY)), told.string[told.end() :], give_up)
        return found.string[found.end() :]

    def _read_until(self, sign: re.Pattern[bytes], seen: bytes, give_up: float) -> re.Match[bytes]:
        """Read on until this was said."""
        while (found := sign.search(seen)) is None:
            chunk = self._receive() or b""
            seen += chunk
            if not chunk or len(seen) > NOISE or time.monotonic() > give_up:
                raise self._silent(seen)
        return found

    def _silent(self, seen: bytes) -> FalplanError:
        """Why no hand came to be, out of what was printed in its place."""
        errors = b""
        self._channel.settimeout(1.0)
        try:
            errors = self._channel.recv_stderr(1 << 16)
        except TimeoutError:
            pass
        status = self._channel.recv_exit_status() if self._channel.status_event.wait(2.0) else None
        self._channel.close()
        said = " ".join((errors or seen).decode(errors="replace").split())[-300:]
        if status == -1 and not said:  # paramiko's way to say that there is none
            return Unreachable("The host can't be reached", f"{self.where} ended the connection after the login.")
        return not_begun(self.where, status, said, sudo=self.connection.target.sudo)

    # -- frames --

    def _send_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                sent = self._channel.send(view[:PIECE])  # type: ignore[arg-type]
            except TimeoutError:  # the reader looks after its life
                sent = 0 if self.lost else -1
            except (OSError, EOFError) as exc:
                self._lose(str(exc))
                raise self._gone() from exc
            if sent == 0:
                self._lose("the connection was lost")
                raise self._gone()
            view = view[max(sent, 0) :]

    def _receive(self) -> bytes | None:
        """What came; None if nothing did for a while, and empty bytes at the end."""
        try:
            return bytes(self._channel.recv(1 << 17))
        except TimeoutError:
            return None
        except (OSError, EOFError):
            return b""

    def send(self, header: Mapping[str, Json], payload: bytes = b"") -> None:
        """Send one frame."""
        body = json.dumps(header).encode()
        with self._sending:
            if self._asked <= self._heard:
                self._asked = time.monotonic()
            self._send_all(HEAD.pack(len(body), len(payload)) + body)
            if payload:
                self._send_all(payload)

    def _read(self) -> None:
        """Hand frames to those who wait for them, until the channel ends."""
        self._channel.settimeout(SILENCE / 5)
        buffer = bytearray(self._rest)
        while True:
            while len(buffer) >= HEAD.size:
                size, more = HEAD.unpack_from(buffer)
                end = HEAD.size + size + more
                if len(buffer) < end:
                    break
                header = json.loads(bytes(buffer[HEAD.size : HEAD.size + size]))
                waiting = self._waiting.get(header["id"])
                if waiting is not None:
                    with memoryview(buffer) as view, view[HEAD.size + size : end] as payload:
                        waiting.put((header, bytes(payload)))
                del buffer[:end]
            chunk = self._receive()
            if chunk is None:
                self._check_life()
                continue
            if not chunk:
                break
            self._heard = time.monotonic()
            buffer += chunk
        self._lose("the connection was lost")

    def _lose(self, because: str) -> None:
        with self._mutex:
            self.lost = self.lost or because
            waiting = list(self._waiting.values())
        for one in waiting:
            one.put(None)
        self.connection.close()

    def _gone(self) -> Unreachable:
        return Unreachable("The connection to a host was lost", f"{self.where}: {self.lost}.")

    # -- requests --

    def request(
        self,
        header: Mapping[str, Json],
        payload: bytes = b"",
        *,
        timeout: float,
        on_event: Event = lambda header: None,
        begun: Callable[[int], None] = lambda number: None,
    ) -> tuple[Any, bytes]:
        """Ask, and return the answer. `on_event` gets the frames before it; `begun` is called with the request's number once it is sent.

        Raises:
            HandFailed: it could not be done, and why.
            Unreachable: the connection was lost, or nothing came within `timeout` seconds; what became of it is unknown.
        """
        number, inbox = self._enter()
        try:
            self.send({**header, "id": number}, payload)
            begun(number)
            deadline = time.monotonic() + timeout
            while True:
                answer, content = self._next(inbox, deadline)
                if "error" in answer:
                    raise HandFailed(answer["error"])
                if "ok" in answer:
                    return answer["ok"], content
                on_event(answer)
        finally:
            self._waiting.pop(number, None)

    def _enter(self) -> tuple[int, queue.Queue[tuple[dict[str, Any], bytes] | None]]:
        inbox: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue()
        with self._mutex:
            if self.lost:
                raise self._gone()
            self._number += 1
            self._waiting[self._number] = inbox
            return self._number, inbox

    def _next(
        self, inbox: queue.Queue[tuple[dict[str, Any], bytes] | None], deadline: float
    ) -> tuple[dict[str, Any], bytes]:
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self._lose("it did not answer in time")
                raise self._gone()
            try:
                frame = inbox.get(timeout=remaining)
            except queue.Empty:
                continue
            if frame is None:
                raise self._gone()
            return frame

    def _check_life(self) -> None:
        """Ask for a sign of life after a while of silence, and give up after a longer one. Nobody is asked for whom nobody waits.

        The reader does this, which never waits for those who send: they may be waiting for the very peer that is gone.
        """
        quiet = time.monotonic() - max(self._heard, self._asked)
        if not self._waiting:
            return
        if quiet >= SILENCE:
            self._lose(f"there was no sign of life for {quiet:.0f} s")
        elif quiet >= SILENCE / 5 and self._sending.acquire(blocking=False):
            try:
                body = json.dumps({"do": "ping", "id": 0}).encode()
                self._channel.send(HEAD.pack(len(body), 0) + body)  # small enough for whatever window there is
            except (OSError, EOFError):
                pass  # the next receive tells
            finally:
                self._sending.release()

    def close(self) -> None:
        """Say good-bye. Jobs go on."""
        if not self.lost:
            try:
                self.send({"do": "bye"})
            except Unreachable:
                pass
        self._lose("it was closed")


def not_begun(where: str, status: int | None, said: str, *, sudo: bool) -> FalplanError:
    """Why a machine that takes the login does not run our program, in words that help."""
    text = said.lower()
    if status == NO_PYTHON:
        return NoPython(
            "Python is missing",
            f"{where} has no Python 3.9 or newer, which is all that falplan needs there: `apt-get install python3`, or "
            "`dnf install python3`.",
        )
    if sudo and ("password is required" in text or "a password" in text or "no askpass" in text):
        detail = f"{where}: sudo asks for a password. Allow it without one (NOPASSWD in sudoers), or leave `sudo` out."
        return NoSudo("sudo does not work there", detail)
    if sudo and "must have a tty" in text:
        return NoSudo("sudo does not work there", f"{where}: sudoers says `requiretty`. Take it out for this user.")
    if sudo and ("sudo" in text or status == 127):
        return NoSudo("sudo does not work there", f"{where}: {said or 'there is no sudo'}.")
    because = f"{said} (status {status})" if said else f"status {status}" if status is not None else "it said nothing"
    return NoSession("The host runs no commands", f"{where} takes the login, but: {because}.")
