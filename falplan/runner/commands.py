"""Runs a program to its end: bounded in time and in memory, with all that it started. Knows nothing of who asked.

Used by falplan where it acts on its own machine, and by `hand.py` on others. Needs Python 3.9 and its standard library alone.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KEPT = 8 << 20
"""Bytes kept of each stream: half of them from its beginning, half from its end."""
READ = 1 << 16
LINE = 1 << 20
"""Bytes of a line that are kept in mind while its end has not come."""


class Expired(Exception):
    """Its time was up, and it was killed with its group."""


class Kept:
    """A stream of which the beginning and the end are kept, however long it is."""

    def __init__(self, limit: int = KEPT) -> None:
        self.half, self.head, self.tail, self.lost = limit // 2, bytearray(), bytearray(), 0

    def add(self, chunk: bytes) -> None:
        room = self.half - len(self.head)
        self.head += chunk[:room] if room > 0 else b""
        self.tail += chunk[max(room, 0) :]
        if len(self.tail) > self.half + (self.half >> 2):
            self._forget()

    def _forget(self) -> None:
        over = len(self.tail) - self.half
        if over > 0:
            del self.tail[:over]
            self.lost += over

    def content(self) -> bytes:
        """What is kept; what is not is said where it is missing. Nothing is kept after that."""
        self._forget()
        gap = b"\n[%d bytes left out]\n" % self.lost if self.lost else b""
        found = b"".join((self.head, gap, self.tail))
        self.head, self.tail = bytearray(), bytearray()
        return found


class Lines:
    """A stream handed over line by line. A line that does not end is handed over in pieces."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.on_line, self.rest = on_line, b""

    def add(self, chunk: bytes) -> None:
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        for line in whole:
            self._say(line)
        if len(self.rest) > LINE:
            self._say(self.rest)
            self.rest = b""

    def content(self) -> bytes:
        """Nothing is kept. What stands after the last line's end is handed over now."""
        if self.rest:
            self._say(self.rest)
        return b""

    def _say(self, line: bytes) -> None:
        self.on_line(line.decode("utf-8", "replace").rstrip("\r"))


def run(
    argv: Sequence[str],
    *,
    stdin: bytes,
    env: Mapping[str, str],
    timeout: float,
    on_line: Callable[[str], None] | None = None,
    started: Callable[[int], object] = lambda pid: None,
) -> tuple[int, bytes, bytes]:
    """(status, standard output, standard error), the latter two cut in the middle if they are huge. A negative status is a signal's.

    `env` is added to this process's own; `timeout` in seconds. With `on_line` standard output is handed over, and not kept. The program
    gets a session of its own, so that its whole group can be killed; `started` is called with its pid.

    Raises:
        Expired: it was killed when its time was up.
        OSError: it can't be started.
    """
    deadline = time.monotonic() + timeout
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **env},
        start_new_session=True,
    )
    out: Kept | Lines = Kept() if on_line is None else Lines(on_line)
    errors = Kept()
    try:
        started(process.pid)
        if not _exchange(process, stdin, {process.stdout: out, process.stderr: errors}, deadline):
            raise Expired
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise Expired from None
    finally:
        if process.poll() is None:
            kill_group(process.pid)
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return code, out.content(), errors.content()


def _exchange(
    process: subprocess.Popen[bytes],
    stdin: bytes,
    streams: Mapping[object, Kept | Lines],
    deadline: float,
) -> bool:
    """Feed and read until all streams have ended. False: time is up."""
    with selectors.DefaultSelector() as selector:
        for pipe, kept in streams.items():
            selector.register(pipe, selectors.EVENT_READ, kept)  # type: ignore[arg-type]
        left = memoryview(stdin)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            for key, _ in selector.select(remaining):
                if key.data is None:
                    left = _feed(key.fd, left)
                    if not left:
                        selector.unregister(key.fileobj)
                        assert process.stdin is not None  # noqa: S101 - it was registered
                        process.stdin.close()
                    continue
                chunk = os.read(key.fd, READ)
                if chunk:
                    key.data.add(chunk)
                else:
                    selector.unregister(key.fileobj)
    return True


def _feed(descriptor: int, left: memoryview) -> memoryview:
    """What is still to be written; nothing once the program reads no more."""
    try:
        return left[os.write(descriptor, left[:READ]) :]
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[:0]


def kill_group(pid: int) -> None:
    """SIGKILL to a process and all of its group. One that is gone is no error."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
