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
from falplan.stores.runtime.schema import look, newest

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


def restore_before(path: Path, known: int | None = None) -> None:
    """Put the newest copy back that schemas up to `known` (this falplan's own) can use: for an upgrade that has to go back.

    Does nothing if the database itself can be used, so that it may be called again. The copy stays. After `kill -9` at any
    instant the database is the old one or the new one, whole. The caller holds the folder's lock and has the database closed;
    what was written since the copy was made is lost.

    Raises:
        FalplanError: there is no such copy; the database is untouched.
        OSError: the database is untouched.
    """
    known = newest() if known is None else known
    with contextlib.suppress(apsw.Error):  # a database that can't be read any more is replaced all the same
        if look(path).number <= known:
            return
    usable = [copy for copy in copies_before(path) if look(copy).number <= known]
    if not usable:
        detail = f"{path} has a schema newer than {known}, and no copy from before it lies beside it. Restore a backup."
        raise FalplanError("There is no copy to go back to", detail)
    temporary = path.with_name(f".{path.name}.new")
    shutil.copyfile(usable[-1], temporary)
    temporary.chmod(0o600)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    for suffix in ("-wal", "-shm"):  # a log that stayed would be read as if it belonged to the copy
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fp("database.restore.before_rename")
    temporary.replace(path)
    fp("database.restore.after_rename")
    sync_folder(path.parent)
