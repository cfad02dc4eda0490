"""A way onto one machine: run, put, read, reach. Everything done on machines goes through it, whatever the provider."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from falplan.core.errors import FalplanError
from falplan.sdk.values import Command, Entry, Output


class Unreachable(FalplanError):
    """The machine could not be asked: nothing is known about it, least of all that it is gone."""


class TimedOut(FalplanError):
    """A command ran past its timeout and was killed with its group, as far as the machine could be reached."""


class Shell(Protocol):
    """What can be done on one machine, as one user. Methods block, each with a deadline, and may be called from several threads.

    Paths are absolute on that machine, as text. Missing files raise FileNotFoundError, refused ones PermissionError, a full disk
    OSError with its errno; a lost connection raises `Unreachable`.
    """

    @property
    def python(self) -> str:
        """An interpreter on the machine (3.9 or newer) for falplan's own scripts."""
        ...

    def run(self, command: Command, on_line: Callable[[str], None] | None = None) -> Output:
        """Run to the end. `on_line` gets lines of standard output as they come; they are then not in the output.

        A program that does not exist raises FileNotFoundError.

        Raises:
            TimedOut: the command's time was up.
            Unreachable: the connection was lost; whether it ran is unknown.
        """
        ...

    def write_file(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """Write whole or not at all, durably: temporary name, fsync, rename. Missing folders above are made, private (0700)."""
        ...

    def read_file(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        """At most `limit` bytes from `offset`; empty past the end."""
        ...

    def put_archive(self, stream: IO[bytes], folder: str, digest: str) -> None:
        """Unpack a tar.gz as `folder`, whole or not at all. Does nothing if the folder is there.

        Raises:
            FalplanError: what came out does not have this `falplan.sdk.trees.tree_digest`; nothing is left.
        """
        ...

    def put_tree(self, source: Path, folder: str) -> str:
        """Copy a folder of this computer to `folder`, whole or not at all, and return its tree digest. Does nothing if it is there."""
        ...

    def list(self, path: str) -> list[Entry]:
        """Names in a folder, sorted; empty if there is no such folder."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file or a whole folder, read-only ones too. Nothing there is no error."""
        ...

    def reach(self, address: str) -> str:
        """An address that the control plane can connect to, for `unix:/path` or `tcp:HOST:PORT` as seen on the machine."""
        ...

    def close(self) -> None:
        """Give up connections. May be called again."""
        ...
