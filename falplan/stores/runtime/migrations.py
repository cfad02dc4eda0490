"""Brings an older database to this program's schema with Alembic. Knows the order of the steps, nothing of what they do.

The steps are `versions/0001_requests.py` and so on, forward only, numbered without a gap, each naming the one before. They are
written with Alembic's operations and SQLAlchemy's types, never in one database's SQL, so that PostgreSQL can use the same
ones: `env.py` runs them on whatever connection it is given. What is SQLite's alone stands here: one connection, the copy kept
before, `application_id` and `user_version`. On PostgreSQL `alembic_version` is the only record of the schema's number.

A step never changes once it was released. After a new one, `python -m tests.generated` rewrites `schema.sql`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from falplan.sdk.failpoints import fp
from falplan.stores.runtime.copies import copies_before, keep_before
from falplan.stores.runtime.schema import APPLICATION_ID, VERSIONS, Schema, look, newest


def migrate(path: Path, found: Schema, versions: Path = VERSIONS) -> None:
    """Apply the steps that the database lacks, each in a transaction together with its number. May be called again.

    Before the first one, a copy of a database that holds something is kept beside it as `<name>.before-<number>`. One that was
    made by the scheme before Alembic is taken over as it is: its number is in `user_version`.

    Raises:
        sqlite3.Error, apsw.Error, OSError: the old schema or the new one is there, whole.
    """
    if found.number < (known := newest(versions)) and not found.empty and not _under_way(path, found, known):
        keep_before(path, known)
    with _one_connection(path) as connection:
        config = _config(versions, connection)
        if not found.stamped and found.number:
            fp("database.stamp.before")
            command.stamp(config, f"{found.number:04d}")
            connection.commit()
        fp("database.migrate.before")
        command.upgrade(config, "head")
        connection.commit()
    fp("database.migrate.after")


def schema_text() -> str:
    """What `schema.sql` has to be: the newest schema as the steps make it, for fresh databases."""
    with _one_connection(Path(":memory:")) as connection:
        command.upgrade(_config(VERSIONS, connection), "head")
        rows = connection.exec_driver_sql(
            "select sql from sqlite_schema where sql is not null and name not like 'sqlite_%'"
        )
        lines = [f"{row[0]};\n" for row in rows]
    number = newest()
    return "".join(
        [
            "-- Made from versions/ by `python -m tests.generated`: what a fresh database begins with.\n\n",
            *lines,
            f"insert into alembic_version values ('{number:04d}');\n",  # noqa: S608 - our own number
            f"pragma user_version = {number};\n",
            f"pragma application_id = {APPLICATION_ID};\n",
        ]
    )


def _under_way(path: Path, found: Schema, known: int) -> bool:
    """Whether an upgrade was interrupted: then the copy from its beginning is the one to keep, not one of the middle."""
    kept = [copy for copy in copies_before(path) if copy.name.endswith(f"-{known:04d}")]
    return bool(kept) and look(kept[0]).number < found.number


def _config(versions: Path, connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", _escaped(Path(__file__).parent))
    config.set_main_option("version_locations", _escaped(versions))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["on_version_apply"] = _number
    return config


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _number(*, ctx: Any, heads: set[Any], **_: Any) -> None:
    """Within the step's transaction: its number where a falplan from before Alembic, and a quick look, read it."""
    ctx.connection.exec_driver_sql(f"pragma application_id = {APPLICATION_ID}")
    ctx.connection.exec_driver_sql(f"pragma user_version = {max(int(h) for h in heads)}")
    fp("database.migrate.before_commit")


@contextmanager
def _one_connection(path: Path) -> Iterator[Connection]:
    """The only connection to the file, through Python's own SQLite. Errors are SQLite's.

    That one may have the bug by which resetting the write-ahead log loses a commit (all versions before 3.51.3). It takes two
    connections, and here is one: the folder's lock keeps other processes out, and in this one no connection of apsw is open, whose
    SQLite is another copy of the library, so that closing a file in the one would drop the locks of the other.
    """
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # no implicit commit before DDL: SQLAlchemy's recipe for transactions
        connection.execute("pragma synchronous = full")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql("begin immediate")

    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as exc:
        raise exc.orig or exc from exc  # SQLite's own words, without the statement
    finally:
        engine.dispose()
