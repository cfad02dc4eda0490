"""Migrations: a database is brought up whole or not at all, whoever made it, and can go back to what it was."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from falplan.core.errors import FalplanError, Refused
from falplan.core.operations import NOBODY
from falplan.stores.runtime.control import ControlStore
from falplan.stores.runtime.copies import KEPT, copies_before, keep_before, restore_before
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.migrations import migrate
from falplan.stores.runtime.schema import APPLICATION_ID, VERSIONS, Schema, bring_up_to_date, look, newest

BEFORE_ALEMBIC = Path(__file__).with_name("before_alembic")
KILLED = Path(__file__).parents[1] / "killed_at_lines.py"


def old_database(path: Path, number: int) -> Path:
    """A database as falplan made it before Alembic, with a row, in the log's mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode = wal")
    for file in sorted(BEFORE_ALEMBIC.glob("*.sql"))[:number]:
        connection.execute(file.read_text())
    connection.execute(f"pragma user_version = {number}")
    connection.execute(f"pragma application_id = {APPLICATION_ID}")
    connection.execute("insert into keys values ('kept', x'00', 'API', '', 1.0, null)")
    connection.close()
    return path


def structure(path: Path) -> dict[str, Any]:
    """Everything about a schema but the way it is written. Primary keys are never null, said or not."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return sorted(connection.execute(sql), key=repr)

    tables = rows("select name, ncol, wr, strict from pragma_table_list where schema = 'main'")
    found: dict[str, Any] = {"number": rows("pragma user_version"), "mark": rows("pragma application_id")}
    for name, *shape in tables:
        if name.startswith("sqlite_"):
            continue
        columns = rows(
            f"select name, upper(type), max(\"notnull\", pk > 0), dflt_value, pk from pragma_table_xinfo('{name}')"
        )
        foreign = rows(f'select "table", "from", "to", on_delete from pragma_foreign_key_list(\'{name}\')')
        found[name] = (shape, columns, foreign)
        for index, unique, origin, partial in rows(
            f"select name, \"unique\", origin, partial from pragma_index_list('{name}')"
        ):
            text = " ".join(
                str(s).lower().split(" where ")[-1]
                for (s,) in rows(f"select sql from sqlite_schema where name = '{index}'")
                if partial
            )
            of = rows(f"select seqno, name, \"desc\" from pragma_index_xinfo('{index}') where key")
            found[f"{name}.{index}"] = (unique, origin, partial, text, of)
    autoincrement = {n for (n,) in rows("select name from sqlite_schema where lower(sql) like '%autoincrement%'")}
    connection.close()
    return {**found, "autoincrement": autoincrement}


def versions_in(folder: Path, *bodies: str) -> Path:
    """A folder of versions of a test's own, after falplan's."""
    folder.mkdir()
    (folder / "versions").mkdir()
    for path in VERSIONS.glob("0*.py"):
        (folder / "versions" / path.name).write_text(path.read_text())
    first = newest() + 1
    for number, body in enumerate(bodies, first):
        head = f"from alembic import op\nrevision = '{number:04d}'\ndown_revision = '{number - 1:04d}'\n"
        lines = "".join(f"    op.execute({line!r})\n" for line in body.split("; "))
        (folder / "versions" / f"{number:04d}_more.py").write_text(f"{head}\ndef upgrade():\n{lines}")
    return folder / "versions"


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        return {r[0] for r in connection.execute("select name from sqlite_schema where type = 'table'")}
    finally:
        connection.close()


def test_fresh_and_migrated_databases_have_the_same_schema(tmp_path: Path) -> None:
    """Seen red with a version that lacked an index, and with one whose column had another type."""
    fresh, from_nothing = tmp_path / "fresh.db", tmp_path / "nothing.db"
    for path in (fresh, from_nothing):
        path.touch()
    bring_up_to_date(fresh)
    migrate(from_nothing, look(from_nothing))
    old = [old_database(tmp_path / f"old{n}.db", n) for n in (1, 2)]
    for path in old:
        bring_up_to_date(path)

    assert structure(from_nothing) == structure(fresh)
    for path in old:
        assert structure(path) == structure(fresh)


@pytest.mark.parametrize("number", [1, 2])
def test_a_database_from_before_alembic_is_taken_over_with_what_it_holds(tmp_path: Path, number: int) -> None:
    """Seen red with a migration that did not stamp what it found: the first step failed on tables that were there."""
    path = old_database(tmp_path / "control.db", number)
    for _ in range(2):  # the second time there is nothing to do
        database = Database.open(path)
        assert database.read("select key_id from keys") == [("kept",)]
        assert database.read("select version_num from alembic_version") == [(f"{newest():04d}",)]
        database.close()

    assert len(copies_before(path)) == (1 if number < newest() else 0)


def test_a_fresh_database_is_no_reason_to_import_alembic_nor_is_one_that_is_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    code = (
        "import sys; from pathlib import Path; from falplan.stores.runtime.database import Database\n"
        f"[Database.open(Path({str(path)!r})).close() for _ in range(2)]\n"
        "print(*[m for m in ('alembic', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == ""


def newer_database(folder: Path) -> Path:
    """A database of a newer falplan as a killed process left it: its last row is in the log alone."""
    path = folder / "made" / "control.db"
    path.parent.mkdir()
    Database.open(path).close()
    bring_up_to_date(path, versions_in(folder / "v", "create table later (x)"))
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode = wal")
    connection.execute("insert into later values (1)")
    shutil.copytree(path.parent, folder / "crashed")
    connection.close()
    return folder / "crashed" / "control.db"


def test_a_copy_is_kept_beside_the_database_and_going_back_brings_it_back(tmp_path: Path) -> None:
    """Seen red without the copy."""
    path = newer_database(tmp_path)
    copy = path.with_name(f"control.db.before-{newest() + 1:04d}")

    assert copies_before(path) == [copy]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    for _ in range(2):
        restore_before(path)
        assert "later" not in tables(path)
        assert look(path).number == newest()
    Database.open(path).close()


def test_going_back_from_a_damaged_database_takes_nothing_of_its_log(tmp_path: Path) -> None:
    """Seen red with a way back that gave up when it could not read what it replaces."""
    path = newer_database(tmp_path)
    path.write_bytes(b"x" * path.stat().st_size)
    assert path.with_name("control.db-wal").stat().st_size
    restore_before(path)

    assert sqlite3.connect(path).execute("pragma integrity_check").fetchall() == [("ok",)]
    assert look(path).number == newest()


def test_the_newest_two_copies_stay(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    Database.open(path).close()
    for number in (10, 11, 12, 13):
        keep_before(path, number)

    assert [p.name for p in copies_before(path)] == ["control.db.before-0012", "control.db.before-0013"]
    assert len(copies_before(path)) == KEPT


def test_an_upgrade_tried_again_keeps_the_copy_from_its_beginning_and_a_later_one_makes_its_own(tmp_path: Path) -> None:
    """Seen red with a copy that was made anew at each try: it then held the schema of the middle."""
    path = tmp_path / "control.db"
    Database.open(path).close()
    failing = versions_in(tmp_path / "v1", "create table one (x)", "create table one (x)")
    mended = versions_in(tmp_path / "v2", "create table one (x)", "create table two (x)")
    with pytest.raises(sqlite3.OperationalError, match="one already exists"):
        bring_up_to_date(path, failing)
    assert look(path).number == newest() + 1
    bring_up_to_date(path, mended)
    assert look(copies_before(path)[-1]).number == newest()

    restore_before(path)
    connection = apsw.Connection(str(path))
    connection.execute("insert into identity values ('since', '')")
    connection.close()
    bring_up_to_date(path, mended)
    restore_before(path)
    assert sqlite3.connect(path).execute("select name from identity").fetchall() == [("since",)]


def test_nothing_to_go_back_to_is_said(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    Database.open(path).close()
    restore_before(path)  # it can be used as it is

    with pytest.raises(FalplanError, match="no copy"):
        restore_before(path, known=1)


def test_going_back_is_for_a_database_that_is_too_new_alone(tmp_path: Path) -> None:
    """Seen red with a way back that took the newest copy whatever the database was: writes of months were lost."""
    path = old_database(tmp_path / "control.db", 1)
    bring_up_to_date(path)
    connection = apsw.Connection(str(path))
    connection.execute("insert into identity values ('since', '')")
    connection.close()
    restore_before(path)

    assert sqlite3.connect(path).execute("select name from identity").fetchall() == [("since",)]


def test_a_step_that_fails_half_way_leaves_nothing_of_itself(tmp_path: Path) -> None:
    """Seen red with the driver left in autocommit."""
    path = tmp_path / "control.db"
    Database.open(path).close()
    before = structure(path)
    with pytest.raises(sqlite3.OperationalError):
        bring_up_to_date(path, versions_in(tmp_path / "v", "create table half (x); create table keys (x)"))

    assert structure(path) == before


def test_a_number_that_only_alembic_recorded_is_refused_when_it_is_newer(tmp_path: Path) -> None:
    """Seen red with a look at `user_version` alone."""
    path = tmp_path / "control.db"
    Database.open(path).close()
    connection = apsw.Connection(str(path))
    connection.execute("update alembic_version set version_num = '0099'")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(Refused, match="schema 99; this falplan knows schemas up to"):
        Database.open(path)
    assert path.read_bytes() == before


def test_a_migration_killed_at_any_line_leaves_the_old_schema_or_the_new_one(light_folder: Path) -> None:
    """Each line of falplan's own code, failpoints included. Seen red with the driver left in autocommit."""
    old_database(light_folder / "seed" / "control.db", 1)
    lines, states = killed("migrate", light_folder)
    fresh = light_folder / "fresh.db"
    fresh.touch()
    bring_up_to_date(fresh)
    wanted, seen = structure(fresh), set()
    for state in range(1, states + 1):
        path = light_folder / str(state) / "control.db"
        found = look(path)
        seen.add((found.number, found.stamped))
        holds = tables(path)
        assert ("apps" in holds) == (found.number >= 2), f"state {state}: half a step"
        bring_up_to_date(path)
        assert structure(path) == wanted, f"state {state}"
        assert sqlite3.connect(path).execute("select key_id from keys").fetchall() == [("kept",)]
        assert look(copies_before(path)[-1]).number == 1, f"state {state}: the copy is not of the beginning"

    assert lines > 100
    assert states > 8
    assert {(1, False), (1, True), (newest(), True)} <= seen


def test_a_way_back_killed_at_any_line_leaves_the_old_database_or_the_new_one(light_folder: Path) -> None:
    """Seen red with a way back that removed the database before the copy was in its place."""
    path = old_database(light_folder / "seed" / "control.db", 1)
    bring_up_to_date(path)
    lines, states = killed("go back", light_folder)
    for state in range(1, states + 1):
        path = light_folder / str(state) / "control.db"
        assert look(path).number in (1, newest())
        restore_before(path, known=1)
        assert look(path).number == 1
        assert sqlite3.connect(path).execute("select key_id from keys").fetchall() == [("kept",)]

    assert lines > 15
    assert states > 3


def killed(step: str, folder: Path) -> tuple[int, int]:
    done = subprocess.run([sys.executable, str(KILLED), step, str(folder)], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    lines, states = done.stdout.split()
    return int(lines), int(states)


@pytest.mark.parametrize(
    "point",
    [
        "database.keep.before_copy",
        "database.keep.before_rename",
        "database.stamp.before",
        "database.migrate.before",
        "database.migrate.before_commit",  # of the stamp
        "database.migrate.before_commit@2",  # of the first step
        "database.migrate.after",
    ],
)
def test_a_program_killed_while_it_migrates_is_followed_by_one_that_does_it(tmp_path: Path, point: str) -> None:
    """A real SIGKILL. Seen red with the driver left in autocommit."""
    path = old_database(tmp_path / "control.db", 1)
    code = (
        f"from pathlib import Path; from falplan.stores.runtime.schema import *; bring_up_to_date(Path({str(path)!r}))"
    )
    name, _, nth = point.partition("@")
    environ = {**os.environ, "FALPLAN_FAILPOINTS": f"{name}=kill@{nth or 1}"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, timeout=120, check=False)

    assert done.returncode == -signal.SIGKILL
    assert ("apps" in tables(path)) == (look(path).number >= 2) == (point == "database.migrate.after")
    Database.open(path).close()
    assert look(path) == Schema(newest(), stamped=True, ours=True, empty=False)
    assert sqlite3.connect(path).execute("select key_id from keys").fetchall() == [("kept",)]


@pytest.mark.parametrize("point", ["database.restore.before_rename", "database.restore.after_rename"])
def test_a_program_killed_while_it_goes_back_is_followed_by_one_that_does_it(tmp_path: Path, point: str) -> None:
    """A real SIGKILL. Seen red with a way back that removed the database before the copy was in its place."""
    path = newer_database(tmp_path)
    code = f"from pathlib import Path; from falplan.stores.runtime.copies import *; restore_before(Path({str(path)!r}))"
    environ = {**os.environ, "FALPLAN_FAILPOINTS": f"{point}=kill"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, timeout=120, check=False)

    assert done.returncode == -signal.SIGKILL
    assert look(path).number == newest() + (1 if point.endswith("before_rename") else 0)
    restore_before(path)
    assert look(path).number == newest()
    Database.open(path).close()


def test_versions_are_numbered_without_gaps_and_know_no_way_down() -> None:
    found = sorted(VERSIONS.glob("*.py"))
    assert [int(p.name[:4]) for p in found] == list(range(1, len(found) + 1))
    for number, path in enumerate(found, 1):
        names: dict[str, Any] = {}
        functions: set[str] = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                names |= {t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)}
            if isinstance(node, ast.FunctionDef):
                functions.add(node.name)
        assert names["revision"] == f"{number:04d}"
        assert names["down_revision"] == (f"{number - 1:04d}" if number > 1 else None)
        assert "upgrade" in functions
        assert "downgrade" not in functions


def test_what_served_before_overrides_were_kept_can_be_gone_back_to(tmp_path: Path) -> None:
    """The inputs of a revision that serves are its app's; of one that served before, nobody knows them.

    Seen red with a step that added empty columns alone: after the upgrade no revision was known to have served.
    """
    folder = tmp_path / "old" / "versions"
    folder.mkdir(parents=True)
    for number in ("0001", "0002", "0003"):
        (source,) = VERSIONS.glob(f"{number}_*.py")
        (folder / source.name).write_text(source.read_text())
    path = tmp_path / "control.db"
    path.touch()
    bring_up_to_date(path, folder)
    assert look(path).number == 3
    connection = apsw.Connection(str(path))
    connection.execute("""
        insert into apps (endpoint, address, revision, inputs, settings) values ('a/one', 'app.main.one', 'r-2', '{"x":1}', '{}');
        insert into revisions values ('a/one', 'r-1', '{}', 10.0), ('a/one', 'r-2', '{}', 20.0), ('a/gone', 'r-2', '{}', 5.0),
            ('a/one', 'r-0', '{}', 8.0);
        insert into events (at, kind, subject, message) values (11.0, 'app.switched', 'a/one', 'r-1 serves now'),
            (12.0, 'app.switched', 'a/one', 'r-1 serves now in place of r-0'), (13.0, 'rollout.failed', 'a/one', 'r-0 serves now');
        insert into secrets values ('main', 'T', 'secret-1', 30.0);
        insert into operations values ('op-1', 'prune', '{}', '', 'done', '{}', 40.0, 41.0);
        insert into rollouts (endpoint, revision, before, strategy, phase, operation, inputs, settings)
            values ('a/one', 'r-2', 'r-1', 'rolling', 'done', 'op-1', '{}', '{}');
    """)
    connection.close()
    database = Database.open(path)
    store = ControlStore(database)
    kept = {(r.endpoint, r.revision): (r.inputs, r.served_at) for r in store.revisions()}

    assert kept == {
        ("a/one", "r-0"): (None, None),
        ("a/one", "r-1"): (None, 12.0),
        ("a/one", "r-2"): ({"x": 1}, 20.0),
        ("a/gone", "r-2"): (None, None),
    }
    assert [a.overrides for a in store.apps()] == [r.overrides for r in store.rollouts()] == [{}]
    assert [(o.operation, o.asker, o.subject) for o in store.operations()] == [("op-1", NOBODY, "")]
    assert database.read("select since, set_by from secrets") == [(30.0, "")]
    database.close()
