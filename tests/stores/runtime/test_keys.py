"""Keys: made once, verified exactly, ended at once, never stored in the clear."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falplan.core.runtime import KeyScope
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.keys import SqliteKeyStore


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "control.db")
    yield database
    database.close()


async def test_a_key_verifies_until_it_is_revoked_also_after_a_restart(database: Database) -> None:
    keys = SqliteKeyStore(database)
    key, presented = await keys.create(KeyScope.ADMIN, "for ops")
    assert keys.verify(presented) == key
    assert SqliteKeyStore(database).verify(presented) == key

    assert await keys.revoke(key.key_id)
    assert keys.verify(presented) is None
    assert SqliteKeyStore(database).verify(presented) is None
    assert await keys.revoke(key.key_id)
    assert not await keys.revoke("key-unknown")


async def test_the_first_revocation_keeps_its_time(database: Database) -> None:
    keys = SqliteKeyStore(database)
    key, _ = await keys.create(KeyScope.API, "")
    await keys.revoke(key.key_id)
    first = keys.all()[0].revoked_at
    await keys.revoke(key.key_id)

    assert first is not None
    assert keys.all()[0].revoked_at == first


async def test_the_secret_is_nowhere_on_disk(database: Database, tmp_path: Path) -> None:
    keys = SqliteKeyStore(database)
    _, presented = await keys.create(KeyScope.API, "canary")
    secret = presented.partition(":")[2]

    assert len(secret) >= 43
    assert all(secret.encode() not in p.read_bytes() for p in tmp_path.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(), st.text())
async def test_nothing_else_verifies_and_nothing_raises(database: Database, before: str, after: str) -> None:
    keys = SqliteKeyStore(database)
    key, presented = await keys.create(KeyScope.API, "")
    secret = presented.partition(":")[2]

    for text in (
        before,
        before + ":" + after,
        key.key_id,
        key.key_id + ":" + after,
        before + ":" + secret,
        ":" + secret,
    ):
        assert keys.verify(text) is None
    if before or after:
        assert keys.verify(before + presented + after) is None
