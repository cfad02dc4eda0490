"""Brings a database to this program's schema. Knows the order of the steps, nothing of what they do."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import apsw

from falplan.core.errors import Refused
from falplan.sdk.failpoints import fp

APPLICATION_ID = 0x66616C70
"""`falp`: marks the file as ours."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step."""

    number: int
    name: str
    sql: str


def all_migrations() -> list[Migration]:
    """The steps that this program knows, in order: numbered from 1 without a gap."""
    folder = resources.files("falplan.stores.runtime").joinpath("migrations")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    found = [Migration(int(f.name[:4]), f.name.removesuffix(".sql"), f.read_text(encoding="utf-8")) for f in files]
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise AssertionError(f"migrations are not numbered 1 to {len(found)}: {[m.name for m in found]}")
    return found


def migrate(connection: apsw.Connection, migrations: list[Migration]) -> None:
    """Apply the steps that the database lacks, each in a transaction of its own. May be called again.

    Raises:
        Refused: the file is not ours, or a newer falplan wrote it. It is not touched.
    """
    known = migrations[-1].number if migrations else 0
    version = _pragma(connection, "user_version")
    _refuse_foreign(connection, version, known)
    for migration in migrations[version:]:
        fp("database.migrate.before")
        with connection:  # a savepoint: everything of the step, its number included, or nothing
            for _ in connection.execute(migration.sql):  # to its end: it stops at each row that a statement returns
                pass
            connection.execute(f"pragma user_version = {migration.number}")
            connection.execute(f"pragma application_id = {APPLICATION_ID}")
        fp("database.migrate.after")


def _refuse_foreign(connection: apsw.Connection, version: int, known: int) -> None:
    name = connection.filename
    mark = _pragma(connection, "application_id")
    tables = next(iter(connection.execute("select count(*) from sqlite_schema")))[0]
    if mark != APPLICATION_ID and (tables or version):
        raise Refused(
            "Not a database of falplan", f"{name} holds something else. Name another folder, or move it away."
        )
    if version > known:
        raise Refused(
            "The database is of a newer falplan",
            f"{name} has schema {version}; this falplan knows schemas up to {known}. Nothing was touched. "
            "Use the newer falplan, or restore a backup made before the upgrade.",
        )


def _pragma(connection: apsw.Connection, name: str) -> int:
    return int(next(iter(connection.execute(f"pragma {name}")))[0])
