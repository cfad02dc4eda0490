"""The database: what is acknowledged is durable, what fails fails alone, what is foreign is refused."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest

from falplan.core.errors import Refused
from falplan.stores.runtime.database import GROUP, Database, StoreUnavailable
from falplan.stores.runtime.filesystems import NETWORK, filesystem_of

PROGRAMS = Path(__file__).with_name("faulty_writers.py")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "control.db")
    yield database
    database.close()


def inserting(name: str, value: str = "") -> Callable[[apsw.Connection], str]:
    def work(connection: apsw.Connection) -> str:
        connection.execute("insert into identity values (?, ?)", (name, value))
        return name

    return work


def names(database: Database) -> set[str]:
    return {row[0] for row in database.read("select name from identity")}


async def test_a_write_returns_what_the_work_returns_and_is_visible(database: Database) -> None:
    assert await database.write(inserting("a")) == "a"
    assert names(database) == {"a"}


async def test_a_failing_work_undoes_itself_alone(database: Database) -> None:
    """Seen red with a failed work that was not rolled back to its savepoint."""

    def failing(connection: apsw.Connection) -> None:
        connection.execute("insert into identity values ('half', '')")
        raise ValueError("no")

    works = [inserting("a"), failing, inserting("b"), inserting("b"), inserting("c")]
    results = await asyncio.gather(*(database.write(w) for w in works), return_exceptions=True)

    assert [type(r) for r in results] == [str, ValueError, str, apsw.ConstraintError, str]
    assert names(database) == {"a", "b", "c"}


async def test_works_of_many_callers_share_commits(database: Database) -> None:
    await asyncio.gather(*(database.write(inserting(str(n))) for n in range(3 * GROUP)))
    frames_before = database.path.with_name("control.db-wal").stat().st_size

    assert len(names(database)) == 3 * GROUP
    assert frames_before < 3 * GROUP * 4096  # a commit of its own for each would write a page each


async def test_a_caller_that_is_cancelled_does_not_undo_its_work(database: Database) -> None:
    """Seen red with a writer that skipped works whose caller was gone."""
    task = asyncio.create_task(database.write(inserting("a")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.write(inserting("b"))

    assert names(database) == {"a", "b"}


async def test_the_file_is_private_and_closing_twice_leaves_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    database = Database.open(path)
    await database.write(inserting("a"))
    database.close()
    database.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.with_name("control.db-wal").exists()
    with pytest.raises(StoreUnavailable, match="closed"):
        await database.write(inserting("b"))
    with pytest.raises(StoreUnavailable):
        database.read("select 1")


async def test_works_accepted_before_closing_are_done(tmp_path: Path) -> None:
    """Seen red with a close that left accepted works undone: their callers hung."""
    database = Database.open(tmp_path / "control.db")
    writes = [asyncio.ensure_future(database.write(inserting(str(n)))) for n in range(500)]
    await asyncio.sleep(0)
    database.close()
    await asyncio.gather(*writes)

    again = Database.open(tmp_path / "control.db")
    assert len(names(again)) == 500
    again.close()


async def test_the_database_has_the_promised_settings(database: Database) -> None:
    def settings(connection: apsw.Connection) -> list[object]:
        return [
            next(iter(connection.execute(f"pragma {p}")))[0] for p in ("journal_mode", "synchronous", "foreign_keys")
        ]

    assert await database.write(settings) == ["wal", 2, 1]
    assert apsw.sqlite_lib_version() >= "3.51.3"


async def test_a_backup_is_made_while_writing_and_never_over_another_file(database: Database, tmp_path: Path) -> None:
    await database.write(inserting("a"))
    target = tmp_path / "copy.db"
    database.backup(target)
    with pytest.raises(StoreUnavailable):
        database.backup(target)

    copy = Database.open(target)
    assert names(copy) == {"a"}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    copy.close()


async def test_no_room_refuses_the_whole_group_and_the_writer_lives_on(database: Database) -> None:
    """Seen red with a failed commit of which only the work that failed was told: the other one was acknowledged."""
    pages = database.read("pragma page_count")[0][0]
    await database.write(lambda c: c.execute(f"pragma max_page_count = {pages + 4}") and None)
    big = "x" * 100_000
    results = await asyncio.gather(
        database.write(inserting("small")), database.write(inserting("big", big)), return_exceptions=True
    )
    stored = {"small"} if results[0] == "small" else set()

    assert isinstance(results[1], StoreUnavailable)
    assert names(database) == stored
    await database.write(lambda c: c.execute("pragma max_page_count = 1000000") and None)
    await database.write(inserting("big", big))
    assert names(database) == {*stored, "big"}


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """Seen red with a writer that committed only every 50th group."""
    path = tmp_path / "control.db"
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, str(PROGRAMS), "until_killed", str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged = {writer.stdout.readline().strip() for _ in range(400)}
            writer.kill()
            acknowledged |= {
                line.strip() for line in writer.stdout.read().splitlines(keepends=True) if line[-1] == "\n"
            }
        database = Database.open(path)
        stored = names(database)
        assert database.read("pragma integrity_check") == [("ok",)]
        database.close()

        assert acknowledged <= stored
        path.unlink()


def test_nothing_is_acknowledged_before_its_commit(tmp_path: Path) -> None:
    """The writer hangs just before its 20th commit, and is killed there.

    Seen red with works that were answered before their group was committed.
    """
    path, log = tmp_path / "control.db", tmp_path / "points.log"
    point = "database.write.before_commit"
    environ = {**os.environ, "FALPLAN_FAILPOINTS": f"{point}=hang@20", "FALPLAN_FAILPOINTS_LOG": str(log)}
    with subprocess.Popen(
        [sys.executable, str(PROGRAMS), "until_killed", str(path)], stdout=subprocess.PIPE, text=True, env=environ
    ) as writer:
        assert writer.stdout is not None
        give_up = time.monotonic() + 30
        while not log.exists() or log.read_text().split().count(point) < 20:
            assert time.monotonic() < give_up, "it did not come that far in time"
            time.sleep(0.01)
        time.sleep(0.3)  # what it acknowledges now, it should not
        writer.kill()
        acknowledged = set(writer.stdout.read().split())
    database = Database.open(path)
    stored = names(database)
    database.close()

    assert acknowledged
    assert acknowledged <= stored


def test_a_full_disk_brings_refusals_and_never_a_false_acknowledgement(tmp_path: Path) -> None:
    """Seen red with a failed commit that was acknowledged."""
    path = tmp_path / "control.db"
    done = subprocess.run(
        [sys.executable, str(PROGRAMS), "full_disk", str(path)], capture_output=True, text=True, check=True
    )
    database = Database.open(path)
    stored = names(database)
    database.close()

    assert done.stderr.strip() == "refused 3"
    assert set(done.stdout.split()) == stored
    assert len(stored) == 197


def test_a_newer_schema_is_refused_by_name_and_not_touched(tmp_path: Path) -> None:
    """Seen red with migrations that did not compare the file's version with those they know."""
    path = tmp_path / "control.db"
    Database.open(path).close()
    connection = apsw.Connection(str(path))
    connection.execute("pragma user_version = 99")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(Refused, match="schema 99; this falplan knows schemas up to"):
        Database.open(path)
    assert path.read_bytes() == before


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    """Seen red with migrations that did not look whose file it is."""
    path = tmp_path / "control.db"
    connection = apsw.Connection(str(path))
    connection.execute("create table other (a)")
    connection.close()

    with pytest.raises(Refused, match="something else"):
        Database.open(path)


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    """Seen red with an open that passed SQLite's own error on."""
    path = tmp_path / "control.db"
    path.write_bytes(b"not a database" * 1000)

    with pytest.raises(StoreUnavailable):
        Database.open(path)


MOUNTS = """\
22 1 0:21 / / rw - ext4 /dev/sda1 rw
23 22 0:22 / /home rw shared:1 - nfs4 server:/home rw
24 23 0:23 / /home/me/my\\040disk rw - xfs /dev/sdb rw
25 22 0:24 / /mnt rw - ext4 /dev/sdc rw
26 25 0:25 / /mnt rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/falplan", "ext4"),
        ("/home/me", "nfs4"),
        ("/homework", "ext4"),
        ("/home/me/my disk/x", "xfs"),
        ("/mnt/x", "cifs"),
    ],
)
def test_the_longest_and_latest_mount_holds_a_folder(folder: str, kind: str) -> None:
    assert filesystem_of(folder, MOUNTS) == kind
    assert (kind in NETWORK) == (kind in ("nfs4", "cifs"))
