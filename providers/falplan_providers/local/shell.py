"""This machine as a shell: files by the operating system, commands by fork and exec."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from falplan.core.errors import FalplanError
from falplan.sdk.failpoints import fp
from falplan.sdk.shell import TimedOut
from falplan.sdk.trees import flush, make_read_only, remove_tree, tree_digest, unpack
from falplan.sdk.values import Command, Entry, Output

_PART = ".part-"


@dataclass(frozen=True, slots=True)
class LocalShell:
    """A `Shell` on this machine, as this user. Holds nothing, so that it may be made as often as one likes."""

    @property
    def python(self) -> str:
        return sys.executable

    def run(self, command: Command, on_line: Callable[[str], None] | None = None) -> Output:
        """See `Shell.run`. The command gets a session of its own, so that its whole group can be killed."""
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **command.env},
            start_new_session=True,
        )
        with process:
            try:
                if on_line is None:
                    out, err = process.communicate(command.stdin or None, command.timeout)
                else:
                    out, err = b"", _follow(process, command, on_line)
            except subprocess.TimeoutExpired:
                name = Path(command.argv[0]).name
                raise TimedOut("A command took too long", f"{name} was ended after {command.timeout:g} s.") from None
            finally:
                if process.poll() is None:
                    _kill_group(process.pid)
        return Output(process.returncode, out, err)

    def write_file(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """See `Shell.write_file`."""
        target = Path(path)
        _make_folders(target.parent)
        handle, temporary = tempfile.mkstemp(prefix=f"{_PART}{target.name}-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            fp("shell.write.before_rename")
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        flush(target.parent)

    def read_file(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        """See `Shell.read_file`."""
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read() if limit is None else file.read(limit)

    def put_archive(self, stream: IO[bytes], folder: str, digest: str) -> None:
        """See `Shell.put_archive`."""
        if not Path(folder).is_dir():
            self._put(Path(folder), lambda temporary: unpack(stream, temporary), digest)

    def put_tree(self, source: Path, folder: str) -> str:
        """See `Shell.put_tree`."""
        if not Path(folder).is_dir():
            self._put(Path(folder), lambda temporary: shutil.copytree(source, temporary), None)
        return tree_digest(Path(folder))

    @staticmethod
    def _put(target: Path, fill: Callable[[Path], object], digest: str | None) -> None:
        _make_folders(target.parent)
        _sweep(target.parent)
        base = Path(tempfile.mkdtemp(prefix=f"{_PART}{os.getpid()}-", dir=target.parent))
        temporary = base / "tree"
        try:
            fill(temporary)
            found = tree_digest(temporary)
            if digest is not None and found != digest:
                detail = f"It should hold {digest[:12]}… and holds {found[:12]}…. Make it again, and upload it again."
                raise FalplanError("The archive is not what it should be", detail)
            make_read_only(temporary)
            temporary.chmod(0o755)  # a folder can be renamed only while it is writable
            fp("shell.put.before_rename")
            _rename_once(temporary, target)
        finally:
            remove_tree(base)

    def list(self, path: str) -> list[Entry]:
        """See `Shell.list`."""
        try:
            with os.scandir(path) as found:
                entries = [
                    Entry(e.name, e.is_dir(follow_symlinks=False), e.stat(follow_symlinks=False).st_size)
                    for e in found
                    if not e.name.startswith(_PART)
                ]
        except FileNotFoundError:
            return []
        return sorted(entries, key=lambda e: e.name)

    def remove(self, path: str) -> None:
        """See `Shell.remove`."""
        remove_tree(Path(path))

    def reach(self, address: str) -> str:
        """The address as it is."""
        return address

    def close(self) -> None:
        """Nothing to give up."""


def _make_folders(folder: Path) -> None:
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def _rename_once(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        return  # somebody else was first, with the same contents
    target.chmod(0o555)
    flush(target.parent)


def _sweep(folder: Path) -> None:
    """Remove what builders left that are no more."""
    for path in folder.glob(f"{_PART}*"):
        owner = path.name.removeprefix(_PART).partition("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            remove_tree(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _follow(process: subprocess.Popen[bytes], command: Command, on_line: Callable[[str], None]) -> bytes:
    """Hand lines over as they come; kill the group when time is up. Returns standard error."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _kill_group(process.pid)

    errors: list[bytes] = []
    assert process.stdout and process.stderr  # noqa: S101 - both were asked for
    workers = (
        [threading.Thread(target=_feed, args=(process.stdin, command.stdin), daemon=True)] if process.stdin else []
    )
    workers.append(threading.Thread(target=_drain, args=(process.stderr, errors), daemon=True))
    timer = threading.Timer(command.timeout, expire)
    timer.daemon = True
    for thread in (*workers, timer):
        thread.start()
    try:
        for line in process.stdout:
            on_line(line.decode(errors="replace").rstrip("\r\n"))
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            _kill_group(process.pid)
        for thread in workers:
            thread.join(10)
    if expired.is_set():
        raise subprocess.TimeoutExpired(list(command.argv), command.timeout)
    return b"".join(errors)


def _feed(pipe: IO[bytes] | None, content: bytes) -> None:
    if pipe is None:
        return
    try:
        pipe.write(content)
        pipe.close()
    except BrokenPipeError:
        pass


def _drain(pipe: IO[bytes], into: list[bytes]) -> None:
    into.append(pipe.read())
