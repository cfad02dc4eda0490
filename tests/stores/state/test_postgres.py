"""What only a database can do wrong: sessions that end, logins that are refused, servers that are down."""

from __future__ import annotations

from typing import Any

import pytest

from falplan.core.errors import ExitCode, FalplanError, Locked, Refused, StateNotSaved
from falplan.core.state import State
from falplan.core.values import Json
from tests.stores.state.conftest import Place
from tests.stores.state.processes import Worker
from tests.stores.state.servers import Postgres, free_port
from tests.stores.state.worker import LINEAGE, entry

pytestmark = pytest.mark.needs("postgresql")
EMPTY = State("demo", LINEAGE, 0)


def _with(place: Place, **section: Any) -> Place:
    return Place({**place.section, **section}, place.root)


def _admin(postgres: Postgres, sql: str) -> list[tuple[Any, ...]]:
    import psycopg

    with psycopg.connect(postgres.dsn(), autocommit=True) as session:
        found = session.execute(sql)
        return found.fetchall() if found.description else []


END_SESSIONS = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'falplan'"


@pytest.mark.parametrize("late", ["append", "save"])
def test_a_holder_whose_session_ended_has_no_lock(postgres_place: Place, postgres: Postgres, late: str) -> None:
    """It is not opened again in silence. Seen red with a session that was opened anew for the next write."""
    store = postgres_place.open(lease=60)
    with store.locked("apply"):
        state = store.save(EMPTY)
        store.append(state, entry("app.main.a"))
        _admin(postgres, END_SESSIONS)
        with postgres_place.open().locked("destroy"):
            pass
        with pytest.raises(StateNotSaved, match=r"lock was lost[\s\S]*session of the database"):
            store.append(state, entry("app.main.late")) if late == "append" else store.save(state)

    assert set(postgres_place.open().read("demo").resources) == {"app.main.a"}  # type: ignore[union-attr]


def test_a_holder_that_is_paused_inside_a_transaction_blocks_nobody_for_longer_than_its_lease(
    postgres_place: Place,
) -> None:
    """The server ends a transaction that its client left alone. Seen red without that: the next one waited for ever."""
    with Worker(postgres_place, FALPLAN_FAILPOINTS="postgres.write.before_commit=hang@2") as first:
        assert first.says() == "locked 1"
        first.told("save")
        store = postgres_place.open()
        with store.locked("apply", timeout=30):
            read = store.read("demo")

            assert read is not None
            assert read.serial == 1


def test_a_login_that_is_refused_says_what_to_set(
    postgres_place: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _with(postgres_place, dsn=postgres.dsn("careful"))
    for password in (None, "wrong"):
        if password:
            monkeypatch.setenv("PGPASSWORD", password)
        with pytest.raises(Refused, match=r"refuses the login[\s\S]*PGPASSWORD") as caught:
            place.open().read("demo")
        assert "wrong" not in str(caught.value)
    monkeypatch.setenv("PGPASSWORD", "right")

    assert place.open().read("demo") is None


def test_a_user_who_may_not_make_tables_is_told_who_can(
    postgres_place: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "right")
    place = _with(postgres_place, dsn=postgres.dsn("careful"))

    with pytest.raises(Refused, match=r"does not allow it[\s\S]*CREATE SCHEMA"), place.open().locked("apply"):
        pass


def test_what_is_missing_and_what_is_down_are_told_apart(postgres_place: Place, postgres: Postgres) -> None:
    with pytest.raises(Refused, match=r"database is missing[\s\S]*createdb"):
        _with(postgres_place, dsn=postgres.dsn(database="absent")).open().read("demo")
    with pytest.raises(Refused, match="does not know the user"):
        _with(postgres_place, dsn=postgres.dsn(user="stranger")).open().read("demo")
    down = _with(postgres_place, dsn=f"host=127.0.0.1 port={free_port()} user=x dbname=y")
    with pytest.raises(FalplanError, match="can't be reached") as caught:
        down.open().read("demo")

    assert caught.value.exit_code is ExitCode.FAILED


def test_the_place_never_shows_a_password(postgres_place: Place, postgres: Postgres) -> None:
    from falplan.stores.state.places import open_store

    section: dict[str, Json] = {**postgres_place.section, "dsn": {"env": "DSN"}}
    environ = {"DSN": f"postgresql://careful:hunter2@127.0.0.1:{postgres.port}/state"}
    store = open_store(section, "demo", postgres_place.root, environ)

    assert "hunter2" not in store.where
    assert "hunter2" not in repr(store.backend.__dict__)
    with pytest.raises(FalplanError) as caught:
        store.read("demo")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(Refused, match="DSN holds the connection string"):
        open_store(section, "demo", postgres_place.root, {})


def test_projects_in_one_table_do_not_meet(postgres_place: Place) -> None:
    from falplan.stores.state.places import open_store

    other = open_store(postgres_place.section, "other", postgres_place.root, {})
    store = postgres_place.open()
    with store.locked("apply"), other.locked("apply"):
        store.save(EMPTY)
        assert other.read("other") is None
        with pytest.raises(Locked), postgres_place.open().locked("apply"):
            pass
