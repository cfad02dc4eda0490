"""Callers' keys in SQLite: made, verified, revoked. Knows nothing of what a key may do."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import apsw

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.runtime import Key, KeyScope
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.database import Database

LONGEST = 512
"""Characters of a presented key that are looked at; ours have 60."""

_NOBODY = bytes(32)  # compared with when there is no such key, so that both take the same time


class KeyTaken(FalplanError):
    """The id of a key belongs to another one."""


class SqliteKeyStore:
    """Keys with their hashes in memory; every change is durable before it counts, and a revoked key is refused at once.

    The hash is one SHA-256: a secret has 256 random bits, so that no dictionary can be tried and a slow hash
    would only cost every request.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        rows = database.read("select * from keys order by created_at, key_id")
        self._keys: dict[str, tuple[Key, bytes]] = {r[0]: (_key(r), r[1]) for r in rows}

    async def create(self, scope: KeyScope, description: str) -> tuple[Key, str]:
        """Make a key. The text `id:secret` is returned this once and can't be had again."""
        key_id, secret = clock.new_id("key"), clock.new_secret()
        key = await self.record(key_id, hash_of(secret), scope, description)
        return key, f"{key_id}:{secret}"

    async def record(self, key_id: str, hashed: bytes, scope: KeyScope, description: str) -> Key:
        """Record a key that its owner made; asked again with the same values, nothing changes.

        Raises:
            KeyTaken: the id belongs to another key.
        """
        key = Key(key_id, scope, description, clock.now())
        row = (key_id, hashed, scope.value, description, key.created_at)

        def work(connection: apsw.Connection) -> Any:
            connection.execute("insert into keys values (?, ?, ?, ?, ?, null) on conflict do nothing", row)
            return next(iter(connection.execute("select * from keys where key_id = ?", (key_id,))))

        fp("key.create.before_commit")
        found = await self._database.write(work)
        fp("key.create.after_commit")
        if (found[1], found[2], found[3]) != row[1:4]:
            raise KeyTaken("The key's id is taken", f"{key_id} belongs to another key.")
        self._keys[key_id] = (_key(found), found[1])
        return _key(found)

    async def revoke(self, key_id: str) -> bool:
        """End a key at once. True also if it had ended before; False if there is none."""
        if key_id not in self._keys:
            return False
        now = clock.now()

        def work(connection: apsw.Connection) -> Any:
            connection.execute(
                "update keys set revoked_at = coalesce(revoked_at, ?) where key_id = ?",
                (now, key_id),
            )
            return next(iter(connection.execute("select * from keys where key_id = ?", (key_id,))))

        row = await self._database.write(work)
        fp("key.revoke.after_commit")
        self._keys[key_id] = (_key(row), row[1])
        return True

    def verify(self, presented: str) -> Key | None:
        """The key that `id:secret` belongs to; None for anything else, however malformed."""
        key_id, colon, secret = presented[:LONGEST].partition(":")
        key, expected = self._keys.get(key_id, (None, _NOBODY))
        same = hmac.compare_digest(hash_of(secret), expected)
        if not same or key is None or not colon or key.revoked_at is not None or len(presented) > LONGEST:
            return None
        return key

    def all(self) -> list[Key]:
        """Every key, ended ones included, in order of creation."""
        return [key for key, _ in self._keys.values()]


def hash_of(secret: str) -> bytes:
    """What is kept of a key's secret: 32 bytes."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _key(row: tuple[Any, ...]) -> Key:
    return Key(row[0], KeyScope(row[2]), row[3], row[4], row[5])
