"""State in a folder beside the spec: `state.json`, `state.journal`, `state.lock`, `backups/`. One writer, any number of readers."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from falplan import clock
from falplan.core.errors import FalplanError, Locked, StateNotSaved
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
from falplan.sdk.failpoints import fp
from falplan.stores.files import sync_folder, write_whole

BACKUPS = 10


class LocalState:
    """State of one project in a folder.

    `read` needs no lock and never blocks. Everything that writes happens inside `locked`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "state.json"
        self.journal = folder / "state.journal"
        self.lock = folder / "state.lock"

    def read(self, project: str) -> State | None:
        """The state with the journal's entries applied; None if nothing was ever applied here.

        Raises:
            StateUnreadable: damaged, newer, or another project's.
        """
        # The journal is read first: a snapshot taken in between only makes it look finished, never forgotten.
        journal = self._journal_lines()
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if journal:
                raise StateUnreadable(
                    "The state file is missing",
                    f"{self.journal} belongs to a state that is gone. {_restore(self.folder)}",
                ) from None
            return None
        except (UnicodeDecodeError, OSError) as exc:
            raise StateUnreadable(
                "The state file can't be read", f"{self.path}: {exc}. {_restore(self.folder)}"
            ) from exc
        state = parse_state(text, str(self.path))
        if state.project != project:
            raise StateUnreadable(
                "The state belongs to another project",
                f'{self.path} is the state of project "{state.project}"; the spec says "{project}". '
                "Destroy with the old name first, or give this project a state of its own: `state: {path: …}`.",
            )
        return replay(state, _entries(journal, state, self.journal))

    @contextmanager
    def locked(self, operation: str, *, timeout: float = 0) -> Iterator[None]:
        """Hold the lock. It is the kernel's: a killed holder holds nothing.

        Raises:
            Locked: somebody else held it for `timeout` seconds; the message says who.
            FalplanError: the folder can't be written; nothing was touched.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise _unwritable(self.folder, exc) from exc
        try:
            self._acquire(descriptor, timeout)
            self._sign(descriptor, operation)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _sign(self, descriptor: int, operation: str) -> None:
        owner = {"operation": operation, "who": _who(), "pid": os.getpid(), "since": clock.timestamp(clock.now())}
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(owner) + "\n").encode(), 0)
        except OSError as exc:
            raise _unwritable(self.folder, exc) from exc

    def _acquire(self, descriptor: int, timeout: float) -> None:
        give_up = clock.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if clock.monotonic() >= give_up:
                    raise Locked("The state is locked", _holder(descriptor, self.lock)) from None
                time.sleep(0.1)

    def save(self, state: State) -> State:
        """Write a new snapshot with the next serial and drop the journal. Returns what was written.

        Raises:
            StateNotSaved: the old snapshot and the journal are untouched, so nothing is lost.
        """
        saved = replace(state, serial=state.serial + 1)
        try:
            self._keep_backup(state.serial)
            write_whole(self.path, render_state(saved).encode(), point="state")
            fp("state.save.before_journal_removed")
            self.journal.unlink(missing_ok=True)
            sync_folder(self.folder)
        except OSError as exc:
            raise StateNotSaved(
                "State could not be saved",
                f"{self.path}: {exc.strerror or exc}. What was done stands in {self.journal}, which the next falplan command reads. "
                "Make room or repair the disk, then run `falplan apply` again. Keep that file.",
            ) from exc
        return saved

    def append(self, state: State, entry: Entry) -> None:
        """Make one step of an apply durable before going on. `state` is the snapshot that the journal belongs to.

        Raises:
            StateNotSaved: the entry is not durable; the step must not be taken.
        """
        try:
            fp(f"journal.{entry.kind}.before_write")
            new = not self.journal.exists()
            descriptor = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                line = render_entry(entry)
                if new:
                    line = json.dumps({"lineage": state.lineage, "serial": state.serial}) + "\n" + line
                _write_all(descriptor, line.encode())
                fp(f"journal.{entry.kind}.before_fsync")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                sync_folder(self.folder)
        except OSError as exc:
            raise StateNotSaved(
                "State could not be saved",
                f"{self.journal}: {exc.strerror or exc}. {entry.address} ({entry.kind}) is not recorded. Make room or repair the disk, "
                "then run `falplan apply` again: it asks the control plane what became of it.",
            ) from exc
        fp(f"journal.{entry.kind}.after_fsync")

    def has_journal(self) -> bool:
        """Whether steps of an apply stand in the journal that no snapshot holds yet."""
        return self.journal.exists()

    def _keep_backup(self, serial: int) -> None:
        if not self.path.exists():
            return
        backups = self.folder / "backups"
        backups.mkdir(exist_ok=True)
        copy = backups / f"state.{serial:08d}.json"
        if not copy.exists():
            os.link(self.path, copy)  # the snapshot is replaced by rename, so a second name keeps the old content
        for old in sorted(backups.glob("state.*.json"))[:-BACKUPS]:
            old.unlink()

    def _journal_lines(self) -> list[str]:
        try:
            return self.journal.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _entries(lines: list[str], state: State, source: Path) -> list[Entry]:
    if not lines:
        return []
    try:
        head = json.loads(lines[0])
    except ValueError:
        return []  # torn before its first entry was durable: nothing had begun
    if head["lineage"] != state.lineage or head["serial"] > state.serial:
        raise StateUnreadable(
            "The journal belongs to another state",
            f"{source} was begun for serial {head['serial']} of {head['lineage']}.",
        )
    if head["serial"] < state.serial:
        return []  # left over from a run that died between the snapshot and the removal of its journal
    entries = []
    for number, line in enumerate(lines[1:], 2):
        entry = parse_entry(line)
        if entry is None:
            if number < len(lines):
                raise StateUnreadable(
                    "The journal is damaged", f"{source}:{number}: not an entry. {_restore(source.parent)}"
                )
            break  # the last line was being written when the run died: its step was never taken
        entries.append(entry)
    return entries


def _holder(descriptor: int, path: Path) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        text = f"{owner['who']} (pid {owner['pid']}) holds it for `{owner['operation']}` since {owner['since']}."
    except (ValueError, KeyError, OSError):
        text = "Its holder has not written its name yet."
    return f"{text} Try again when that is done, or wait with --lock-timeout SECONDS. Lock file: {path}"


def _unwritable(folder: Path, error: OSError) -> FalplanError:
    detail = f"{folder}: {error.strerror or error}. Nothing was touched. Make room or repair the disk, then try again."
    return FalplanError("The state's folder can't be written", detail)


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}@{socket.gethostname()}"


def _restore(folder: Path) -> str:
    return f"Copies of earlier states are in {folder / 'backups'}."
