"""Writes everything durable of a control plane's folder into one tar.gz. Bounded memory; the database is a consistent copy."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import apsw

from falplan import __version__, clock
from falplan.core.backups import DATABASE, MANIFEST, Held, Manifest, manifest_to_json
from falplan.core.errors import FalplanError
from falplan.sdk.failpoints import fp
from falplan.stores.home import ControlHome
from falplan.stores.runtime.copies import copy_database
from falplan.stores.runtime.schema import look

UNFINISHED = ".backup-"
"""What names of database copies begin with; one that is found was left by a process that was killed."""


def write_backup(home: ControlHome, target: IO[bytes]) -> Manifest:
    """Write a backup of the folder to an open file. A control plane may be using the folder: what it deletes meanwhile is in or not.

    One at a time: copies of the database that a killed one left are removed.

    Raises:
        FalplanError: there is nothing to back up, or the disk is full or failing.
    """
    if not home.database.exists():
        raise FalplanError("There is nothing to back up", f"{home.database} does not exist: `falplan apply` makes it.")
    try:
        for left in home.folder.glob(f"{UNFINISHED}*"):
            left.unlink(missing_ok=True)
        with _database_copy(home) as database:
            identity, schema = _identity(database), look(database).number
            files = _write(home, database, target, identity, schema)
    except (apsw.Error, OSError) as exc:
        detail = f"{home.folder}: {exc}. Make room or repair the disk, then try again."
        raise FalplanError("The backup could not be made", detail) from exc
    return files


@contextmanager
def _database_copy(home: ControlHome) -> Iterator[Path]:
    copy = home.folder / f"{UNFINISHED}{clock.new_id('db')}"
    fp("backup.copy.before")
    try:
        copy_database(home.database, copy)
        fp("backup.copy.after")
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _identity(database: Path) -> dict[str, str]:
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return {str(n): str(v) for n, v in connection.execute("select name, value from identity")}
    finally:
        connection.close()


def _write(home: ControlHome, database: Path, target: IO[bytes], identity: dict[str, str], schema: int) -> Manifest:
    held: dict[str, Held] = {}
    # No name and no time in gzip's own head: neither says anything about what is inside.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        held[DATABASE] = _add(archive, database, DATABASE)
        for path in _files(home):
            name = path.relative_to(home.folder).as_posix()
            try:
                held[name] = _add(archive, path, name)
            except FileNotFoundError:
                continue  # forgotten since it was listed: nothing in the copy of the database needs it
        manifest = Manifest(
            __version__,
            identity.get("lineage", home.folder.name),
            identity.get("control_plane_id", ""),
            int(identity.get("epoch", "0")),
            schema,
            clock.timestamp(clock.now()),
            held,
        )
        content = json.dumps(manifest_to_json(manifest), indent=1, sort_keys=True).encode()
        info = _member(MANIFEST, len(content))
        archive.addfile(info, io.BytesIO(content))
    return manifest


def _files(home: ControlHome) -> Iterator[Path]:
    """Every durable file but the database, sorted."""
    for entry in home.durable():
        if entry == home.database:
            continue
        for path in [entry] if entry.is_file() else sorted(entry.rglob("*")):
            if not path.name.startswith(".") and stat.S_ISREG(path.lstat().st_mode):
                yield path


def _add(archive: tarfile.TarFile, path: Path, name: str) -> Held:
    """Add one file as it is now: one that is replaced meanwhile is read to its end."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        hashing = _Hashing(file)
        archive.addfile(_member(name, size), hashing)
        return Held(size, hashing.seal.hexdigest())


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


class _Hashing:
    """A file that digests what is read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seal = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.seal.update(content)
        return content
