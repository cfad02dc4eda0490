"""A session of PostgreSQL as a store of state uses it, and every error told for people. Knows no state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from falplan.core.errors import FalplanError, Refused

if TYPE_CHECKING:
    import psycopg

CONNECT_TIMEOUT = 10
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Where:
    """A database, and which row of which tables. `dsn` is what libpq reads; what it leaves open, PGHOST and the like say."""

    dsn: str = field(repr=False)
    schema: str
    table: str
    name: str

    @property
    def text(self) -> str:
        """Never holds a password."""
        known = parameters(self.dsn)
        host = known.get("host") or known.get("hostaddr") or os.environ.get("PGHOST") or "local socket"
        port = known.get("port") or os.environ.get("PGPORT") or "5432"
        database = known.get("dbname") or os.environ.get("PGDATABASE") or known.get("user") or "default database"
        return f"postgresql://{host}:{port}/{database} {self.schema}.{self.table} {self.name}"


def parameters(dsn: str) -> dict[str, str]:
    """The parts of a connection string, as libpq reads it.

    Raises:
        ValueError: it is none. The message never holds the string.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        return {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except ProgrammingError:
        raise ValueError("libpq can't read it") from None


def connect(where: Where, *, limit: float) -> psycopg.Connection[tuple[Any, ...]]:
    """A session that commits each statement by itself.

    A statement that waits, or a transaction that its client left alone, for longer than `limit` seconds is ended by the server.

    Raises:
        FalplanError: there is no way in.
    """
    import psycopg

    options = {
        "idle_in_transaction_session_timeout": f"{int(limit * 1000)}",
        "lock_timeout": f"{min(2000, int(limit * 500))}",
        "synchronous_commit": "on",
        "client_min_messages": "warning",
    }
    given = parameters(where.dsn).get("options", "")
    text = " ".join([given, *(f"-c {name}={value}" for name, value in options.items())]).strip()
    try:
        return psycopg.connect(
            where.dsn,
            autocommit=True,
            options=text,
            application_name="falplan",
            connect_timeout=CONNECT_TIMEOUT,
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=int(limit * 1000),
        )
    except psycopg.Error as exc:
        raise told(exc, where) from exc


def told(error: psycopg.Error, where: Where) -> FalplanError:
    """What an error of the database means. libpq never writes a password into one."""
    from psycopg import errors

    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = f"{where.text}: {lines[0].strip()}"
    if isinstance(error, errors.InsufficientPrivilege):
        return Refused(
            "The state's database does not allow it",
            f"{said}. Let its owner run: CREATE SCHEMA {where.schema}; GRANT ALL ON SCHEMA {where.schema} TO the user of falplan.",
        )
    for words, summary, next_step in MEANINGS:
        if any(word in str(error) for word in words):
            return Refused(summary, f"{said}. {next_step}")
    return FalplanError(
        "The state's database can't be reached", f"{said}. Look whether the server runs, then try again."
    )


MEANINGS: Sequence[tuple[tuple[str, ...], str, str]] = (
    (
        (
            "password authentication failed",
            "no password supplied",
            "fe_sendauth",
            "authentication failed",
            "pg_hba.conf",
        ),
        "The state's database refuses the login",
        "Its password is missing, was changed or has expired: set PGPASSWORD, or keep it in ~/.pgpass. The user is in the connection "
        "string or PGUSER.",
    ),
    (
        ('database "',),
        "The state's database is missing",
        "Make it (createdb), or correct `dsn:` under `state:`. falplan never makes one.",
    ),
    (
        ('role "',),
        "The state's database does not know the user",
        "Correct the user in `dsn:` under `state:`, or PGUSER.",
    ),
    (
        ("read-only transaction", "recovery mode"),
        "The state's database can only be read",
        "It is a standby: name the primary, or add target_session_attrs=read-write to the connection string.",
    ),
)
"""Parts of libpq's and the server's messages -> what they mean."""
