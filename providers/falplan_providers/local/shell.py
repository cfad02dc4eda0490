"""This machine as a shell: files by the operating system, commands by fork and exec."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from falplan.runner import archives, commands, placing
from falplan.sdk.failpoints import fp
from falplan.sdk.shell import TimedOut
from falplan.sdk.trees import damaged, tree_digest
from falplan.sdk.values import Command, Entry, Output


@dataclass(frozen=True, slots=True)
class LocalShell:
    """A `Shell` on this machine, as this user. Holds nothing, so that it may be made as often as one likes."""

    @property
    def python(self) -> str:
        return sys.executable

    def run(self, command: Command, on_line: Callable[[str], None] | None = None) -> Output:
        """See `Shell.run`. The command gets a session of its own, so that its whole group can be killed."""
        try:
            code, out, errors = commands.run(
                command.argv, stdin=command.stdin, env=command.env, timeout=command.timeout, on_line=on_line
            )
        except commands.Expired:
            name = Path(command.argv[0]).name
            raise TimedOut("A command took too long", f"{name} was ended after {command.timeout:g} s.") from None
        return Output(code, out, errors)

    def write_file(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """See `Shell.write_file`."""
        placing.write_file(path, content, mode, lambda: fp("shell.write.before_rename"))

    def read_file(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        """See `Shell.read_file`."""
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read() if limit is None else file.read(limit)

    def put_archive(self, stream: IO[bytes], folder: str, digest: str) -> None:
        """See `Shell.put_archive`."""
        if not Path(folder).is_dir():
            self._put(folder, lambda temporary: archives.unpack(stream, temporary), digest)

    def put_tree(self, source: Path, folder: str) -> str:
        """See `Shell.put_tree`."""
        if not Path(folder).is_dir():
            self._put(folder, lambda temporary: _copy(source, temporary), None)
        return tree_digest(Path(folder))

    @staticmethod
    def _put(target: str, fill: Callable[[str], Mapping[str, str] | None], digest: str | None) -> None:
        try:
            placing.put_tree(target, fill, digest, lambda: fp("shell.put.before_rename"))
        except placing.Damaged as exc:
            raise damaged(str(exc)) from exc

    def list(self, path: str) -> list[Entry]:
        """See `Shell.list`."""
        return [Entry(*found) for found in placing.names_in(path)]

    def remove(self, path: str) -> None:
        """See `Shell.remove`."""
        placing.remove_tree(path)

    def reach(self, address: str) -> str:
        """The address as it is."""
        return address

    def close(self) -> None:
        """Nothing to give up."""


def _copy(source: Path, target: str) -> None:
    shutil.copytree(source, target)
