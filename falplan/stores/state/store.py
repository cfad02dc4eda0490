"""State on top of any backend: rendered, checked, journaled, locked, kept in backups. Knows no place.

Why two writers never interleave, whatever clocks and pauses do
---------------------------------------------------------------
A lease tells when somebody *may* take a lock. It is never the reason why a write is right: a holder that was stopped, swapped out or cut
off can wake up at any time and believe that it still holds the lock. Safety comes from the writes alone.

The journal is a log. Its entries are numbered without gaps, and a number is taken once and for all, by compare-and-set: of two writers
that append at the same number, one is refused. A snapshot is written by compare-and-set too, against the version that was read.

Where the lock and the state are rows of one database, every write is a transaction that first looks whether the lock's row still
carries the writer's id, and locks that row against change until it commits. Taking the lock changes the row. So a write either
commits before the lock is taken, and the new holder reads it, or it is refused.

Where they are separate objects (S3), nothing can be written to one on condition of another. There, whoever takes the lock of a holder that
did not give it back (`Lease.must_fence`) does this before anything else:

1. Read the snapshot (serial N, version v) and its journal (entries 1 … k).
2. Write a closing mark at k+1. That is the only number at which the former holder can append, because it numbers without gaps and
   its log is this one. If an entry stands there by now, it was faster: start again at 1, having read that entry. Once the mark
   stands, every append of the former holder to this journal is refused, for good: marks are never removed.
3. Write a snapshot N+1 made of N and the journal, on condition that the version is v. If it is not, the former holder wrote its own
   first: start again at 1. Once this is written, every snapshot of the former holder is refused, because it names v or an older one.

Whatever the former holder reads from now on does not help it either: after each read a holder asks whether the lock still carries its
id, and uses nothing of what it read if it does not. So all that it writes on condition of was read, or written by itself, before the
lock was taken from it; and once it was refused, it stays refused. A journal that was closed is never written to again, by anybody.
Who could not fence does not give the lock back: it runs out, and the next one has to fence.

Each round that starts again means that the former holder got something done, and the new one reads it: nothing is lost. When step 3
succeeded, everything that the former holder has is spent. It learns so from its next write, before its next step, since every step is
begun in the journal. Nothing in this argument mentions time.

With nothing saved yet a note takes the snapshot's place in step 3, and the former holder's first snapshot, which is written on
condition that there is none, is refused like any other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from falplan import clock
from falplan.core.errors import FalplanError, Locked, Refused, StateNotSaved
from falplan.core.state import (
    Entry,
    State,
    StateUnreadable,
    render_entry,
    render_state,
    replay,
)
from falplan.core.state_integrity import problems
from falplan.core.state_repair import Remains
from falplan.sdk.failpoints import fp
from falplan.stores.state.backend import Backend, Held, Lease, Loaded, Log, Lost, NotWritten, backup_name
from falplan.stores.state.broken import log_told, packed, unpacked
from falplan.stores.state.holding import describe, is_alive_here, name_of, new_holder
from falplan.stores.state.interface import Holder, Kept
from falplan.stores.state.marker import MARKER
from falplan.stores.state.missing import missing, why_missing
from falplan.stores.state.moved import Moved, is_nothing, moved_note, nothing_note, parse_moved
from falplan.stores.state.reading import Reader
from falplan.stores.state.seal import NoSeal, Seal
from falplan.stores.state.seen import SeenSerials, StateOlder

ROUNDS = 20
"""Tries to fence a former holder that keeps on writing."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What stands in the place, as far as the holder of the lock knows.

    `end` is the next number of the journal; `note`: no state stands there, but where it went.
    """

    version: str | None
    log: Log | None
    end: int = 1
    entries: int = 0
    closed: bool = False
    note: bool = False


@dataclass(slots=True)
class _Waiting:
    base: State
    entry: Entry
    error: StateNotSaved | None = None
    taken: bool = False
    durable: bool = False


@dataclass(slots=True)
class _Queue:
    """Entries of several threads: whoever writes takes those of all who wait along."""

    mutex: threading.Lock = field(default_factory=threading.Lock)
    writing: threading.Lock = field(default_factory=threading.Lock)
    waiting: list[_Waiting] = field(default_factory=list)


def _advice(waited: float) -> str:
    if waited:
        return f"It was not free within {waited:g} s: try again when that is done, or wait longer."
    return "Try again when that is done, or wait with --lock-timeout SECONDS."


class Store:
    """The `StateStore` of every backend. One object serves one process; `append` may be called from several threads."""

    def __init__(
        self,
        backend: Backend,
        seal: Seal | None = None,
        saved: Callable[[State], None] | None = None,
        seen: SeenSerials | None = None,
    ) -> None:
        self.backend, self._seal, self._saved, self._seen = backend, seal or NoSeal(), saved, seen
        self._lease: Lease | None = None
        self._lost: Lost | None = None
        self._known: _Known | None = None
        self._queue = _Queue()
        self.remembered = ""
        self.on_wait: Callable[[str], None] = lambda holder: None
        self._reader = Reader(backend, self._seal)
        self._sound: State | None = None

    @property
    def where(self) -> str:
        return self.backend.where

    def read(self, project: str) -> State | None:
        """The state with the journal's entries applied; None if nothing was ever applied here.

        Raises:
            StateUnreadable: damaged, newer, another project's, moved, or missing although there was one.
            Refused: encrypted with a key that is not here.
            StateOlder: this machine has seen a newer one.
            FalplanError: the place can't be reached.
        """
        state = self._look()
        if state is None and (why := self._missing()):
            raise missing(why, MARKER)
        if state is not None and state.project != project:
            raise StateUnreadable(
                "The state belongs to another project",
                f'{self.where} is the state of project "{state.project}"; the spec says "{project}". '
                "Destroy with the old name first, or give this project a state of its own under `state:`.",
            )
        return self._not_older(state) if state is not None and self._seen is not None else state

    def _missing(self) -> str:
        return why_missing(self.where, self.backend.backups_where, self.backend.backups(), self.remembered)

    def _not_older(self, state: State) -> State:
        assert self._seen is not None  # noqa: S101 - looked at by the caller
        seen = self._seen.newest(state.lineage)
        if seen is not None and state.serial < seen.serial:
            # Somebody may have saved, and had it noted, between our reading and our looking at the note: what is read now is no older.
            state = self._look() or state
            if state.serial < seen.serial:
                raise StateOlder(state, self.where, seen)
        self._seen.note(state, self.where)
        return state

    def has_journal(self) -> bool:
        """Whether steps of an apply stand in the journal that no snapshot holds yet."""
        if self._lease is None or self._known is None:
            self._look()
        return bool(self._known and self._known.entries)

    @contextmanager
    def locked(self, operation: str, *, timeout: float = 0) -> Iterator[None]:
        """Hold the lock. A holder that died, or lost its lease, holds nothing.

        Raises:
            Locked: somebody else held it for `timeout` seconds; the message says who, where, since when.
            FalplanError: the place can't be written; nothing was touched.
        """
        if self._lease is not None:
            raise RuntimeError("this process holds the lock already")
        self._seal.prepare()
        lease = self._acquire(new_holder(operation), timeout)
        fp("state_lock.take.after_take")
        with self._holding(lease):
            yield

    @contextmanager
    def _holding(self, lease: Lease) -> Iterator[None]:
        self._lease, self._known, self._lost = lease, None, None
        safe = not lease.must_fence
        try:
            if not safe:
                safe = self._fence()
            yield
        finally:
            self._lease = self._known = None
            fp("state_lock.release.before_release")
            lease.release(give_back=safe)

    def _acquire(self, holder: Holder, timeout: float) -> Lease:
        give_up, told = clock.monotonic() + timeout, False
        fp("state_lock.take.before_take")
        while True:
            try:
                return self.backend.acquire(holder)
            except Held as exc:
                left = give_up - clock.monotonic()
                if left <= 0:
                    raise Locked("The state is locked", self._held_by(exc.holder, waited=timeout)) from None
                if not told:
                    self.on_wait(describe(exc.holder))
                    told = True
                time.sleep(min(self.backend.poll, left))

    def _held_by(self, holder: Holder | None, waited: float) -> str:
        force = ""
        if holder and holder.lock_id and not is_alive_here(holder):
            force = f" If that process is gone for good: falplan force-unlock {holder.lock_id}."
        return f"{describe(holder)} {_advice(waited)}{force} State: {self.where}"

    def _fence(self) -> bool:
        """Make everything useless that a former holder may still have. See the module's docstring. False if the state can't be read."""
        for _ in range(ROUNDS):
            try:
                state = self._look()
            except StateUnreadable:
                return False  # nothing is read and nothing written here, and what the former holder writes is not overwritten
            known = self._known
            assert known is not None  # noqa: S101 - _look sets it
            fp("state_lock.fence.before_close")
            if known.log is not None and not known.closed and not self.backend.close_journal(known.log, known.end):
                continue
            fp("state_lock.fence.before_write")
            try:
                if state is None:
                    note = self._seal.seal(nothing_note(clock.new_uuid()), kind="state", serial=0)
                    self.backend.write(note, expected=known.version, keep="")
                    self._known = None
                else:
                    self._write(state)
            except Lost:
                continue
            except NotWritten as exc:
                raise FalplanError("The lock could not be taken", f"{exc.why}. {exc.next_step}") from exc
            fp("state_lock.fence.after_write")
            return True
        raise FalplanError("The lock could not be taken", f"Somebody else goes on writing to {self.where}. Try again.")

    def append(self, base: State, entry: Entry) -> None:
        """Make one step of an apply durable before going on. `base` is the snapshot that the journal belongs to.

        Entries that several threads bring at a time are written together.

        Raises:
            StateNotSaved: the entry is not durable, or the lock was lost; the step must not be taken.
        """
        mine = _Waiting(base, entry)
        with self._queue.mutex:
            self._queue.waiting.append(mine)
        with self._queue.writing:
            if not mine.taken:
                with self._queue.mutex:
                    batch, self._queue.waiting = self._queue.waiting, []
                self._write_batch(batch)
        if not mine.durable:
            raise mine.error or StateNotSaved(
                "State could not be saved", f"{entry.address} ({entry.kind}) is not recorded."
            )

    def _write_batch(self, batch: Sequence[_Waiting]) -> None:
        for waiting in batch:
            waiting.taken = True
        try:
            self._append([w.entry for w in batch], Log(batch[0].base.lineage, batch[0].base.serial))
            for waiting in batch:
                waiting.durable = True
        except (Lost, NotWritten, FalplanError, OSError) as exc:
            self._remember(exc)
            self._known = None  # nobody knows how much of it is durable: look before the next one
            for waiting in batch:
                waiting.error = self._not_appended(waiting.entry, exc)
                waiting.error.__cause__ = exc

    def _append(self, entries: Sequence[Entry], log: Log) -> None:
        self._still_ours()
        known = self._known
        if known is None or known.log != log:
            found = self.backend.journal(log)
            if found.closed:
                raise Lost("somebody else took the lock and closed the journal", overtaken=True)
            self._check()
            known = _Known(known.version if known else None, log, found.end, len(found.records))
        if known.closed:
            raise Lost("the journal was closed", overtaken=True)
        records = [
            self._seal.seal(render_entry(e).rstrip("\n").encode(), kind=f"journal/{n}", serial=log.serial)
            for n, e in enumerate(entries, known.end)
        ]
        for entry in entries:
            fp(f"journal.{entry.kind}.before_write")

        def before_durable() -> None:
            for entry in entries:
                fp(f"journal.{entry.kind}.before_fsync")

        self.backend.append(log, known.end, records, before_durable)
        self._known = replace(known, end=known.end + len(records), entries=known.entries + len(records))
        for entry in entries:
            fp(f"journal.{entry.kind}.after_fsync")

    def _not_appended(self, entry: Entry, error: Exception) -> StateNotSaved:
        what = f"{entry.address} ({entry.kind}) is not recorded."
        if isinstance(error, Lost):
            return self._lock_lost(error, what)
        why, next_step = _reason(error)
        return StateNotSaved(
            "State could not be saved",
            f"{_placed(self.where, why)}. {what} {next_step} The next apply asks what became of it.",
        )

    def save(self, state: State) -> State:
        """Write a new snapshot with the next serial and drop the journal. Returns what was written.

        Raises:
            StateNotSaved: the old snapshot and the journal are untouched, so nothing is lost.
        """
        try:
            return self._write(state)
        except Lost as exc:
            self._remember(exc)
            self._known = None
            raise self._lock_lost(exc, "What was done before that stands in its journal.") from exc
        except (NotWritten, FalplanError, OSError) as exc:
            # Also what keeps it from being looked at first, such as credentials that expired: something may have been done by now.
            self._known = None
            why, next_step = _reason(exc)
            raise StateNotSaved(
                "State could not be saved",
                f"{_placed(self.where, why)}. What was done stands in its journal, which the next falplan command reads. "
                f"{next_step} Then run `falplan apply` again.",
            ) from exc

    def _write(self, state: State) -> State:
        self._still_ours()
        self._refuse_unsound(state)
        if self._known is None:
            self._load()
            self._check()
        known = self._known
        assert known is not None  # noqa: S101 - _load sets it
        if known.log and known.log.lineage == state.lineage and known.log.serial > state.serial:
            raise Lost(
                f"serial {known.log.serial} was written meanwhile, and this is made from {state.serial}", overtaken=True
            )
        saved = replace(state, serial=state.serial + 1)
        self._put(render_state(saved).encode(), Log(saved.lineage, saved.serial), known)
        if self._seen is not None:
            self._seen.note(saved, self.where)
        if self._saved is not None:
            self._saved(saved)
        return saved

    def _put(self, plain: bytes, log: Log, known: _Known) -> None:
        content = self._seal.seal(plain, kind="state", serial=log.serial)
        keep = backup_name(known.log.serial) if known.log and not known.note else ""
        version = self.backend.write(content, expected=known.version, keep=keep)
        fp("state.save.before_journal_removed")
        if known.log is not None:
            self.backend.drop_journal(known.log)
        self._known = _Known(version, log)

    def copy_in(self, state: State) -> None:
        """Write a snapshot as it is, with its own serial: what a migration does. What stood here is kept as a backup.

        Raises:
            StateNotSaved: it is not there, or another writer was faster; what stood here is whole.
        """
        try:
            self._still_ours()
            self._refuse_unsound(state)
            self._put(render_state(state).encode(), Log(state.lineage, state.serial), self._at())
        except (Lost, NotWritten, OSError) as exc:
            self._known = None
            raise StateNotSaved("State could not be saved", f"{self.where}: {_reason(exc)[0]}.") from exc

    def leave_note(self, state: State, where: str) -> None:
        """Put a note in the place of the snapshot that says where the state went. The snapshot itself is kept as a backup.

        Raises:
            StateNotSaved: the snapshot stands here as before.
        """
        try:
            self._still_ours()
            self._put(moved_note(state, where), Log(state.lineage, state.serial), self._at())
        except (Lost, NotWritten, OSError) as exc:
            self._known = None
            raise StateNotSaved("State could not be saved", f"{self.where}: {_reason(exc)[0]}.") from exc

    def moved_to(self) -> Moved | None:
        """The note that a migration left here; None if the state is here, or never was."""
        snapshot = self.backend.load(self._reader.log_of).snapshot
        return parse_moved(self._reader.open(snapshot.content, self.where)) if snapshot else None

    def peek(self) -> State | None:
        """The state that is here, whatever project it is of; None if there is none, or a note that it went elsewhere.

        Raises:
            StateUnreadable: as `read`.
        """
        return None if self.moved_to() else self._load()

    def _at(self) -> _Known:
        """What stands here, whatever it is: also a note that the state went elsewhere."""
        loaded = self.backend.load(self._reader.log_of)
        self._check()
        if loaded.snapshot is None:
            return _Known(None, None)
        text = self._reader.open(loaded.snapshot.content, self.where)
        if is_nothing(text):
            return _Known(loaded.snapshot.version, None)
        log, note = self._reader.log_of(loaded.snapshot.content), parse_moved(text) is not None
        return _Known(loaded.snapshot.version, log, loaded.journal.end, note=note)

    def _refuse_unsound(self, state: State) -> None:
        found = problems(state)
        if found:
            raise NotWritten(
                f"what was to be saved does not hold together: {'; '.join(found[:5])}",
                "That is a bug of falplan: report it. The state as it was last saved is untouched.",
            )

    def _still_ours(self) -> None:
        if self._lease is None:
            if self.backend.needs_lock:
                raise RuntimeError("state is written without its lock")
            self._known = None
            return
        lost = self._lost or self._lease.lost()
        if lost is not None:
            raise lost

    def _check(self) -> None:
        """What was read just now is good to write on condition of only if the lock was ours after it was read."""
        if self._lease is not None:
            self._still_ours()
            self._lease.check()

    def _remember(self, error: Exception) -> None:
        """Who was refused once stays refused until it takes the lock again."""
        if isinstance(error, Lost) and self._lease is not None:
            self._lost = error

    def _look(self) -> State | None:
        """Load, and as the holder of the lock make sure that it still is ours."""
        try:
            state = self._load()
            self._check()
        except Lost as exc:
            self._remember(exc)
            raise self._lock_lost(exc, "Nothing that it read is used.") from exc
        return state

    def _lock_lost(self, lost: Lost, what: str) -> StateNotSaved:
        to = f" to {name_of(lost.to)}" if lost.to else ""
        reads = (
            "The lock's new holder has read what was recorded; once it is done,"
            if lost.to
            else "What was recorded is there:"
        )
        error = StateNotSaved(
            f"The lock was lost{to}",
            f"{self.where}: {lost}. {what} Nothing more is done by this process. {reads} `falplan plan` shows how things stand.",
        )
        error.overtaken = lost.overtaken
        return error

    def holder(self) -> Holder | None:
        """Who holds the lock now; None if nobody does."""
        return self.backend.holder()

    def force_unlock(self, lock_id: str) -> None:
        """Take the lock from its holder, whose later writes are refused.

        Raises:
            Refused: nobody holds it, another id holds it, or the holder is a living process of this machine.
        """
        held = self.backend.holder()
        if held is None:
            raise Refused("The state is not locked", f"Nobody holds the lock of {self.where}.")
        if held.lock_id != lock_id:
            raise Refused("Another lock is held", f"{describe(held)} Nothing was unlocked.")
        if is_alive_here(held):
            raise Refused(
                "The holder of the lock lives",
                f"{describe(held)} It is a process of this machine: end it (kill {held.pid}), and its lock is gone.",
            )
        self._seal.prepare()
        try:
            lease = self.backend.take_from(lock_id, new_holder("force-unlock"))
        except Held as exc:
            raise Refused("Another lock is held", f"{describe(exc.holder)} Nothing was unlocked.") from exc
        except Lost:
            raise Refused("The state is not locked", f"Its holder gave the lock of {self.where} back.") from None
        with self._holding(lease):
            pass

    def backups(self) -> list[Kept]:
        """Earlier snapshots, newest first."""
        return self.backend.backups()

    def read_backup(self, name: str) -> State:
        """One of them.

        Raises:
            StateUnreadable: it is damaged. Refused: there is none of that name.
        """
        sealed = self.backend.read_backup(name)
        if sealed is None:
            raise Refused("No such backup", f"{self.backend.backups_where} has no {name}.")
        return self._reader.parse(sealed, f"{self.backend.backups_where}: {name}")

    def examine(self) -> Remains:
        """Whatever stands there, sound or not. Raises for nothing that is wrong with it.

        Raises:
            FalplanError: the place, or what keeps the key, can't be reached.
        """
        loaded = self._found()
        journal = self._reader.remaining(loaded.journal)
        if loaded.snapshot is None:
            return Remains(None, journal, missing=loaded.remains or self._missing())
        try:
            text = self._reader.open(loaded.snapshot.content, self.where)
        except StateUnreadable as exc:
            return Remains(None, journal, unreadable=f"{exc.summary}: {exc.detail}")
        except Refused as exc:
            return Remains(None, journal, locked_away=f"{exc.summary}. {exc.detail}")
        if is_nothing(text):
            return Remains(None, missing=self._missing())
        moved = parse_moved(text)
        if moved is not None:
            return Remains(None, locked_away=f"The state is kept elsewhere: {moved.text}")
        return Remains(text, journal, lineage=log_told(loaded.snapshot.content).lineage)

    def _found(self) -> Loaded:
        try:
            return unpacked(self.backend.load(log_told))
        except StateUnreadable:
            # The journal can't be taken apart at all: the snapshot is looked at without one.
            return unpacked(self.backend.load(lambda _: Log("", -1)))

    def replace_broken(self, state: State, *, keep_as: str) -> State:
        """Write a snapshot with the next serial in the place of whatever stands there, which is kept as a backup of that name.

        Raises:
            StateNotSaved: what stood there still stands.
        """
        try:
            self._still_ours()
            self._refuse_unsound(state)
            loaded = self._found()
            version = loaded.snapshot.version if loaded.snapshot else None
            if loaded.journal.log is not None:
                # Two writes: the first puts snapshot and journal into one document, the second keeps that as the backup.
                version = self.backend.write(packed(loaded), expected=version, keep=f"{keep_as}.snapshot.json")
                fp("state.repair.before_journal_removed")
                self.backend.drop_journal(loaded.journal.log)
            fp("state.repair.before_write")
            saved = replace(state, serial=state.serial + 1)
            content = self._seal.seal(render_state(saved).encode(), kind="state", serial=saved.serial)
            self.backend.write(content, expected=version, keep=f"{keep_as}.json")
        except (Lost, NotWritten, OSError) as exc:
            why, next_step = _reason(exc)
            raise StateNotSaved("State could not be saved", f"{self.where}: {why}. {next_step}") from exc
        finally:
            self._known = None
        if self._seen is not None:
            self._seen.note(saved, self.where)
        return saved

    def _load(self) -> State | None:
        """The state as it stands there, whatever project it is of; remembers what it was for the next write."""
        loaded = self.backend.load(self._reader.log_of)
        if loaded.snapshot is None:
            self._known = _Known(None, None)
            if loaded.remains:
                why = f"There is none in {self.where}, and {loaded.remains} belongs to one"
                raise missing(f"{why}. Copies of earlier states are in {self.backend.backups_where}", MARKER)
            return None
        if is_nothing(self._reader.open(loaded.snapshot.content, self.where)):
            self._known = _Known(loaded.snapshot.version, None)
            return None
        snapshot = self._reader.parse(loaded.snapshot.content, self.where)
        log = Log(snapshot.lineage, snapshot.serial)
        entries = self._reader.entries(loaded.journal, snapshot)
        mine = loaded.journal.log == log
        end, closed = (loaded.journal.end, loaded.journal.closed) if mine else (1, False)
        self._known = _Known(loaded.snapshot.version, log, end, len(loaded.journal.records), closed)
        state = replay(snapshot, entries)
        found = problems(state) if entries or self._sound is not snapshot else []
        if not entries and not found:
            self._sound = snapshot  # the same object as long as the same bytes are read
        if found:
            raise StateUnreadable(
                "The state does not hold together", f"{self.where}: {'; '.join(found[:5])}. {self._reader.restore()}"
            )
        return state


def _placed(where: str, why: str) -> str:
    """The reason with its place, named once."""
    return why if where in why else f"{where}: {why}"


def _reason(error: Exception) -> tuple[str, str]:
    """Why something could not be written, and what to do."""
    if isinstance(error, NotWritten):
        return error.why, error.next_step
    if isinstance(error, FalplanError):
        return f"{error.summary[:1].lower()}{error.summary[1:]}", error.detail
    if isinstance(error, OSError):
        return str(error.strerror or error), "Make room or repair the disk. Keep what is there."
    return str(error), ""
