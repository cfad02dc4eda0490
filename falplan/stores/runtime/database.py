"""The control plane's SQLite file: one writer thread that commits in groups. Knows no tables."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import apsw

from falplan.core.errors import FalplanError
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.copies import copy_database
from falplan.stores.runtime.filesystems import refuse_network
from falplan.stores.runtime.schema import bring_up_to_date

T = TypeVar("T")
Work = Callable[[apsw.Connection], Any]

GROUP = 256
"""Most works in one commit."""

STORAGE_ERRORS = (
    apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError,
    apsw.BusyError, apsw.LockedError, apsw.NoMemError, apsw.InterruptError, apsw.ProtocolError, OSError,
)  # fmt: skip
"""What the disk or the system did, not the work. SQLite may have rolled back everything by then."""


class StoreUnavailable(FalplanError):
    """Nothing was stored: the disk is full or failing, or the database is closed. Trying again may help."""


@dataclass(slots=True)
class _Job:
    """A work and who waits for it: a loop, or, without one, a thread."""

    work: Work
    loop: asyncio.AbstractEventLoop | None
    future: asyncio.Future[Any] | concurrent.futures.Future[Any]
    value: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class Database:
    """An open database. One process owns the file. `read` and `backup` may be called from any thread."""

    path: Path
    _writer: apsw.Connection
    _reader: apsw.Connection
    _jobs: queue.SimpleQueue[_Job | None] = field(default_factory=queue.SimpleQueue)
    _reading: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _closed: bool = False

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open or create the file (0600) and bring it to this program's schema.

        Raises:
            Refused: a network file system, a file that is not ours, or a newer schema; nothing was touched.
            StoreUnavailable: the disk is full, failing or not writable.
        """
        refuse_network(path)
        try:
            path.touch(mode=0o600, exist_ok=True)
            bring_up_to_date(path)
            writer = _connect(path)
            reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            reader.set_busy_timeout(10_000)
        except (apsw.Error, sqlite3.Error, OSError) as exc:
            raise _unavailable(path, exc) from exc
        database = cls(path, writer, reader)
        database._thread = threading.Thread(target=database._write_groups, name="database writer", daemon=True)
        database._thread.start()
        return database

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` in the writer thread and return its value once it is durable.

        Works of many callers share one commit. An error in `work` undoes that work alone and is raised here. A caller that
        is cancelled meanwhile does not undo its work.

        Raises:
            StoreUnavailable: nothing of this work was stored.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Job(work, loop, future))
        return await future

    def write_from_thread(self, work: Callable[[apsw.Connection], T]) -> T:
        """The same for a thread that waits; never for the one that an event loop runs in.

        Raises:
            StoreUnavailable: nothing of this work was stored.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._put(_Job(work, None, future))
        return future.result()

    def _put(self, job: _Job) -> None:
        with self._closing:
            if self._closed:
                raise StoreUnavailable("The database is closed", str(self.path))
            self._jobs.put(job)

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query, as of the last commit.

        Raises:
            StoreUnavailable: the disk is failing, or the database is closed.
        """
        try:
            with self._reading:
                return list(self._reader.execute(sql, params))
        except (*STORAGE_ERRORS, apsw.ConnectionClosedError) as exc:
            raise _unavailable(self.path, exc) from exc

    def backup(self, target: Path) -> None:
        """Copy the database to a new file while it is in use. The copy is whole and checked, or there is none.

        Raises:
            StoreUnavailable: the copy could not be made.
        """
        try:
            copy_database(self.path, target)
        except (apsw.Error, OSError) as exc:
            raise _unavailable(target, exc) from exc

    def close(self) -> None:
        """Finish the works accepted so far, fold the log into the file and close. May be called again."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        if self._thread:
            self._thread.join()
        with self._reading:
            self._reader.close()
        with contextlib.suppress(apsw.Error):  # what is in the log stays there and is read at the next start
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._writer.close()

    # -- the writer thread --------------------------------------------------------------------------------------------

    def _write_groups(self) -> None:
        while True:
            first = self._jobs.get()
            if first is None:
                return
            group, last = [first], False
            while len(group) < GROUP and not last:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    last = True
                else:
                    group.append(job)
            self._commit(group)
            _answer(group)
            if last:
                return

    def _commit(self, group: list[_Job]) -> None:
        try:
            self._writer.execute("begin immediate")
            for job in group:
                self._run(job)
            fp("database.write.before_commit")
            self._writer.execute("commit")
            fp("database.write.after_commit")
        except (*STORAGE_ERRORS, apsw.Error) as exc:
            self._undo()
            unavailable = _unavailable(self.path, exc)
            for job in group:  # also those whose own work went well: nothing of the group is on disk
                job.error = unavailable

    def _run(self, job: _Job) -> None:
        self._writer.execute("savepoint work")
        try:
            job.value = job.work(self._writer)
        except STORAGE_ERRORS:
            raise
        except Exception as exc:  # noqa: BLE001 - the border of the thread: the caller gets it
            job.error = exc
            self._writer.execute("rollback to work")
        self._writer.execute("release work")

    def _undo(self) -> None:
        with contextlib.suppress(apsw.Error):
            if self._writer.in_transaction:
                self._writer.execute("rollback")


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(10_000)
    for pragma in ("journal_mode = wal", "synchronous = full", "foreign_keys = on", "temp_store = memory"):
        connection.execute(f"pragma {pragma}")
    return connection


def _answer(group: list[_Job]) -> None:
    """One wake-up for each event loop that waits for works of the group."""
    _resolve([job for job in group if job.loop is None])
    for loop in {job.loop for job in group if job.loop is not None}:
        jobs = [job for job in group if job.loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, jobs)


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.value)


def _unavailable(path: Path, exc: BaseException) -> StoreUnavailable:
    return StoreUnavailable(
        "The database can't be used",
        f"{path}: {exc or type(exc).__name__}. Nothing was stored. Check the disk's space and health, then try again.",
    )
