"""Credentials that expire in mid-apply: of the state's bucket, of its database, and of the control plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from falplan.engine.local_gateway import reach
from falplan.stores.home import ControlHome
from tests.acceptance.test_whereabouts import Teammate
from tests.faults.cheap import Cheap, cheap, ended, no_bug
from tests.faults.sandbox import Ran, Sandbox, wait_until
from tests.stores.state.servers import KEYS, Postgres, make_bucket, postgres_server, s3_server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ONE_BY_ONE = ("apply", "--auto-approve", "--parallelism", "1", "--lock-timeout", "60")


def expires_in_mid_apply(box: Cheap, expire: Callable[[], None]) -> Ran:
    """An apply whose credentials expire while its third operation is under way, which then ends."""
    process = box.start(*ONE_BY_ONE, FALPLAN_TEST_GATE=str(box.gate), FALPLAN_TEST_FREE="2")
    try:
        wait_until(lambda: len(box.lines()) >= 5 or process.poll() is not None, 90, lambda: f"{box.lines()}")
        expire()
        box.gate.touch()
        return ended(process)
    finally:
        if process.poll() is None:
            process.kill()


def check_stopped(box: Cheap, ran: Ran, *said: str) -> None:
    """It stopped cleanly, told what expired and what to do, and what it knows is in a file that the next run offers to push."""
    no_bug(ran)
    assert ran.code == 5, ran.err
    for words in said:
        assert words in " ".join(ran.err.lower().split()), ran.err
    assert "Apply did not finish: 3 done, 0 failed, 0 skipped, 2 not begun." in ran.err
    kept = box.state_folder / "errored.json"
    assert f"falplan state push {kept}" in ran.err
    assert len([line for line in box.lines() if line["is"] == "begun"]) == 3, "something was begun afterwards"


def check_goes_on(box: Cheap) -> None:
    """With good credentials: plan warns, apply refuses until it is pushed; then everything converges, nothing was made twice."""
    planned = box.run("plan")
    assert "Warning: state of an earlier apply was not saved." in planned.err
    refused = box.run(*ONE_BY_ONE)
    assert (refused.code, "Push it: `falplan state push" in refused.err) == (6, True), refused.err
    box.check_nothing_lost()
    box.must("state", "push", "--auto-approve", str(box.state_folder / "errored.json"))
    box.must(*ONE_BY_ONE)
    assert box.run("plan", "--detailed-exitcode").code == 0
    box.check_made_once()
    assert set(box.read().resources) == set(box.living())


LEASE = {"FALPLAN_STATE_LEASE": "20"}


def test_a_buckets_credentials_that_expire_stop_the_apply_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red with a last save that could not look at the bucket first and ended falplan as a refusal: what was done was known to nobody."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    expired = tmp_path / "expired"
    with s3_server(expired=expired) as url:
        make_bucket(url, "states")
        state = f"{{backend: s3, bucket: states, key: p/state.json, endpoint_url: '{url}', region: us-east-1}}"
        with cheap(state=state, more={**KEYS, **LEASE}) as box:
            ran = expires_in_mid_apply(box, expired.touch)
            check_stopped(box, ran, "the credentials for the state's bucket have expired", "renew them (aws sso login)")
            expired.unlink()
            check_goes_on(box)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.mark.needs("postgresql")
def test_a_databases_password_that_changes_stops_the_apply_and_loses_nothing(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sessions are ended, too, as at a rotation. Seen red as above: exit 6, and no file."""
    import psycopg

    def sql(*statements: str) -> None:
        with psycopg.connect(postgres.dsn(), autocommit=True) as session:
            for statement in statements:
                session.execute(statement)

    sql("grant create on database state to careful")
    monkeypatch.setenv("PGPASSWORD", "right")
    state = f"{{backend: postgres, dsn: '{postgres.dsn('careful')}'}}"
    with cheap(state=state, more={**LEASE, "PGPASSWORD": "right"}) as box:
        rotated = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'careful'"
        ran = expires_in_mid_apply(box, lambda: sql("alter role careful password 'rotated'", rotated))
        check_stopped(box, ran, "the state's database refuses the login", "was changed or has expired: set pgpassword")
        assert "right" not in ran.err.replace("--auto-approve", "")
        monkeypatch.setenv("PGPASSWORD", "rotated")
        box.more["PGPASSWORD"] = "rotated"
        check_goes_on(box)


def test_an_admins_key_that_is_revoked_leaves_its_operation_open_for_the_next_one(box: Sandbox) -> None:
    """Seen red with a refused key that counted as the operation's failure: it was closed as failed, and went on behind it."""
    box.must("apply", "--auto-approve")
    mate = Teammate(box)
    key = mate.give_key()
    key_id = key.partition(":")[0]
    mate.version = 2
    mate.write()
    # The new revision takes its time to get ready: the operation is under way when the key goes.
    server = mate.project / "one.py"
    server.write_text("import time\ntime.sleep(4)\n" + server.read_text())
    process = mate.start("apply", "--auto-approve", "--parallelism", "1", FALPLAN_KEY=key)
    assert process.stderr is not None
    line = ""
    while "app.main.one: Modifying" not in line:
        line = process.stderr.readline()
        assert line, process.communicate()
    [home] = [ControlHome(p) for p in (box.folder / "state" / "falplan").glob("*")]
    admin = reach(home)
    assert admin is not None
    admin.send("DELETE", f"/keys/{key_id}", operation="revoke-the-mates-key")
    out, err = process.communicate(timeout=120)
    intents = {r["address"]: r.get("intent") for r in box.state()["resources"]}

    assert process.returncode == 1, out + err
    assert "The control plane refuses the key" in err
    assert "falplan login" in err
    assert key not in out + err
    assert "Apply did not finish" in err
    assert "State is saved." in err
    assert intents["app.main.one"], err
    refused = mate.run("apply", "--auto-approve", FALPLAN_KEY=key)
    assert (refused.code, "refuses this key" in refused.out + refused.err) == (1, True), refused.out + refused.err

    (box.project / "one.py").write_text(server.read_text())
    (box.project / "two.py").write_text((mate.project / "two.py").read_text())
    box.must("apply", "--auto-approve")
    assert box.run("plan", "--detailed-exitcode").code == 0
    box.check_processes()


@pytest.fixture
def box() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    try:
        yield sandbox
    finally:
        sandbox.clean()
