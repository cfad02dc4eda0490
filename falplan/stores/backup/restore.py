"""Puts a backup in the place of a control plane's data. What was there is kept aside."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw

from falplan.core.backups import DATABASE, Manifest, why_wrong_project
from falplan.core.errors import FalplanError, Refused
from falplan.sdk.failpoints import fp
from falplan.stores.backup.read import check_backup, unpack_backup
from falplan.stores.exchange import INCOMING, begin_exchange
from falplan.stores.files import sync_folder
from falplan.stores.home import ASIDE, ControlHome
from falplan.stores.runtime.schema import look, newest


def restore_backup(home: ControlHome, source: Path, lineage: str, *, at: str) -> tuple[Manifest, Path | None]:
    """Check a backup whole, unpack it, and exchange it for what the folder holds. Returns what it held, and where the old data lies.

    The caller holds the folder's lock. `at` names the time, as `20260131-120000`. After `kill -9` at any instant the folder holds
    the old data or the new: an exchange that was begun is finished by whoever takes the lock next.

    Raises:
        Refused: the backup is damaged, another project's, or of a newer falplan. Nothing was touched.
        FalplanError: the disk is full or failing. Nothing was touched, or running it again finishes it.
    """
    manifest = check_backup(source)
    if because := why_wrong_project(manifest, lineage, str(source)):
        raise Refused("The backup belongs to another project", because)
    incoming = home.folder / INCOMING
    try:
        if _unpack(source, incoming) != manifest:
            raise Refused("The backup changes while it is read", f"{source}: nothing was touched.")
        _check_database(incoming / DATABASE, manifest, source)
        outgoing = home.replaceable()
        aside = _unused(home.folder / f"{ASIDE}{at}")
        fp("restore.exchange.before")
        begin_exchange(home.folder, aside.name, [p.name for p in outgoing])
    except OSError as exc:
        detail = f"{home.folder}: {exc}. Make room or repair the disk, then run `falplan restore` again."
        raise FalplanError("The backup could not be restored", detail) from exc
    except Refused:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    return manifest, aside if outgoing else None


def _unpack(source: Path, incoming: Path) -> Manifest:
    shutil.rmtree(incoming, ignore_errors=True)  # of one that was killed before it had decided anything
    incoming.mkdir(mode=0o700)
    fp("restore.unpack.before")
    manifest = unpack_backup(source, incoming)
    for folder, _, _ in os.walk(incoming):
        sync_folder(Path(folder))
    sync_folder(incoming.parent)
    fp("restore.unpack.after")
    return manifest


def _check_database(database: Path, manifest: Manifest, source: Path) -> None:
    """The digests say that it is what was backed up; this says that it can be used."""
    try:
        found = look(database)
        connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            sound = next(iter(connection.execute("pragma integrity_check")))[0] == "ok"
            rows = {str(n): str(v) for n, v in connection.execute("select name, value from identity")}
        finally:
            connection.close()
    except apsw.Error as exc:
        raise Refused("The backup is damaged", f"{source}: its database can't be read: {exc}.") from exc
    if found.number > newest():
        raise Refused(
            "The backup is of a newer falplan",
            f"Its database has schema {found.number}; this falplan knows schemas up to {newest()}. "
            f"Use falplan {manifest.falplan} or a newer one.",
        )
    if not sound or not found.ours or rows.get("lineage") != manifest.lineage:
        raise Refused("The backup is damaged", f"{source}: its database is not the one that its manifest describes.")


def _unused(path: Path) -> Path:
    """The path, or one behind it in the order of names: two restores in one second must not share a folder."""
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found
