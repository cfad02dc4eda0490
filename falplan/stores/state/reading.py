"""What stands in a state's place, read: opened, checked, with its journal's entries. Writes nothing and holds no lock."""

from __future__ import annotations

from falplan.core.errors import Refused
from falplan.core.state import Entry, State, StateUnreadable, parse_entry, parse_state
from falplan.core.state_repair import Log as Remaining
from falplan.stores.state.backend import Backend, Journal, Log
from falplan.stores.state.moved import is_nothing, parse_moved
from falplan.stores.state.seal import Seal


class Reader:
    """Reads the snapshots and journals of one place. Who reads the same snapshot twice gets the same object."""

    def __init__(self, backend: Backend, seal: Seal) -> None:
        self.backend, self._seal = backend, seal
        self._last: tuple[bytes, State | None] = (b"", None)

    def parse(self, sealed: bytes, source: str) -> State:
        """The state in these bytes, which stand in `source`.

        Raises:
            StateUnreadable: damaged, newer, or a note that it is kept elsewhere. Refused: of a key that is not here.
        """
        before, state = self._last
        if state is not None and before == sealed:
            return state  # the backend asked for its journal's name a moment ago, or a command reads twice
        text = self.open(sealed, source)
        moved = parse_moved(text)
        if moved is not None:
            raise StateUnreadable("The state is kept elsewhere now", f"{source}: {moved.text}")
        state = parse_state(text, source)
        self._last = (sealed, state)
        return state

    def open(self, sealed: bytes, source: str) -> str:
        """The text in these bytes, whatever it says; empty for none.

        Raises:
            StateUnreadable: no text, or sealed for another place. Refused: with a key that is not here.
        """
        if not sealed.strip():
            return ""
        try:
            return self._seal.open(sealed, kind="state", serial=None).decode()
        except UnicodeDecodeError as exc:
            raise StateUnreadable("The state file can't be read", f"{source}: {exc}. {self.restore()}") from exc

    def log_of(self, sealed: bytes) -> Log:
        """Which journal belongs to a snapshot; a note that the state went elsewhere counts as the snapshot it stands for."""
        text = self.open(sealed, self.backend.where)
        if is_nothing(text):
            return Log("", 0)
        moved = parse_moved(text)
        if moved is not None:
            return Log(moved.lineage, moved.serial)
        state = self.parse(sealed, self.backend.where)
        return Log(state.lineage, state.serial)

    def entries(self, journal: Journal, state: State) -> list[Entry]:
        """The journal's entries that the snapshot does not hold yet.

        Raises:
            StateUnreadable: one is damaged, or the journal is another state's.
        """
        log = journal.log
        if log is None or not journal.records:
            return []
        if log.lineage != state.lineage or log.serial > state.serial:
            raise StateUnreadable(
                "The journal belongs to another state",
                f"{self.backend.where}: it was begun for serial {log.serial} of {log.lineage}. {self.restore()}",
            )
        if log.serial < state.serial:
            return []  # left over from a run that died between the snapshot and the removal of its journal
        entries = []
        for place, (number, record) in enumerate(journal.records, 1):
            entry = self._entry(number, record, log, torn=journal.may_be_torn and place == len(journal.records))
            if entry is None:
                break  # the last line was being written when the run died: its step was never taken
            entries.append(entry)
        return entries

    def _entry(self, number: int, record: bytes, log: Log, *, torn: bool) -> Entry | None:
        try:
            plain = self._seal.open(record, kind=f"journal/{number}", serial=log.serial)
            entry = parse_entry(plain.decode("utf-8", "replace"))
        except StateUnreadable:
            if not torn:
                raise
            return None
        if entry is None and not torn:
            place = self.backend.journal_place(log, number)
            raise StateUnreadable("The journal is damaged", f"{place}: not an entry. {self.restore()}")
        return entry

    def remaining(self, journal: Journal) -> Remaining | None:
        """Whatever of a journal can be read, and the numbers of what can't."""
        if journal.log is None:
            return None
        entries, damaged = [], []
        for place, (number, record) in enumerate(journal.records, 1):
            try:
                torn = journal.may_be_torn and place == len(journal.records)
                entry = self._entry(number, record, journal.log, torn=torn)
            except Refused:
                damaged.append(number)
                continue
            if entry is not None:
                entries.append(entry)
        return Remaining(journal.log.lineage, journal.log.serial, tuple(entries), tuple(damaged))

    def restore(self) -> str:
        """What helps against damage, in a sentence."""
        return f"`falplan state repair` shows what can be done; copies of earlier states are in {self.backend.backups_where}."
