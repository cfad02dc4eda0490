"""State in PostgreSQL: a row with a version, its journal and backups, and a lock row that every write looks at first.

Whoever holds the lock also holds an advisory lock, named after the lock's id, in one session that lasts as long: once that session is gone,
the lock is free at once. If the session lives but says nothing for longer than its lease, by the server's clock, the lock can be taken too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from falplan.core.errors import FalplanError
from falplan.sdk.failpoints import fp
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
from falplan.stores.state.heartbeat import Heartbeat
from falplan.stores.state.interface import Holder, Kept
from falplan.stores.state.postgres_client import Where, connect, told
from falplan.stores.state.postgres_tables import MAKE, statements

if TYPE_CHECKING:
    import psycopg

NEXT_STEP = "Look at the database and the network."
GONE = "the session of the database that held the lock is gone"


class SessionLease:
    """A lock row that carries our id, and the session whose advisory lock shows that we live."""

    must_fence = False
    """Every write looks at the lock row: a former holder's are refused by it."""

    def __init__(self, rows: PostgresRows, session: psycopg.Connection[Any], holder: Holder, lease: float) -> None:
        self.session, self.holder = session, holder
        self.mutex = threading.Lock()
        self._rows = rows
        self._released = False
        self._heartbeat = Heartbeat(self._beat, lease)

    def lost(self) -> Lost | None:
        return self._heartbeat.lost

    def check(self) -> None:
        return  # every write looks at the lock's row

    def release(self, *, give_back: bool = True) -> None:
        if self._released:
            return
        self._released = True
        self._heartbeat.stop()
        self._rows.let_go(self)

    def _beat(self) -> None:
        import psycopg

        with self.mutex:
            try:
                done = self._rows.run(self.session, "beat", lock=self.holder.lock_id).rowcount
            except psycopg.Error as exc:
                if self.session.broken or self.session.closed:
                    raise self._rows.gone() from exc
                raise told(exc, self._rows.place) from exc
        if not done:
            raise Lost("its lease ran out", self._rows.taker())


class PostgresRows:
    """The backend. `lease` in seconds."""

    poll = 0.5
    needs_lock = True

    def __init__(self, where: Where, lease: float) -> None:
        self.place, self._seconds = where, lease
        self._sql = statements(where.schema, where.table)
        self._lease: SessionLease | None = None

    @property
    def where(self) -> str:
        return self.place.text

    @property
    def backups_where(self) -> str:
        return f"{self.where}, table {self.place.schema}.{self.place.table}_backup"

    def journal_place(self, log: Log, seq: int) -> str:
        return f"{self.where}, journal of serial {log.serial}, entry {seq}"

    def run(self, session: psycopg.Connection[Any], name: str, **given: Any) -> psycopg.Cursor[Any]:
        """One of the statements, about this state's rows."""
        return session.execute(self._sql[name], {"name": self.place.name, "seconds": self._seconds, **given})

    @contextmanager
    def _reading(self) -> Iterator[psycopg.Connection[Any]]:
        """A session for one look: another than the lock's, which a loss of that one leaves alone."""
        import psycopg

        session = connect(self.place, limit=self._seconds)
        try:
            session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            session.read_only = True
            with session.transaction():
                yield session
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            raise _NoTables from None
        except psycopg.Error as exc:
            raise told(exc, self.place) from exc
        finally:
            session.close()

    def load(self, log_of: Callable[[bytes], Log]) -> Loaded:
        try:
            with self._reading() as session:
                row = self.run(session, "read").fetchone()
                if row is None:
                    left = self.run(session, "remains").fetchone()
                    return Loaded(None, Journal(), f"{self.where}: {left[0]}" if left else "")
                content, version = bytes(row[0]), str(row[1])
                return Loaded(Snapshot(content, version), self._journal(session, log_of(content)))
        except _NoTables:
            return Loaded(None, Journal())

    def journal(self, log: Log) -> Journal:
        with self._reading() as session:
            return self._journal(session, log)

    def _journal(self, session: psycopg.Connection[Any], log: Log) -> Journal:
        rows = self.run(session, "journal", lineage=log.lineage, serial=log.serial).fetchall()
        records = tuple((int(seq), bytes(record)) for seq, record in rows)
        return Journal(log, records, records[-1][0] + 1 if records else 1)

    def write(self, content: bytes, *, expected: str | None, keep: str) -> str:
        with self._writing() as (session, lock), session.transaction():
            if not self.run(session, "ours", lock=lock).fetchone():
                raise Lost("its lease ran out", self.taker())
            if expected is None:
                row = self.run(session, "first", content=content).fetchone()
            else:
                if keep:
                    self.run(session, "keep", version=int(expected), file=keep)
                row = self.run(session, "next", content=content, version=int(expected)).fetchone()
            if row is None:
                raise Lost("the state was written by somebody else", overtaken=True)
            self.run(session, "prune", most=BACKUPS)
            fp("postgres.write.before_commit")
        fp("postgres.write.after_commit")
        return str(row[0])

    def append(self, log: Log, seq: int, records: Sequence[bytes], before_durable: Callable[[], None]) -> None:
        import psycopg

        numbers = list(range(seq, seq + len(records)))
        given = {"lineage": log.lineage, "serial": log.serial, "seqs": numbers, "records": list(records)}
        before_durable()
        with self._writing() as (session, lock):
            try:
                done = self.run(session, "append", lock=lock, **given).rowcount
            except psycopg.errors.UniqueViolation:
                raise Lost("somebody else wrote to the journal", self.taker(), overtaken=True) from None
        if done != len(records):
            raise Lost("its lease ran out", self.taker())

    def close_journal(self, log: Log, seq: int) -> bool:
        return True  # the lock row refuses a former holder's writes

    def drop_journal(self, log: Log) -> None:
        with self._writing() as (session, _):
            self.run(session, "drop", lineage=log.lineage, serial=log.serial)

    @contextmanager
    def _writing(self) -> Iterator[tuple[psycopg.Connection[Any], str]]:
        """The lock's own session, which is never opened again once it is lost: a lock does not come back."""
        import psycopg

        lease = self._lease
        if lease is None:
            raise RuntimeError("state is written without its lock")
        with lease.mutex:
            try:
                yield lease.session, lease.holder.lock_id
            except psycopg.Error as exc:
                if lease.session.broken or lease.session.closed:
                    raise self.gone() from exc
                error = told(exc, self.place)
                raise NotWritten(f"{error.summary}: {error.detail}".rstrip(". "), NEXT_STEP) from exc

    def gone(self) -> Lost:
        """That the session is gone; and why nobody gets in any more, where that is so, as after a password was changed."""
        try:
            return Lost(GONE, self.holder())
        except FalplanError as exc:
            return Lost(f"{GONE}. {exc.summary}: {exc.detail.rstrip('. ')}")

    def acquire(self, holder: Holder) -> Lease:
        return self._take(holder, None)

    def take_from(self, lock_id: str, holder: Holder) -> Lease:
        return self._take(holder, lock_id)

    def _take(self, holder: Holder, from_id: str | None) -> Lease:
        import psycopg

        session = connect(self.place, limit=self._seconds)
        try:
            self._make_tables(session)
            fp("postgres.lock.before_take")
            with session.transaction():
                self.run(session, "lock_row")
                row = self.run(session, "look").fetchone()
                if row is None:
                    raise FalplanError("The lock is gone", f"{self.where}: its row was removed. Try again.")
                self._refuse_held(session, row, from_id)
                body = json.dumps(holding.to_json(holder))
                self.run(session, "take", lock=holder.lock_id, holder=body)
                fp("postgres.lock.before_commit")
            fp("postgres.lock.after_commit")
        except psycopg.errors.LockNotAvailable:
            session.close()
            raise Held(self.taker()) from None
        except psycopg.Error as exc:
            session.close()
            raise told(exc, self.place) from exc
        except BaseException:
            session.close()
            raise
        self._lease = SessionLease(self, session, holder, self._seconds)
        return self._lease

    def _make_tables(self, session: psycopg.Connection[Any]) -> None:
        if self.run(session, "tables").fetchone() == (True,):
            return
        with session.transaction():
            for name in MAKE:
                self.run(session, name)

    def _refuse_held(self, session: psycopg.Connection[Any], row: tuple[Any, ...], from_id: str | None) -> None:
        """Raises unless the lock is free, or its holder dead, silent, or the one that it is to be taken from."""
        lock_id, expired = row[0], bool(row[3])
        if from_id is not None:
            if lock_id is None:
                raise Lost("nobody holds it")
            if lock_id != from_id:
                raise Held(_holder(row))
            return
        if lock_id is None or expired:
            return
        if self.run(session, "dead", lock=lock_id).fetchone() != (True,):
            raise Held(_holder(row))

    def let_go(self, lease: SessionLease) -> None:
        """Give the lock back if it is still ours, and end its session, which frees it in any case."""
        import psycopg

        with lease.mutex:
            try:
                self.run(lease.session, "give_back", lock=lease.holder.lock_id)
            except psycopg.Error:
                pass  # the session is gone, and the lock with it
            finally:
                lease.session.close()
        if self._lease is lease:
            self._lease = None

    def holder(self) -> Holder | None:
        try:
            with self._reading() as session:
                row = self.run(session, "who").fetchone()
                if row is None or row[0] is None or self.run(session, "dead", lock=row[0]).fetchone() == (True,):
                    return None
                return _holder(row)
        except _NoTables:
            return None

    def taker(self) -> Holder | None:
        """Who has the lock now, if that can be said."""
        try:
            return self.holder()
        except FalplanError:
            return None

    def backups(self) -> list[Kept]:
        try:
            with self._reading() as session:
                rows = self.run(session, "backups").fetchall()
        except _NoTables:
            return []
        return [Kept(file, backup_serial(file), int(size), at) for file, size, at in rows]

    def read_backup(self, name: str) -> bytes | None:
        try:
            with self._reading() as session:
                row = self.run(session, "backup", file=name).fetchone()
        except _NoTables:
            return None
        return bytes(row[0]) if row else None


class _NoTables(Exception):
    """Nothing was ever kept here."""


def _holder(row: tuple[Any, ...]) -> Holder | None:
    try:
        return holding.from_json({**json.loads(row[1]), "heartbeat": row[2]})
    except (ValueError, TypeError):
        return None
