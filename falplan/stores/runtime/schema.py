"""Which schema a database has, and what to do about it. Knows no step of it: fresh files come from `schema.sql`, old ones are migrated."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import apsw

from falplan.core.errors import Refused
from falplan.sdk.failpoints import fp

APPLICATION_ID = 0x66616C70
"""`falp`: marks the file as ours."""

VERSIONS = Path(__file__).parent / "versions"


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file holds. `number` is the schema's, 0 for none yet. `stamped`: Alembic's own record of it is there, too."""

    number: int
    stamped: bool
    ours: bool
    empty: bool


def newest(versions: Path = VERSIONS) -> int:
    """The number of the newest schema that this program knows, told by the names of its versions alone."""
    return max(int(p.name[:4]) for p in versions.glob("[0-9][0-9][0-9][0-9]_*.py"))


def bring_up_to_date(path: Path, versions: Path = VERSIONS) -> None:
    """Bring a database to this program's schema; an empty file becomes one. May be called again.

    The caller holds the folder's lock: nobody else has the file open.

    Raises:
        Refused: the file is not ours, or a newer falplan wrote it. It is not touched.
        apsw.Error, sqlite3.Error, OSError: the disk is full, failing or not writable; the old schema or the new one is there, whole.
    """
    found, known = look(path), newest(versions)
    _refuse_foreign(path, found, known)
    if found.empty and versions == VERSIONS:
        make(path)
    elif found.number < known or not found.stamped:
        # Alembic and SQLAlchemy take longer to import than everything else at start, and are needed once in a release.
        from falplan.stores.runtime.migrations import migrate

        migrate(path, found, versions)


def look(path: Path) -> Schema:
    """Read which schema a file has, and close it again. Changes nothing.

    Raises:
        apsw.Error: it can't be read, or is no database.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(10_000)
    try:
        tables = {str(r[0]) for r in connection.execute("select name from sqlite_schema where type = 'table'")}
        number, mark = _pragma(connection, "user_version"), _pragma(connection, "application_id")
        stamps = (
            list(connection.execute("select version_num from alembic_version")) if "alembic_version" in tables else []
        )
        number = max([number, *(int(str(s[0])) for s in stamps)])
        return Schema(number, bool(stamps), mark == APPLICATION_ID, not tables and not number)
    finally:
        connection.close()


def make(path: Path) -> None:
    """Make the newest schema in an empty file, in one transaction.

    Raises:
        apsw.Error: the file is still empty.
    """
    text = resources.files("falplan.stores.runtime").joinpath("schema.sql").read_text(encoding="utf-8")
    connection = apsw.Connection(str(path))
    try:
        fp("database.make.before")
        with connection:
            for _ in connection.execute(text):  # to its end: it stops at each row that a statement returns
                pass
            fp("database.make.before_commit")
    finally:
        connection.close()
    fp("database.make.after")


def _refuse_foreign(path: Path, found: Schema, known: int) -> None:
    if not found.ours and not found.empty:
        raise Refused(
            "Not a database of falplan", f"{path} holds something else. Name another folder, or move it away."
        )
    if found.number > known:
        raise Refused(
            "The database is of a newer falplan",
            f"{path} has schema {found.number}; this falplan knows schemas up to {known}. Nothing was touched. "
            "Use the newer falplan, or restore a backup made before the upgrade.",
        )


def _pragma(connection: apsw.Connection, name: str) -> int:
    return int(next(iter(connection.execute(f"pragma {name}")))[0])
