"""One control plane hands over to the next: the socket, the lock and three words over two pipes.

The old one starts its successor with its own listening socket and its folder's lock. The successor loads itself and says
`loaded`; the old one gives everything up and says `go`; the successor opens the database, adopts the runners, looks at
itself where no caller can reach it, says `ok` and listens. Until then nobody was answered by it, and the old one can take
everything back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from falplan.core.errors import FalplanError
from falplan.sdk.failpoints import fp

LOAD = 60.0  # seconds that a successor may take to load itself
TAKE_OVER = 120.0  # seconds that it may take to serve, a migration of the database included


class HandoverFailed(FalplanError):
    """The successor did not take over. It is dead, and has answered nobody."""

    def __init__(self, because: str) -> None:
        super().__init__("The successor did not take over", because)
        self.because = because


@dataclass(slots=True)
class Successor:
    """The process that takes over, as the old control plane sees it."""

    process: subprocess.Popen[bytes]
    hears: int
    tells: int

    @classmethod
    async def start(cls, argv: tuple[str, ...], listening: socket.socket, lock: int, log: Path) -> Successor:
        """Start it; returns once it has loaded itself.

        Raises:
            HandoverFailed: it ended, or took too long. Nothing has changed.
        """
        reads, child_writes = os.pipe()
        child_reads, writes = os.pipe()
        passed = (listening.fileno(), lock, child_reads, child_writes)
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(  # noqa: ASYNC220 - a fork, not a wait
                    [*argv, "--handover", ",".join(map(str, passed))],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    pass_fds=passed,
                    start_new_session=True,
                )
        except OSError as exc:
            os.close(reads)
            os.close(writes)
            raise HandoverFailed(f"it could not be started: {exc}") from exc
        finally:
            os.close(child_reads)
            os.close(child_writes)
        it = cls(process, reads, writes)
        if await it._word(LOAD) != "loaded":
            await it.kill()
            raise HandoverFailed("it ended before it was ready, or took too long")
        return it

    async def take_over(self) -> None:
        """Let it go on, and wait until it serves.

        Raises:
            HandoverFailed: it does not; it is dead when this is raised.
        """
        fp("handover.go.before")
        try:
            os.write(self.tells, b"go\n")
            word = await self._word(TAKE_OVER)
        except OSError:
            word = ""
        if word != "ok":
            await self.kill()
            raise HandoverFailed("it ended before it served, or took too long")
        fp("handover.ok.after")
        self._close()

    async def kill(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGKILL)
        await asyncio.get_running_loop().run_in_executor(None, self.process.wait)
        self._close()

    def _close(self) -> None:
        os.close(self.hears)
        os.close(self.tells)

    async def _word(self, within: float) -> str:
        """The next word; empty if it ends or is silent for too long."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[str] = loop.create_future()

        def readable() -> None:
            word = b""
            while not word.endswith(b"\n") and (byte := os.read(self.hears, 1)):
                word += byte
            if not heard.done():
                heard.set_result(word.decode("ascii").strip())

        loop.add_reader(self.hears, readable)
        try:
            async with asyncio.timeout(within):
                return await heard
        except TimeoutError:
            return ""
        finally:
            loop.remove_reader(self.hears)


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The control plane that is to be replaced, as its successor sees it: descriptors by number."""

    listening: int
    lock: int
    hears: int
    tells: int

    @classmethod
    def parse(cls, text: str) -> Predecessor:
        """The value of `--handover`."""
        listening, lock, hears, tells = (int(part) for part in text.split(","))
        for descriptor in (listening, lock, hears, tells):
            os.set_inheritable(descriptor, False)
        return cls(listening, lock, hears, tells)

    def say(self, word: str) -> None:
        """Tell it; one that is dead is no error: then there is nobody to go back to."""
        try:
            os.write(self.tells, word.encode() + b"\n")
        except BrokenPipeError:
            pass

    def wait_for_go(self) -> bool:
        """Block until it has given everything up. False: it died, or goes on itself."""
        return os.read(self.hears, 3) == b"go\n"

    def took_over(self) -> None:
        """It works: from now on this control plane answers, and there is no way back."""
        fp("handover.ok.before")
        self.say("ok")
        os.close(self.hears)
        os.close(self.tells)
