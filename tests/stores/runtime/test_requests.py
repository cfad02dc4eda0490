"""The store of requests: each promise of the RequestStore protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from falplan.core.runtime import Outcome, RequestStatus
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.interfaces import IdempotencyConflict, IdempotencyKey, NewRequest, RequestStore
from falplan.stores.runtime.requests import SqliteRequestStore

NOON = 1_900_000_000.0
APP = "acme/app"
DONE = Outcome(200, {"content-type": "application/json"}, b"{}", inference_time=0.5)
LATE = Outcome(500, {}, b"late", "Invalid status code: 500", "runner_server_error")


def a_request(request_id: str = "r1", **values: object) -> NewRequest:
    request = NewRequest(request_id, APP, "/sub", "q=1", {"content-type": "application/json"}, b"\x00body", NOON)
    return replace(request, **values)  # type: ignore[arg-type]  # checked by replace itself


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "control.db")
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> RequestStore:
    return SqliteRequestStore(database)


async def started(store: RequestStore, request_id: str = "r1", token: str = "t1") -> None:
    await store.add(a_request(request_id))
    assert await store.start(request_id, token=token, runner_id="runner-1", now=NOON)


async def complete(store: RequestStore, token: str, outcome: Outcome = DONE, request_id: str = "r1") -> bool:
    return await store.complete(request_id, token=token, outcome=outcome, now=NOON, expires_at=NOON + 60)


async def cancel(store: RequestStore, request_id: str = "r1", endpoint: str = APP) -> RequestStatus | None:
    return await store.cancel(endpoint, request_id, outcome=LATE, now=NOON, expires_at=NOON + 60)


async def test_what_was_added_comes_back_whole(store: RequestStore) -> None:
    new = a_request(low_priority=True, hint="lora", no_retry=True, start_by=NOON + 5)
    await store.add(new)
    got = store.get(APP, "r1")

    assert got is not None
    assert store.body("r1") == new.body
    for name in ("sub_path", "query", "headers", "low_priority", "hint", "no_retry", "created_at", "start_by"):
        assert getattr(got, name) == getattr(new, name)
    assert (got.status, got.attempts, got.runners) == (RequestStatus.IN_QUEUE, 0, ())


async def test_a_request_belongs_to_its_endpoint(store: RequestStore) -> None:
    await store.add(a_request())

    assert store.get("acme/other", "r1") is None
    assert store.result("acme/other", "r1") is None
    assert await cancel(store, endpoint="acme/other") is None


async def test_a_request_is_started_by_one_attempt_at_a_time(store: RequestStore) -> None:
    await store.add(a_request())
    results = await asyncio.gather(
        *(store.start("r1", token=f"t{n}", runner_id=f"runner-{n}", now=NOON) for n in range(10))
    )

    assert sum(results) == 1
    got = store.get(APP, "r1")
    assert got is not None
    assert (got.attempts, len(got.runners)) == (1, 1)


async def test_only_the_current_attempt_completes(store: RequestStore) -> None:
    await started(store)
    assert not await complete(store, "t0", LATE)
    assert await store.requeue("r1", token="t1")
    assert not await complete(store, "t1", LATE)
    assert await store.start("r1", token="t2", runner_id="runner-2", now=NOON)
    assert not await store.requeue("r1", token="t1")
    assert not await complete(store, "t1", LATE)

    assert await complete(store, "t2")
    assert not await complete(store, "t2", LATE)
    assert store.result(APP, "r1") == DONE
    got = store.get(APP, "r1")
    assert got is not None
    assert (got.attempts, got.runners) == (2, ("runner-1", "runner-2"))


async def test_a_cancelled_request_keeps_its_end(store: RequestStore) -> None:
    await started(store)

    assert await cancel(store) is RequestStatus.IN_PROGRESS
    assert not await complete(store, "t1")
    assert await cancel(store) is RequestStatus.COMPLETED
    assert store.result(APP, "r1") == LATE


async def test_cancel_and_complete_race_with_one_winner(store: RequestStore) -> None:
    for n in range(30):
        await started(store, f"r{n}")
        before, completed = await asyncio.gather(cancel(store, f"r{n}"), complete(store, "t1", request_id=f"r{n}"))

        assert (before is RequestStatus.COMPLETED) == completed


async def test_only_a_waiting_request_is_given_up(store: RequestStore) -> None:
    await started(store)
    assert not await store.give_up("r1", outcome=LATE, now=NOON, expires_at=NOON)
    await store.requeue("r1", token="t1")

    assert await store.give_up("r1", outcome=LATE, now=NOON, expires_at=NOON)
    assert store.result(APP, "r1") == LATE


async def test_recovery_gives_back_what_was_in_progress_and_keeps_its_attempts(store: RequestStore) -> None:
    await started(store, "r1")
    await store.add(a_request("r2"))
    await started(store, "r3")
    await complete(store, "t1", request_id="r3")

    found = await store.recover()
    assert [(r.request_id, r.status, r.attempts) for r in found] == [
        ("r1", RequestStatus.IN_QUEUE, 1),
        ("r2", RequestStatus.IN_QUEUE, 0),
    ]
    assert not await complete(store, "t1")
    assert found == store.unfinished() == await store.recover()


async def test_only_finished_requests_are_forgotten_and_only_after_their_time(
    store: RequestStore, database: Database
) -> None:
    for n in range(3):
        await started(store, f"r{n}")
    await complete(store, "t1", request_id="r0")

    assert await store.prune(now=NOON + 60) == 0
    assert await store.prune(now=NOON + 61) == 1
    assert store.get(APP, "r0") is None
    assert len(await store.recover()) == 2
    assert database.read("select count(*) from results") == [(0,)]
    assert database.read("select count(*) from request_bodies") == [(2,)]


async def test_the_same_idempotency_key_gives_the_same_request(store: RequestStore) -> None:
    key = IdempotencyKey("key-1", "once", "digest", NOON + 10)
    first = await store.add(a_request("r1", idempotency=key))
    again = await store.add(a_request("r2", idempotency=key))
    assert (first.is_new, again.is_new, again.request_id) == (True, False, "r1")
    with pytest.raises(IdempotencyConflict):
        await store.add(a_request("r3", idempotency=replace(key, digest="other")))
    other_caller = await store.add(a_request("r4", idempotency=replace(key, caller="key-2")))
    later = await store.add(a_request("r5", idempotency=key, created_at=NOON + 11))

    assert other_caller.is_new
    assert later.is_new
    assert {r.request_id for r in store.unfinished()} == {"r1", "r4", "r5"}


async def test_the_same_key_sent_at_once_makes_one_request(store: RequestStore) -> None:
    key = IdempotencyKey("key-1", "once", "digest", NOON + 10)
    added = await asyncio.gather(*(store.add(a_request(f"r{n}", idempotency=key)) for n in range(20)))

    assert sum(a.is_new for a in added) == 1
    assert len({a.request_id for a in added}) == 1


async def test_the_position_counts_what_comes_first(store: RequestStore) -> None:
    await store.add(a_request("low", low_priority=True))
    await store.add(a_request("a"))
    await store.add(a_request("b"))
    await store.add(a_request("elsewhere", endpoint="acme/other"))

    assert [store.queue_position(APP, r) for r in ("a", "b", "low")] == [0, 1, 2]
    await store.start("a", token="t", runner_id="x", now=NOON)
    assert [store.queue_position(APP, r) for r in ("a", "b", "low")] == [None, 0, 1]


class QueueMachine(RuleBasedStateMachine):
    """The store does what a dict does: states, fences, attempts."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.database = Database.open(Path(self.folder.name) / "control.db")
        self.store = SqliteRequestStore(self.database)
        self.runner = asyncio.Runner()
        self.model: dict[str, tuple[RequestStatus, int, str | None, Outcome | None]] = {}
        self.count = 0

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.close()
            self.database.close()
            self.folder.cleanup()

    def pick(self, n: int) -> str:
        return f"r{n % self.count}" if self.count else "none"

    @rule()
    def add(self) -> None:
        request_id, self.count = f"r{self.count}", self.count + 1
        self.runner.run(self.store.add(a_request(request_id)))
        self.model[request_id] = (RequestStatus.IN_QUEUE, 0, None, None)

    @rule(n=st.integers(0, 9), token=st.sampled_from("abc"))
    def start(self, n: int, token: str) -> None:
        it = self.pick(n)
        done = self.runner.run(self.store.start(it, token=token, runner_id="x", now=NOON))
        status, attempts, _, _ = self.model.get(it, (None, 0, None, None))
        assert done == (status is RequestStatus.IN_QUEUE)
        if done:
            self.model[it] = (RequestStatus.IN_PROGRESS, attempts + 1, token, None)

    @rule(n=st.integers(0, 9), token=st.sampled_from("abc"), ends=st.booleans())
    def answer(self, n: int, token: str, ends: bool) -> None:
        it = self.pick(n)
        work = complete(self.store, token, request_id=it) if ends else self.store.requeue(it, token=token)
        done = self.runner.run(work)
        status, attempts, current, _ = self.model.get(it, (None, 0, None, None))
        assert done == (status is RequestStatus.IN_PROGRESS and current == token)
        if done:
            self.model[it] = (
                (RequestStatus.COMPLETED, attempts, None, DONE)
                if ends
                else (RequestStatus.IN_QUEUE, attempts, None, None)
            )

    @rule(n=st.integers(0, 9))
    def take_back(self, n: int) -> None:
        it = self.pick(n)
        before = self.runner.run(cancel(self.store, it))
        status, attempts, _, _ = self.model.get(it, (None, 0, None, None))
        assert before is status
        if status in (RequestStatus.IN_QUEUE, RequestStatus.IN_PROGRESS):
            self.model[it] = (RequestStatus.COMPLETED, attempts, None, LATE)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.store.recover())
        for it, (status, attempts, _, outcome) in self.model.items():
            if status is not RequestStatus.COMPLETED:
                self.model[it] = (RequestStatus.IN_QUEUE, attempts, None, outcome)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        for it, (status, attempts, _, outcome) in self.model.items():
            got = self.store.get(APP, it)
            assert got is not None
            assert (got.status, got.attempts) == (status, attempts)
            assert self.store.result(APP, it) == outcome


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
