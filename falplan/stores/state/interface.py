"""What every store of state offers: one writer at a time, readers that never wait, a journal beside a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from falplan.core.state import Entry, State
from falplan.core.state_repair import Remains


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock. Times are RFC 3339 in UTC by the store's own clock; empty where it keeps none."""

    lock_id: str
    operation: str
    who: str
    host: str
    pid: int
    since: str
    heartbeat: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup: an earlier snapshot. `size` in bytes, `saved_at` RFC 3339 in UTC."""

    name: str
    serial: int
    size: int
    saved_at: str


class StateStore(Protocol):
    """State of one project, wherever it is kept.

    `read` needs no lock and never blocks. Everything that writes happens inside `locked`.
    """

    @property
    def where(self) -> str:
        """The place, for people: a path, `s3://bucket/key`, a database's host and name. Never a password."""
        ...

    def read(self, project: str) -> State | None:
        """The state with the journal's entries applied; None if nothing was ever applied here.

        Raises:
            StateUnreadable: damaged, newer, another project's, or of a key that is not here.
            FalplanError: the place can't be reached.
        """
        ...

    def locked(self, operation: str, *, timeout: float = 0) -> AbstractContextManager[None]:
        """Hold the lock. A holder that died, or lost its lease, holds nothing.

        Raises:
            Locked: somebody else held it for `timeout` seconds; the message says who, where, since when.
            FalplanError: the place can't be written; nothing was touched.
        """
        ...

    on_wait: Callable[[str], None]
    """Called once with who holds the lock, when `locked` begins to wait for it."""

    def has_journal(self) -> bool:
        """Whether steps of an apply stand in the journal that no snapshot holds yet."""
        ...

    def append(self, base: State, entry: Entry) -> None:
        """Make one step of an apply durable before going on. `base` is the snapshot that the journal belongs to.

        Raises:
            StateNotSaved: the entry is not durable, or the lock was lost; the step must not be taken.
        """
        ...

    def save(self, state: State) -> State:
        """Write a new snapshot with the next serial and drop the journal. Returns what was written.

        Raises:
            StateNotSaved: the old snapshot and the journal are untouched, so nothing is lost.
        """
        ...

    def holder(self) -> Holder | None:
        """Who holds the lock now; None if nobody does."""
        ...

    def force_unlock(self, lock_id: str) -> None:
        """Take the lock from its holder, whose later writes are refused.

        Raises:
            Refused: nobody holds it, another id holds it, or the holder is a living process of this machine.
        """
        ...

    def backups(self) -> list[Kept]:
        """Earlier snapshots, newest first."""
        ...

    def read_backup(self, name: str) -> State:
        """One of them.

        Raises:
            StateUnreadable: it is damaged. Refused: there is none of that name.
        """
        ...

    def examine(self) -> Remains:
        """Whatever stands there, sound or not. Raises for nothing that is wrong with it.

        Raises:
            FalplanError: the place, or what keeps the key, can't be reached.
        """
        ...

    def replace_broken(self, state: State, *, keep_as: str) -> State:
        """Write a snapshot with the next serial in the place of whatever stands there, which is kept as a backup of that name.

        Journal and snapshot are kept together, byte for byte. Killed in between, everything is still there. Returns what was written.

        Raises:
            StateNotSaved: what stood there still stands.
        """
        ...
