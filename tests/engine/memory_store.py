"""A store of state in memory that fails where it is told to. Conforms to the protocol of real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from falplan.core.errors import StateNotSaved
from falplan.core.state import (
    Entry,
    State,
    StateUnreadable,
    parse_entry,
    parse_state,
    render_entry,
    render_state,
    replay,
)
from falplan.core.state_repair import Remains
from falplan.stores.state.interface import Holder, Kept, StateStore


class MemoryStore:
    """Keeps a snapshot and a journal as text. Appends fail from the `fails_at`-th on, saves with them, until `repaired`."""

    def __init__(self, fails_at: int = 0) -> None:
        self.snapshot = ""
        self.lines: list[str] = []
        self.fails_at = fails_at
        self.appended: list[Entry] = []  #: all that were asked for, those that failed too
        self.saves_fail = False
        self.on_wait: Callable[[str], None] = lambda holder: None

    @property
    def where(self) -> str:
        return "memory"

    def repaired(self) -> None:
        self.fails_at, self.saves_fail = 0, False

    def read(self, project: str) -> State | None:
        if not self.snapshot:
            return None
        entries = [e for line in self.lines if (e := parse_entry(line))]
        if len(entries) != len(self.lines):
            raise StateUnreadable("The journal is damaged")
        return replay(parse_state(self.snapshot, self.where), entries)

    @contextmanager
    def locked(self, operation: str, *, timeout: float = 0) -> Iterator[None]:
        yield

    def has_journal(self) -> bool:
        return bool(self.lines)

    def append(self, base: State, entry: Entry) -> None:
        self.appended.append(entry)
        if self.fails_at and len(self.appended) >= self.fails_at:
            self.saves_fail = True
            raise StateNotSaved("State could not be saved", "memory: no room")
        self.lines.append(render_entry(entry))

    def save(self, state: State) -> State:
        if self.saves_fail:
            raise StateNotSaved("State could not be saved", "memory: no room")
        saved = replace(state, serial=state.serial + 1)
        self.snapshot, self.lines = render_state(saved), []
        return saved

    def holder(self) -> Holder | None:
        return None

    def force_unlock(self, lock_id: str) -> None:
        raise NotImplementedError

    def backups(self) -> list[Kept]:
        return []

    def read_backup(self, name: str) -> State:
        raise NotImplementedError

    def examine(self) -> Remains:
        raise NotImplementedError

    def replace_broken(self, state: State, *, keep_as: str) -> State:
        raise NotImplementedError


_: StateStore = MemoryStore()
