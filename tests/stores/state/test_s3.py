"""What only S3 can do wrong: conditions that nobody heeds, credentials, buckets, answers that never come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import ExitCode, FalplanError, Refused, StateNotSaved
from falplan.core.state import State, StateUnreadable, replay
from falplan.stores.state import s3
from falplan.stores.state.holding import new_holder
from falplan.stores.state.s3_client import Bucket, Where, _Conflict, _Missing, _Refused, _told
from tests.stores.state.conftest import BUCKET, Place
from tests.stores.state.servers import client, free_port, make_bucket, s3_server
from tests.stores.state.worker import LINEAGE, entry

pytestmark = pytest.mark.faults

EMPTY = State("demo", LINEAGE, 0)


@pytest.fixture(scope="module")
def deaf() -> Iterator[str]:
    with s3_server(deaf=True) as url:
        make_bucket(url, BUCKET)
        yield url


def test_a_server_that_ignores_conditions_is_refused_by_name(deaf: str, s3_place: Place) -> None:
    """Seen red without the probe: two writers both held the lock."""
    place = Place({**s3_place.section, "endpoint_url": deaf}, s3_place.root)

    with pytest.raises(Refused, match=r"ignores If-None-Match"), place.open().locked("apply"):
        pass
    assert place.open().holder() is None
    assert place.open().read("demo") is None


def test_a_bucket_that_is_missing_is_said_so(s3_place: Place) -> None:
    place = Place({**s3_place.section, "bucket": "no-such-bucket"}, s3_place.root)

    with pytest.raises(Refused, match="aws s3 mb s3://no-such-bucket"):
        place.open().read("demo")
    with pytest.raises(Refused, match="bucket is missing"), place.open().locked("apply"):
        pass


def test_no_credentials_wrong_ones_and_forbidden_ones_are_told_apart(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server looks at credentials from its fourth call on."""
    with s3_server(checked_after=3) as url:
        make_bucket(url, BUCKET)
        iam: Any = client(url, "iam")
        iam.create_user(UserName="nobody")
        keys = iam.create_access_key(UserName="nobody")["AccessKey"]
        place = Place({**s3_place.section, "endpoint_url": url}, s3_place.root)
        with pytest.raises(Refused, match="credentials for the state's bucket are wrong"):
            place.open().read("demo")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
        with pytest.raises(Refused, match=r"may not be used[\s\S]*s3:PutObject"):
            place.open().read("demo")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    with pytest.raises(Refused, match=r"no credentials[\s\S]*AWS_PROFILE"):
        s3_place.open().read("demo")
    with pytest.raises(Refused, match="no such AWS profile"):
        Place({**s3_place.section, "profile": "absent"}, s3_place.root).open().read("demo")


def test_a_server_that_is_down_is_no_empty_state(s3_place: Place) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    place = Place({**s3_place.section, "endpoint_url": url}, s3_place.root)

    with pytest.raises(FalplanError, match="can't be reached") as caught:
        place.open().read("demo")
    assert caught.value.exit_code is ExitCode.FAILED


@pytest.mark.parametrize(
    ("code", "status", "summary"),
    [
        ("PermanentRedirect", 301, "another region"),
        ("AuthorizationHeaderMalformed", 400, "another region"),
        ("ExpiredToken", 400, "expired"),
        ("RequestTimeTooSkewed", 403, "clock is wrong"),
        ("AccessDenied", 403, "may not be used"),
        ("403", 403, "may not be used"),
        ("NotImplemented", 501, "lacks what falplan needs"),
        ("InternalError", 500, "can't be used"),
    ],
)
def test_every_answer_of_s3_says_what_to_do(code: str, status: int, summary: str) -> None:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = _told(ClientError(answer, "PutObject"), Where("b", "k"))

    assert isinstance(error, FalplanError)
    assert summary in error.summary
    assert error.detail.startswith("s3://b/k: ")
    assert (error.exit_code is ExitCode.FAILED) is (status >= 500)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, _Missing),
        ("404", 404, _Missing),
        ("412", 412, _Refused),
        ("PreconditionFailed", 412, _Refused),
        ("ConditionalRequestConflict", 409, _Conflict),
    ],
)
def test_answers_that_are_no_errors(code: str, status: int, kind: type[Exception]) -> None:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}

    assert isinstance(_told(ClientError(answer, "PutObject"), Where("b", "k")), kind)


def test_a_write_whose_answer_was_lost_is_found_to_be_ours(s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore repeats a request whose answer never came: the second one is refused by what the first one wrote. Seen red without a look."""
    bucket = Bucket(Where(BUCKET, "lost", endpoint_url=str(s3_place.section["endpoint_url"])))
    real = bucket._call
    times: list[str] = []

    def twice(name: str, **given: Any) -> Any:
        if name == "put_object" and not times:
            times.append(name)
            real(name, **given)
        return real(name, **given)

    monkeypatch.setattr(bucket, "_call", twice)

    etag = bucket.put("lost", b"1", expected=None)
    assert etag is not None
    assert etag == bucket.etag("lost")
    assert bucket.put("lost", b"2", expected=None) is None
    times.clear()
    assert bucket.put("lost", b"3", expected=etag) is not None
    assert bucket.put("lost", b"4", expected=etag) is None


def test_a_lock_that_was_removed_by_hand_lets_nobody_interleave(s3_place: Place) -> None:
    """Its holder lives on and is refused: whoever finds a state without a lock fences first. Seen red without that."""
    store, objects = s3_place.open(lease=600), client(str(s3_place.section["endpoint_url"]))
    with store.locked("apply"):
        state = store.save(EMPTY)
        store.append(state, entry("app.main.a"))
        objects.delete_object(Bucket=BUCKET, Key=f"{s3_place.section['key']}.lock")
        with s3_place.open().locked("destroy"), pytest.raises(StateNotSaved, match="lock was lost"):
            store.append(state, entry("app.main.late"))
        with pytest.raises(StateNotSaved):
            store.save(state)

    assert set(s3_place.open().read("demo").resources) == {"app.main.a"}  # type: ignore[union-attr]


def test_a_fence_begins_again_while_the_former_holder_is_faster(
    s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry and a snapshot come between reading and closing: both are read, none is lost. Seen red with a fence of one round."""
    former = s3_place.open(lease=600)
    taker = s3_place.open()
    backend = taker.backend
    assert isinstance(backend, s3.S3Objects)
    holder = replace(new_holder("apply"), host="another-machine", pid=1)
    with former._holding(former.backend.acquire(holder)):
        state = former.save(EMPTY)
        real, rounds = backend.close_journal, []

        def close(log: Any, seq: int) -> bool:
            rounds.append(seq)
            if len(rounds) == 1:
                former.append(state, entry("app.main.a"))
            if len(rounds) == 2:
                former.save(replay(state, [entry("app.main.a")]))
            return real(log, seq)

        monkeypatch.setattr(backend, "close_journal", close)
        taker.force_unlock(holder.lock_id)
        with pytest.raises(StateNotSaved, match="lock was lost"):
            former.read("demo")  # what it would read now would be good to write upon
        with pytest.raises(StateNotSaved):
            former.append(state, entry("app.main.late"))

    assert len(rounds) == 3
    assert set(s3_place.open().read("demo").resources) == {"app.main.a"}  # type: ignore[union-attr]


def test_a_former_holder_that_had_not_read_yet_is_refused_too(s3_place: Place) -> None:
    """It was paused between taking the lock and reading. Seen red with a read that did not look at the lock afterwards."""
    with s3_place.open().locked("apply"):
        pass
    former, holder = s3_place.open(lease=600), replace(new_holder("apply"), host="another-machine", pid=1)
    with former._holding(former.backend.acquire(holder)):
        s3_place.open().force_unlock(holder.lock_id)
        with s3_place.open().locked("apply"), pytest.raises(StateNotSaved, match="lock was lost"):
            former.read("demo")


@pytest.mark.parametrize("read_before", [True, False])
def test_a_former_holder_of_a_state_that_was_never_saved_is_refused(s3_place: Place, read_before: bool) -> None:
    """Seen red with a fence that did nothing where there was no state: its first snapshot went through."""
    former, holder = s3_place.open(lease=600), replace(new_holder("apply"), host="another-machine", pid=1)
    with former._holding(former.backend.acquire(holder)):
        if read_before:
            assert former.read("demo") is None
        s3_place.open().force_unlock(holder.lock_id)
        with pytest.raises(StateNotSaved, match="lock was lost"):
            former.save(EMPTY)
    store = s3_place.open()
    assert store.read("demo") is None
    with store.locked("apply"):
        saved = store.save(EMPTY)

    assert s3_place.open().read("demo") == saved
    assert s3_place.open().backups() == []


def test_who_was_refused_once_stays_refused(s3_place: Place) -> None:
    """Behind the closing mark there is no number for it. The closed journal and the look at the lock refuse it, each by itself."""
    former, holder = s3_place.open(lease=600), replace(new_holder("apply"), host="another-machine", pid=1)
    with former._holding(former.backend.acquire(holder)):
        state = former.save(EMPTY)
        s3_place.open().force_unlock(holder.lock_id)
        for _ in range(3):
            with pytest.raises(StateNotSaved, match="lock was lost"):
                former.append(state, entry("app.main.late"))
        former._lost = None
        with pytest.raises(StateNotSaved, match="lock was lost"):
            former.append(state, entry("app.main.late"))

    assert s3_place.open().read("demo").resources == {}  # type: ignore[union-attr]


def test_who_can_not_fence_does_not_give_the_lock_back(s3_place: Place) -> None:
    """A state that can't be read is not written anew; so the next one has to fence. Seen red with a lock that was given back."""
    objects = client(str(s3_place.section["endpoint_url"]))
    at = {"Bucket": BUCKET, "Key": s3_place.section["key"]}
    former, holder = s3_place.open(lease=600), replace(new_holder("apply"), host="another-machine", pid=1)
    with former._holding(former.backend.acquire(holder)):
        former.save(EMPTY)
        good = objects.get_object(**at)["Body"].read()
        objects.put_object(**at, Body=b"{")
        s3_place.open().force_unlock(holder.lock_id)
        assert s3_place.open().holder() is not None
        objects.put_object(**at, Body=good)
        with s3_place.open().locked("apply", timeout=20):
            pass

    assert s3_place.open().read("demo").serial == 2  # type: ignore[union-attr]


def test_closing_marks_outlive_the_journal_and_entries_do_not(s3_place: Place) -> None:
    store, objects = s3_place.open(lease=600), client(str(s3_place.section["endpoint_url"]))
    holder = replace(new_holder("apply"), host="another-machine", pid=1)
    with store._holding(store.backend.acquire(holder)):
        store.append(store.save(EMPTY), entry("app.main.a"))
        s3_place.open().force_unlock(holder.lock_id)
    found = objects.list_objects_v2(Bucket=BUCKET, Prefix=f"{s3_place.section['key']}.journal/")["Contents"]

    assert [(o["Key"].rpartition("/")[2], o["Size"]) for o in found] == [("00000002", len(s3.MARK))]


def test_a_state_that_vanished_is_not_taken_for_none(s3_place: Place) -> None:
    store, objects = s3_place.open(), client(str(s3_place.section["endpoint_url"]))
    with store.locked("apply"):
        store.save(store.save(EMPTY))
    objects.delete_object(Bucket=BUCKET, Key=s3_place.section["key"])

    with pytest.raises(StateUnreadable, match=r"missing[\s\S]*backups"):
        s3_place.open().read("demo")


def test_an_expired_lease_is_judged_by_the_servers_clock(s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours may be ten years off. Seen red with an age by our own clock."""
    from falplan import clock

    store = s3_place.open()
    with store.locked("apply"):
        for years in (-10, 10):
            now = clock.now() + years * 366 * 86400
            monkeypatch.setattr(clock, "now", lambda now=now: now)
            with pytest.raises(FalplanError, match="locked"), s3_place.open().locked("destroy"):
                pass
            monkeypatch.undo()
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def test_a_lock_that_somebody_else_wrote_runs_out(s3_place: Place) -> None:
    """Rubbish in the lock's place is no lock for ever; it says that somebody holds it."""
    objects = client(str(s3_place.section["endpoint_url"]))
    objects.put_object(Bucket=BUCKET, Key=f"{s3_place.section['key']}.lock", Body=json.dumps([1]).encode())

    holder = s3_place.open().holder()
    assert holder is not None
    assert holder.who == "somebody"


def test_what_is_in_the_bucket_is_readable_and_whole(s3_place: Place, tmp_path: Path) -> None:
    store, objects = s3_place.open(), client(str(s3_place.section["endpoint_url"]))
    with store.locked("apply"):
        store.save(EMPTY)
    body = json.loads(objects.get_object(Bucket=BUCKET, Key=s3_place.section["key"])["Body"].read())

    assert body["serial"] == 1
    assert body["lineage"] == LINEAGE
