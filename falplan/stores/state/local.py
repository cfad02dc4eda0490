"""State in a folder beside the spec: `state.json`, `state.journal`, `state.lock`, `backups/`. One writer, any number of readers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.state import State, StateUnreadable
from falplan.core.values import JsonObject, digest
from falplan.stores.files import sync_folder, write_whole
from falplan.stores.state import holding
from falplan.stores.state.backend import (
    BACKUPS,
    Held,
    Journal,
    Lease,
    Loaded,
    Log,
    Lost,
    NotWritten,
    Snapshot,
    backup_serial,
)
from falplan.stores.state.interface import Holder, Kept
from falplan.stores.state.lines import from_line, to_lines
from falplan.stores.state.seal import Seal
from falplan.stores.state.seen import SeenSerials
from falplan.stores.state.store import Store

NEXT_STEP = "Make room or repair the disk. Keep the files that are there."


class LocalState(Store):
    """State of one project in a folder."""

    def __init__(
        self,
        folder: Path,
        seal: Seal | None = None,
        saved: Callable[[State], None] | None = None,
        seen: SeenSerials | None = None,
    ) -> None:
        super().__init__(LocalFiles(folder), seal, saved, seen)
        self.folder = folder
        self.path = folder / "state.json"
        self.journal = folder / "state.journal"
        self.lock = folder / "state.lock"


class FileLease:
    """The kernel's lock on a file: it is gone with the process that holds it, and never before."""

    must_fence = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def lost(self) -> Lost | None:
        return None

    def check(self) -> None:
        return

    def release(self, *, give_back: bool = True) -> None:
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        # A name in the file means nothing without the lock, and the lock is gone with this process at the latest.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):
            os.close(descriptor)


class LocalFiles:
    """The backend: three files and a folder. A snapshot's version is its inode and time, which every rename changes."""

    poll = 0.1
    needs_lock = False
    """Tests and tools write to folders of their own. Who shares one takes the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "state.json"
        self.journal_path = folder / "state.journal"
        self.lock = folder / "state.lock"
        self.kept = folder / "backups"

    @property
    def where(self) -> str:
        return str(self.path)

    @property
    def backups_where(self) -> str:
        return str(self.kept)

    def journal_place(self, log: Log, seq: int) -> str:
        return f"{self.journal_path}:{seq + 1}"

    def load(self, log_of: Callable[[bytes], Log]) -> Loaded:
        # The journal is read first: a snapshot taken in between only makes it look finished, never forgotten.
        journal = self._read_journal()
        try:
            with self.path.open("rb") as file:
                version = _version(os.fstat(file.fileno()))
                content = file.read()
        except FileNotFoundError:
            return Loaded(None, journal, str(self.journal_path) if self.journal_path.exists() else "")
        except OSError as exc:
            detail = f"{self.path}: {exc.strerror or exc}. Copies of earlier states are in {self.kept}."
            raise StateUnreadable("The state file can't be read", detail) from exc
        return Loaded(Snapshot(content, version), journal)

    def write(self, content: bytes, *, expected: str | None, keep: str) -> str:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._version() != expected:
                raise Lost(f"{self.path} was written by somebody else", overtaken=True)
            if expected is not None and keep:
                self._keep(keep)
            write_whole(self.path, content, point="state")
            return self._version() or ""
        except OSError as exc:
            raise NotWritten(exc.strerror or str(exc), NEXT_STEP) from exc

    def append(self, log: Log, seq: int, records: Sequence[bytes], before_durable: Callable[[], None]) -> None:
        if seq == 1:
            self.journal(
                log
            )  # what a writer left that died in its first line must not become the beginning of this one
        try:
            new = not self.journal_path.exists()
            descriptor = os.open(self.journal_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                head = _head(log) if new else b""
                _write_all(descriptor, head + to_lines(records))
                before_durable()
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                sync_folder(self.folder)
        except OSError as exc:
            raise NotWritten(f"{self.journal_path}: {exc.strerror or exc}", NEXT_STEP) from exc

    def close_journal(self, log: Log, seq: int) -> bool:
        return True  # nobody ever takes this lock from a process that lives

    def journal(self, log: Log) -> Journal:
        self._cut_torn_end()
        found = self._read_journal()
        if found.log == log:
            return found
        if found.log is not None:
            if found.log.lineage != log.lineage or found.log.serial > log.serial:
                raise Lost(f"{self.journal_path} belongs to serial {found.log.serial} of {found.log.lineage}")
            self._remove_journal()  # of an older snapshot: its writer died before it removed this
        return Journal(log)

    def _cut_torn_end(self) -> None:
        """What was being written when a writer died, or its disk was full, must not become the beginning of the next line."""
        try:
            content = self.journal_path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole == 0:
                self.journal_path.unlink()
            elif whole < len(content):
                os.truncate(self.journal_path, whole)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise NotWritten(f"{self.journal_path}: {exc.strerror or exc}", NEXT_STEP) from exc

    def drop_journal(self, log: Log) -> None:
        self._remove_journal()

    def _remove_journal(self) -> None:
        try:
            self.journal_path.unlink(missing_ok=True)
            sync_folder(self.folder)
        except OSError as exc:
            raise NotWritten(f"{self.journal_path}: {exc.strerror or exc}", NEXT_STEP) from exc

    def acquire(self, holder: Holder) -> Lease:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        try:
            _flock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(holding.to_json(holder)) + "\n").encode(), 0)
        except BlockingIOError:
            owner = _owner(descriptor)
            os.close(descriptor)
            raise Held(owner) from None
        except OSError as exc:
            os.close(descriptor)
            raise self._unwritable(exc) from exc
        return FileLease(descriptor)

    def holder(self) -> Holder | None:
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._unwritable(exc) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            return _owner(descriptor) or Holder("", "", "somebody", "", 0, "")
        finally:
            os.close(descriptor)

    def take_from(self, lock_id: str, holder: Holder) -> Lease:
        # Only a kernel that forgot about a dead process, as on some network file systems, would keep a lock that nobody holds.
        found = self.holder()
        if found is None:
            raise Lost("nobody holds it")
        raise FalplanError(
            "The lock can't be taken",
            f"{holding.describe(found)} The lock of a folder is the kernel's: end that process on {found.host}, and it is gone.",
        )

    def backups(self) -> list[Kept]:
        found = []
        for path in sorted(self.kept.glob("*.json"), reverse=True):
            stat = path.stat()
            found.append(Kept(path.name, backup_serial(path.name), stat.st_size, clock.timestamp(stat.st_mtime)))
        return found

    def read_backup(self, name: str) -> bytes | None:
        if name not in {k.name for k in self.backups()}:
            return None
        return (self.kept / name).read_bytes()

    def _keep(self, name: str) -> None:
        self.kept.mkdir(exist_ok=True)
        copy = self.kept / name
        if not copy.exists():
            os.link(self.path, copy)  # the snapshot is replaced by rename, so a second name keeps the old content
        for old in sorted(self.kept.glob("state.*.json"))[:-BACKUPS]:
            old.unlink()

    def _version(self) -> str | None:
        try:
            return _version(self.path.stat())
        except FileNotFoundError:
            return None

    def _read_journal(self) -> Journal:
        try:
            content = self.journal_path.read_bytes()
        except FileNotFoundError:
            return Journal()
        except OSError as exc:
            raise StateUnreadable("The journal can't be read", f"{self.journal_path}: {exc.strerror or exc}.") from exc
        head, *lines = content.split(b"\n")
        if not lines:
            return Journal()  # torn before its first entry was durable: nothing had begun
        log = _log_of_head(head)
        if log is None:
            what = "`falplan state repair` shows what can be done"
            detail = f"{self.journal_path}:1: not the head of a journal. {what}; copies of earlier states are in {self.kept}."
            raise StateUnreadable("The journal is damaged", detail)
        if not lines[-1]:
            lines.pop()
        # What has its newline was written whole: the file does not grow before its content is there.
        torn = not content.endswith(b"\n")
        return Journal(log, tuple(enumerate(map(from_line, lines), 1)), len(lines) + 1, may_be_torn=torn)

    def _unwritable(self, error: OSError) -> FalplanError:
        detail = f"{self.folder}: {error.strerror or error}. Nothing was touched. Make room or repair the disk, then try again."
        return FalplanError("The state's folder can't be written", detail)


def _head(log: Log) -> bytes:
    """The first line: whose journal it is, with a checksum. One that named an older snapshot by mistake would be passed over."""
    body: JsonObject = {"lineage": log.lineage, "serial": log.serial}
    return (json.dumps({**body, "checksum": digest(body)[:16]}) + "\n").encode()


def _log_of_head(line: bytes) -> Log | None:
    """What a first line says; None if it is damaged. Earlier releases wrote it without a checksum."""
    try:
        body = json.loads(line)
        log = Log(str(body["lineage"]), int(body["serial"]))
        checksum = body.pop("checksum", None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return log if body.keys() == {"lineage", "serial"} and checksum in (None, digest(body)[:16]) else None


def _flock(descriptor: int) -> None:
    """Lock, or BlockingIOError. Whoever only asks for the holder locks for an instant, too, while no name is in the file."""
    for _ in range(5):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _owner(descriptor) is not None:
                raise
            time.sleep(0.01)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _owner(descriptor: int) -> Holder | None:
    try:
        return replace(holding.from_json(json.loads(os.pread(descriptor, 4096, 0))), heartbeat="")
    except (ValueError, TypeError, AttributeError, OSError):
        return None
