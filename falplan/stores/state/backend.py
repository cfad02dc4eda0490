"""What a store of state needs of the place where it keeps things: opaque bytes, compare-and-set, a lock. Knows nothing of State."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from falplan.stores.state.interface import Holder, Kept

BACKUPS = 10
"""Earlier snapshots that are kept."""


@dataclass(frozen=True, slots=True)
class Log:
    """Names one journal: that of the snapshot with this lineage and serial."""

    lineage: str
    serial: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was written last. `version` is another after every write, even of the same bytes."""

    content: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Journal:
    """Records of one log with their sequence numbers, which count from 1 and may have gaps.

    `log` is None where there is no journal. `end` is the number that the next record gets; a `closed` log gets none any more.
    `may_be_torn`: the last record may be half a record, because its writer died.
    """

    log: Log | None = None
    records: tuple[tuple[int, bytes], ...] = ()
    end: int = 1
    may_be_torn: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """Snapshot and journal as they were at one instant. Without a snapshot, `remains` names what is left of one that was there."""

    snapshot: Snapshot | None
    journal: Journal
    remains: str = ""


class Held(Exception):
    """Somebody else holds the lock; None if it can't be said who."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(holder)
        self.holder = holder


class Lost(Exception):
    """The lock is not ours any more, or somebody else wrote. Nothing was written. `to` is who has it now, if that is known.

    `overtaken`: somebody else goes on from what was recorded; otherwise the lock is gone, and perhaps nobody has it.
    """

    def __init__(self, why: str, to: Holder | None = None, *, overtaken: bool = False) -> None:
        super().__init__(why)
        self.to, self.overtaken = to, overtaken or to is not None


class NotWritten(Exception):
    """It is not known to be durable. `why` says what failed, `next_step` what to do about it. What was there before is whole."""

    def __init__(self, why: str, next_step: str) -> None:
        super().__init__(why)
        self.why, self.next_step = why, next_step


class Lease(Protocol):
    """A lock that is held.

    `must_fence`: a former holder may still be alive and hold versions that are good: whoever takes the lock closes its journal and
    writes the snapshot anew before anything else.
    """

    @property
    def must_fence(self) -> bool: ...

    def lost(self) -> Lost | None:
        """Why the lock is known to be gone; None while nothing speaks against it. Asks nobody."""
        ...

    def check(self) -> None:
        """Ask the place whether the lock is ours, unless every write asks that anyway.

        Raises:
            Lost: it is not.
        """
        ...

    def release(self, *, give_back: bool = True) -> None:
        """Give it back if it is still ours; or else say nothing more, so that it runs out. May be called again."""
        ...


class Backend(Protocol):
    """A place that keeps one state. Everything that writes is called by the holder of the lock, one call at a time.

    Every method raises FalplanError when the place can't be reached or read, unless it says otherwise.
    """

    @property
    def where(self) -> str:
        """The place, for people. Never a password."""
        ...

    @property
    def backups_where(self) -> str:
        """Where earlier snapshots are, for people."""
        ...

    def journal_place(self, log: Log, seq: int) -> str:
        """Where one record is, for people."""
        ...

    @property
    def poll(self) -> float:
        """Seconds between two tries to get the lock."""
        ...

    @property
    def needs_lock(self) -> bool:
        """Whether it refuses to write for who holds no lock."""
        ...

    def load(self, log_of: Callable[[bytes], Log]) -> Loaded:
        """Snapshot and journal at one instant. Never blocks. `log_of` tells which journal belongs to a snapshot's content."""
        ...

    def write(self, content: bytes, *, expected: str | None, keep: str) -> str:
        """Replace the snapshot of version `expected` (None: there is none yet) and keep the old one as the backup `keep`, if it is named.

        Returns the new version. Backups beyond the newest BACKUPS are removed.

        Raises:
            Lost, NotWritten: the old snapshot is whole.
        """
        ...

    def append(self, log: Log, seq: int, records: Sequence[bytes], before_durable: Callable[[], None]) -> None:
        """Make records durable under `seq` and the numbers after it. Whoever is second at a number writes nothing.

        Raises:
            Lost, NotWritten: the records are not known to be durable.
        """
        ...

    def close_journal(self, log: Log, seq: int) -> bool:
        """Take the number `seq` for ever, so that whoever would append there fails; False if a record stands there."""
        ...

    def journal(self, log: Log) -> Journal:
        """The records of one log. What is torn at its end is cut off."""
        ...

    def drop_journal(self, log: Log) -> None:
        """Forget the records of a log that a snapshot holds now, and of those before it.

        Raises:
            NotWritten: they are still there, and count for nothing.
        """
        ...

    def acquire(self, holder: Holder) -> Lease:
        """Hold the lock, which may be taken from somebody whose lease ran out or who is known to be dead.

        Raises:
            Held: by somebody else.
        """
        ...

    def holder(self) -> Holder | None:
        """Who holds the lock."""
        ...

    def take_from(self, lock_id: str, holder: Holder) -> Lease:
        """Take the lock from the one with that id, whatever it does.

        Raises:
            Held: another id has it now. Lost: nobody has it.
        """
        ...

    def backups(self) -> list[Kept]:
        """Newest first."""
        ...

    def read_backup(self, name: str) -> bytes | None:
        """None if there is none of that name."""
        ...


def backup_name(serial: int) -> str:
    """The name of the backup of the snapshot with that serial; names sort as serials do."""
    return f"state.{serial:08d}.json"


def backup_serial(name: str) -> int:
    """The serial in a backup's name; -1 for a name that has none."""
    parts = name.split(".")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else -1
