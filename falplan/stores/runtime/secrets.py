"""Secrets in SQLite, encrypted by a key that lies outside the database. Knows no apps and no runners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import apsw

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.operations import NOBODY, Asker, Operation, OperationKind, OperationStatus
from falplan.core.secret import SecretValue
from falplan.core.values import JsonObject, canonical, digest
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import known_operation, put_row
from falplan.stores.runtime.database import Database
from falplan.stores.sealing import Seal


@dataclass(frozen=True, slots=True)
class SecretRow:
    """A secret. `version` is the newest, `versions` all that are kept, `damaged` those of them that are not as they were written.

    Times in seconds since the epoch: `changed_at` is the last time that it was set, `since` when its newest version became that, and
    `by` who made it so.
    """

    environment: str
    name: str
    version: str
    versions: tuple[str, ...]
    changed_at: float
    since: float = 0.0
    by: str = ""
    damaged: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """`secret.<environment>.<NAME>`."""
        return f"secret.{self.environment}.{self.name}"


class OperationTaken(FalplanError):
    """The operation id was used for something else."""


class SecretStore:
    """The secrets of one control plane."""

    def __init__(self, database: Database, seal: Seal) -> None:
        self._database, self._seal = database, seal

    async def put(
        self,
        operation: str,
        environment: str,
        name: str,
        value: SecretValue,
        proposed: str | None = None,
        *,
        asker: Asker = NOBODY,
    ) -> str:
        """Make this the newest value, and return its version: a kept one if it is the same value. Durable on return.

        `proposed` is the version of a value that was set before there was a control plane; a random one otherwise.

        An operation that was done before has no second effect: its version is returned.

        Raises:
            OperationTaken
        """
        made, now = proposed or clock.new_id("secret"), clock.now()
        address = f"secret.{environment}.{name}"
        body: JsonObject = {"address": address}
        wanted = Operation(
            operation,
            OperationKind.PUT_SECRET,
            body,
            digest(body),
            OperationStatus.DONE,
            now,
            asker=asker,
            subject=address,
        )

        def work(connection: apsw.Connection) -> str:
            known = known_operation(connection, operation)
            if known:
                if known.kind is not wanted.kind or known.body_digest != wanted.body_digest:
                    raise OperationTaken("The operation id is taken", f"{operation} was used for something else.")
                return str(known.outcome["version"])
            version = self._same(connection, environment, name, value) or made
            if version == made:
                nonce, sealed = self._seal.close(value, _about(environment, name, version))
                row = (version, environment, name, self._seal.key_id, nonce, sealed, now)
                connection.execute("insert into secret_versions values (?, ?, ?, ?, ?, ?, ?)", row)
            _newest(connection, environment, name, version, now, str(asker))
            put_row(connection, replace(wanted, outcome={"version": version}, ended_at=now))
            return version

        fp("secret.store.before_commit")
        version = await self._database.write(work)
        fp("secret.store.after_commit")
        return version

    async def remove(self, environment: str, name: str, ended: Operation | None = None) -> bool:
        """Forget a secret with all its versions, and record the operation that this ends. Whether there was one."""

        def work(connection: apsw.Connection) -> bool:
            if ended is not None:
                put_row(connection, ended)
            where = (environment, name)
            connection.execute("delete from secret_versions where environment = ? and name = ?", where)
            connection.execute("delete from secrets where environment = ? and name = ?", where)
            return connection.changes() > 0

        fp("secret.remove.before_commit")
        removed = await self._database.write(work)
        fp("secret.remove.after_commit")
        return removed

    async def keep_only(self, needed: Iterable[str]) -> None:
        """Forget versions that are neither needed nor the newest of their secret."""
        kept = set(needed)

        def work(connection: apsw.Connection) -> None:
            sql = "select version from secret_versions where version not in (select version from secrets)"
            gone = [(v,) for (v,) in connection.execute(sql) if v not in kept]
            connection.executemany("delete from secret_versions where version = ?", gone)

        await self._database.write(work)

    def all(self) -> list[SecretRow]:
        """Secrets that can be opened, in order of environment and name. One whose key is gone is as good as none."""
        sql = """select environment, name, version, nonce, sealed from secret_versions where key_id = ?
                 order by created_at, version"""
        versions: dict[tuple[str, str], list[str]] = {}
        damaged = set[str]()
        for environment, name, version, nonce, sealed in self._database.read(sql, (self._seal.key_id,)):
            versions.setdefault((environment, name), []).append(version)
            if self._open((environment, name, version, nonce, sealed)) is None:
                damaged.add(version)
        rows = self._database.read(
            "select environment, name, version, changed_at, since, set_by from secrets order by 1, 2"
        )
        found = [SecretRow(e, n, v, tuple(versions.get((e, n), ())), *rest) for e, n, v, *rest in rows]
        told = [replace(row, damaged=tuple(v for v in row.versions if v in damaged)) for row in found]
        return [row for row in told if row.version in row.versions]

    def missing(self, versions: Mapping[str, str]) -> list[str]:
        """Names whose version is not kept, or is damaged, sorted."""
        kept = {(row.name, v) for row in self.all() for v in row.versions if v not in row.damaged}
        return sorted(name for name, version in versions.items() if (name, version) not in kept)

    def reveal(self, versions: Mapping[str, str]) -> dict[str, SecretValue]:
        """The values of versions, by the name of the secret.

        Raises:
            FalplanError: one is gone, or can't be opened.
        """
        values = {}
        for name, version in sorted(versions.items()):
            sql = "select environment, name, version, nonce, sealed from secret_versions where version = ? and name = ?"
            rows = self._database.read(sql, (version, name))
            value = self._open(rows[0]) if rows else None
            if value is None:
                detail = f"{name} ({version}) is gone or damaged, or its key is: `falplan apply` delivers it again."
                raise FalplanError("A secret can't be given to a runner", detail)
            values[name] = value
        return values

    def _open(self, row: tuple[Any, ...]) -> SecretValue | None:
        environment, name, version, nonce, sealed = row
        return self._seal.open(nonce, sealed, _about(environment, name, version))

    def _same(self, connection: apsw.Connection, environment: str, name: str, value: SecretValue) -> str | None:
        sql = "select environment, name, version, nonce, sealed from secret_versions where environment = ? and name = ?"
        for row in list(connection.execute(sql, (environment, name))):
            known = self._open(row)
            if known is not None and known == value:
                return str(row[2])
        return None


def _newest(connection: apsw.Connection, environment: str, name: str, version: str, now: float, asker: str) -> None:
    """Make a version the newest. Since when and by whom stays as it is for the one that was that already."""
    connection.execute(
        """insert into secrets (environment, name, version, changed_at, since, set_by) values (:e, :n, :v, :at, :at, :by)
           on conflict (environment, name) do update set changed_at = :at, version = :v,
           since = case when version = :v then since else :at end,
           set_by = case when version = :v then set_by else :by end""",
        {"e": environment, "n": name, "v": version, "at": now, "by": asker},
    )


def _about(environment: str, name: str, version: str) -> bytes:
    return canonical([environment, name, version])
