"""Whole copies of a database file: for backups, and those kept beside it before an upgrade. Knows no tables."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import apsw

from falplan.core.errors import FalplanError
from falplan.sdk.failpoints import fp
from falplan.stores.files import sync_folder
from falplan.stores.runtime.schema import look

KEPT = 2
"""Copies from before upgrades that stay beside a database."""


def copy_database(source: Path, target: Path) -> None:
    """Copy a database, in use or not, to a new private file. The copy is whole and checked, or there is none.

    Raises:
        apsw.Error, OSError: the copy could not be made.
    """
    target.touch(mode=0o600, exist_ok=False)
    try:
        _copy(source, target)
    except (apsw.Error, OSError):
        target.unlink(missing_ok=True)
        raise


def _copy(source: Path, target: Path) -> None:
    original = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READWRITE)
    original.set_busy_timeout(10_000)
    copy = apsw.Connection(str(target))
    try:
        with copy.backup("main", original, "main") as backup:
            while not backup.done:
                backup.step(1024)
        # A copy that stands alone: in the log's mode its first reader would make two files beside it.
        copy.execute("pragma journal_mode = delete")
        if (found := next(iter(copy.execute("pragma integrity_check")))[0]) != "ok":
            raise apsw.CorruptError(str(found))
    finally:
        copy.close()
        original.close()


def keep_before(path: Path, number: int) -> Path:
    """Keep a copy of what the database holds before it is brought to schema `number`. The newest two such copies stay.

    An earlier copy of that name is replaced: the caller knows whether it is the beginning of an upgrade that was interrupted.

    Raises:
        apsw.Error, OSError: the copy could not be made; an earlier one is untouched.
    """
    kept = path.with_name(f"{path.name}.before-{number:04d}")
    temporary = kept.with_name(f".{kept.name}.new")
    temporary.unlink(missing_ok=True)
    fp("database.keep.before_copy")
    copy_database(path, temporary)
    fp("database.keep.before_rename")
    temporary.replace(kept)
    sync_folder(path.parent)
    for old in copies_before(path)[:-KEPT]:
        old.unlink(missing_ok=True)
    return kept


def copies_before(path: Path) -> list[Path]:
    """The copies kept before upgrades, oldest schema first."""
    return sorted(path.parent.glob(f"{path.name}.before-[0-9][0-9][0-9][0-9]"))


def restore_before(path: Path) -> None:
    """Put the newest copy from before an upgrade back, for an upgrade that has to go back. The copy stays.

    May be called again, and after `kill -9` at any instant: the database is the old one or the new one, whole. It must
    belong to the caller: what was written since the copy was made is lost. Does nothing if it was done before.

    Raises:
        FalplanError: there is no copy.
        OSError: the database is untouched.
    """
    kept = copies_before(path)
    if not kept:
        raise FalplanError("There is no copy to go back to", f"{path} was never upgraded, or its copies were removed.")
    newest = kept[-1]
    with contextlib.suppress(apsw.Error):  # a database that can't be read any more is replaced all the same
        if look(path).number <= look(newest).number:
            return
    temporary = path.with_name(f".{path.name}.new")
    shutil.copyfile(newest, temporary)
    temporary.chmod(0o600)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    _fold_log(path)
    fp("database.restore.before_rename")
    temporary.replace(path)
    fp("database.restore.after_rename")
    sync_folder(path.parent)


def _fold_log(path: Path) -> None:
    """Take the write-ahead log into the database: one that stayed would be read as if it belonged to the copy."""
    try:
        connection = apsw.Connection(str(path))
        try:
            connection.execute("pragma journal_mode = delete")
        finally:
            connection.close()
    except apsw.Error:
        pass  # damaged: nothing of it will be read again
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
