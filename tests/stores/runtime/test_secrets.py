"""Secrets at rest: versions by value, unreadable without the key, bound to their names, forgotten when nobody needs them."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from falplan.core.errors import FalplanError, Refused
from falplan.core.operations import Asker
from falplan.core.secret import SecretValue
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.secrets import OperationTaken, SecretStore
from falplan.stores.sealing import Seal

PLANTED = SecretValue(b"correct horse battery staple")
OTHER = SecretValue(b"\xff\n-rf {{7*7}}")
SEAL = Seal.of(b"k" * 32)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SecretStore]:
    database = Database.open(tmp_path / "control.db")
    try:
        yield SecretStore(database, SEAL)
    finally:
        database.close()


async def test_the_same_value_is_the_same_version_and_another_one_is_not(store: SecretStore) -> None:
    first = await store.put("o1", "main", "A", PLANTED)
    again = await store.put("o2", "main", "A", PLANTED)
    other = await store.put("o3", "main", "A", OTHER)
    back = await store.put("o4", "main", "A", PLANTED)
    elsewhere = await store.put("o5", "staging", "A", PLANTED)

    assert first == again == back
    assert len({first, other, elsewhere}) == 3
    assert store.reveal({"A": other})["A"] == OTHER
    assert [(r.address, r.version) for r in store.all()] == [("secret.main.A", first), ("secret.staging.A", elsewhere)]


async def test_an_operation_that_is_repeated_late_has_no_second_effect(store: SecretStore) -> None:
    """Seen red without the lookup of the operation: the older value was the newest again."""
    first = await store.put("o1", "main", "A", PLANTED)
    second = await store.put("o2", "main", "A", OTHER)

    assert await store.put("o1", "main", "A", PLANTED) == first
    assert store.all()[0].version == second
    with pytest.raises(OperationTaken):
        await store.put("o1", "main", "B", PLANTED)


async def test_nothing_of_a_value_is_in_the_files(store: SecretStore, tmp_path: Path) -> None:
    """Seen red with a seal that encrypts nothing."""
    await store.put("o1", "main", "A", PLANTED)
    files = list(tmp_path.iterdir())

    assert any(p.name.endswith("-wal") for p in files)
    assert not [p for p in files if b"horse" in p.read_bytes()]


async def test_a_value_that_was_moved_to_another_name_is_not_opened(store: SecretStore, tmp_path: Path) -> None:
    """Seen red with a seal that authenticates no names."""
    version = await store.put("o1", "main", "A", PLANTED)
    thief = apsw.Connection(str(tmp_path / "control.db"))
    thief.execute("update secret_versions set name = 'PUBLIC'")
    thief.close()

    with pytest.raises(FalplanError, match=r"PUBLIC .* is gone"):
        store.reveal({"PUBLIC": version})


async def test_no_byte_of_a_kept_value_can_be_changed_unnoticed(store: SecretStore, tmp_path: Path) -> None:
    """200 changes of what is stored: the value is never given out, is told as damaged, and a new delivery is kept beside it.

    Seen red with versions that count as kept because their row is there.
    """
    version = await store.put("o1", "main", "A", PLANTED)
    thief = apsw.Connection(str(tmp_path / "control.db"))
    (kept,) = list(thief.execute("select nonce, sealed from secret_versions"))
    for number in range(200):
        nonce, sealed = bytearray(kept[0]), bytearray(kept[1])
        at = number % (len(nonce) + len(sealed))
        changed = nonce if at < len(nonce) else sealed
        changed[at - (0 if changed is nonce else len(nonce))] ^= 1 + number
        thief.execute("update secret_versions set nonce = ?, sealed = ?", (bytes(nonce), bytes(sealed)))

        assert [row.damaged for row in store.all()] == [(version,)]
        assert store.missing({"A": version}) == ["A"]
        with pytest.raises(FalplanError, match=r"damaged.*falplan apply"):
            store.reveal({"A": version})
    thief.close()

    assert await store.put("o2", "main", "A", PLANTED) != version


async def test_what_another_key_closed_is_as_good_as_not_there(store: SecretStore) -> None:
    version = await store.put("o1", "main", "A", PLANTED)
    later = SecretStore(store._database, Seal.of(b"l" * 32))

    assert later.all() == []
    assert later.missing({"A": version}) == ["A"]
    with pytest.raises(FalplanError, match="falplan apply"):
        later.reveal({"A": version})
    assert await later.put("o2", "main", "A", PLANTED) != version


async def test_versions_that_nobody_needs_are_forgotten_but_the_newest(store: SecretStore) -> None:
    versions = [await store.put(f"o{n}", "main", "A", SecretValue(b"%d" % n)) for n in range(4)]
    await store.keep_only([versions[1]])

    assert store.all()[0].versions == (versions[1], versions[3])


async def test_a_removed_secret_is_gone_with_all_versions(store: SecretStore) -> None:
    version = await store.put("o1", "main", "A", PLANTED)

    assert await store.remove("main", "A")
    assert not await store.remove("main", "A")
    assert store.missing({"A": version}) == ["A"]


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    made = Seal.kept_in(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Seal.kept_in(path) == made
    assert path.read_bytes().hex() not in repr(made)
    path.write_bytes(b"short")
    with pytest.raises(Refused, match="Restore it"):
        Seal.kept_in(path)


async def test_since_when_and_by_whom_is_of_the_newest_version(store: SecretStore) -> None:
    """Seen red with a time and a name that every put renewed, and with ones that none did."""
    kim, lee = Asker("key-1", "Kim"), Asker("key-2", "Lee")
    await store.put("o1", "main", "A", PLANTED, asker=kim)
    (first,) = store.all()
    await store.put("o2", "main", "A", PLANTED, asker=lee)
    (same,) = store.all()
    await store.put("o3", "main", "A", OTHER, asker=lee)
    (other,) = store.all()

    assert (first.by, same.by, other.by) == ("Kim (key-1)", "Kim (key-1)", "Lee (key-2)")
    assert first.since == same.since < same.changed_at < other.since == other.changed_at
