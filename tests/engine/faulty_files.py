"""State in files whose writes fail where a test says: torn at a byte, refused by a full disk, or in a place that somebody else has taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from falplan.sdk.testing.memory import Died, MemoryWorld
from falplan.stores.state.backend import Log, Lost, NotWritten
from falplan.stores.state.local import LocalFiles
from falplan.stores.state.store import Store


class Mishap(StrEnum):
    """What becomes of a write, and of its process."""

    DIE_BEFORE = "die before"
    TORN = "torn"  #: a part of it is written, and the process dies
    DIE_AFTER = "die after"
    FULL = "full"  #: a part of it is written, and then there is no room; the process goes on
    TAKEN = "taken"  #: somebody else took the lock meanwhile, and saved the state as it was


@dataclass(frozen=True, slots=True)
class Trouble:
    """The mishap of the `write`-th write of an apply. `share` is how much of it is written, from 0 to 1."""

    mishap: Mishap
    write: int
    share: float = 0.5


class Faults:
    """What is to happen to writes. A process that died in its `world` writes nothing more."""

    def __init__(self, world: MemoryWorld) -> None:
        self.world = world
        self.trouble: Trouble | None = None
        self.struck = False
        self._writes = 0

    def begin(self) -> None:
        """The next process."""
        self._writes, self.struck = 0, False

    def next(self) -> Trouble | None:
        """Count a write; returns what becomes of it."""
        if self.world.dead:
            raise Died
        self._writes += 1
        due = self.trouble is not None and (
            self._writes == self.trouble.write or (self.struck and self.trouble.mishap is Mishap.FULL)
        )
        self.struck = self.struck or due
        return self.trouble if due else None


class FaultyFiles(LocalFiles):
    """Files of a local state, with faults."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        super().__init__(folder)
        self.faults = faults

    def write(self, content: bytes, *, expected: str | None, keep: str) -> str:
        trouble = self.faults.next()
        if trouble is None:
            return super().write(content, expected=expected, keep=keep)
        if trouble.mishap is Mishap.TAKEN:
            self._taken()
            return super().write(content, expected=expected, keep=keep)
        if trouble.mishap is Mishap.DIE_AFTER:
            super().write(content, expected=expected, keep=keep)
        elif trouble.mishap is not Mishap.DIE_BEFORE:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.path.with_name(f".{self.path.name}.new").write_bytes(content[: int(len(content) * trouble.share)])
        self._end(trouble)
        raise Died

    def append(self, log: Log, seq: int, records: Sequence[bytes], before_durable: Callable[[], None]) -> None:
        trouble = self.faults.next()
        if trouble is None:
            super().append(log, seq, records, before_durable)
            return
        if trouble.mishap is Mishap.TAKEN:
            self._taken()
            raise Lost("somebody else took the lock")
        if trouble.mishap is not Mishap.DIE_BEFORE:
            before = self.journal_path.stat().st_size if self.journal_path.exists() else 0
            super().append(log, seq, records, before_durable)
            if trouble.mishap is not Mishap.DIE_AFTER:
                self._tear(before, trouble.share)
        self._end(trouble)

    def _tear(self, before: int, share: float) -> None:
        content = self.journal_path.read_bytes()
        kept = before + int((len(content) - before) * share)
        self.journal_path.write_bytes(content[: min(kept, len(content) - 1)])

    def _end(self, trouble: Trouble) -> None:
        if trouble.mishap is Mishap.FULL:
            raise NotWritten("no room", "Make room.")
        self.faults.world.die()

    def _taken(self) -> None:
        """Another holder reads what there is and saves it; what it saves is newer than all that this one has read."""
        other = Store(LocalFiles(self.folder))
        state = other.read("demo")
        if state is not None:
            other.save(state)
