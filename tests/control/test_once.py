"""Calls under operation ids: acted upon once, answered alike however often they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from falplan.control.once import Call, Once
from falplan.control.operations import BadOperation
from falplan.core.operations import OperationKind
from falplan.core.values import JsonObject
from falplan.stores.runtime.control import ControlStore
from falplan.stores.runtime.database import Database


class Counting:
    """An act that tells how often it was carried out."""

    def __init__(self) -> None:
        self.times = 0
        self.refuses = False
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, call: Call) -> JsonObject:
        async with asyncio.timeout(10):
            await self.go_on.wait()
        if self.refuses:
            raise BadOperation("Refused")
        self.times += 1
        return {"times": self.times}


def a_call(operation: str = "op-00000001", path: str = "keys/key-1", **body: str) -> Call:
    return Call(operation, OperationKind.REVOKE_KEY, path, dict(body))


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "control.db")
    try:
        yield database
    finally:
        database.close()


async def test_a_repeated_call_gets_the_first_outcome_also_from_the_next_control_plane(database: Database) -> None:
    """Seen red with an outcome that was kept in memory alone."""
    act = Counting()
    first = await Once(ControlStore(database)).outcome(a_call(), act)
    again = await Once(ControlStore(database)).outcome(a_call(), act)
    other = await Once(ControlStore(database)).outcome(a_call("op-00000002"), act)

    assert (first, again, other) == ({"times": 1}, {"times": 1}, {"times": 2})


async def test_a_call_that_is_repeated_meanwhile_waits_for_the_first(database: Database) -> None:
    """Seen red without the table of calls under way."""
    once, act = Once(ControlStore(database)), Counting()
    act.go_on.clear()
    calls = [asyncio.create_task(once.outcome(a_call(), act)) for _ in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()  # its caller goes away, the call goes on
    act.go_on.set()

    assert [await call for call in calls[1:]] == [{"times": 1}] * 4


@pytest.mark.parametrize("other", [a_call(path="keys/key-2"), a_call(body="another")])
async def test_an_id_belongs_to_one_call(database: Database, other: Call) -> None:
    """Seen red with a digest of the path alone."""
    once, act = Once(ControlStore(database)), Counting()
    act.go_on.clear()
    first = asyncio.create_task(once.outcome(a_call(), act))
    await asyncio.sleep(0)
    with pytest.raises(BadOperation, match="is taken"):
        await once.outcome(other, act)
    act.go_on.set()
    await first
    with pytest.raises(BadOperation, match="is taken"):
        await once.outcome(other, act)

    assert act.times == 1


@pytest.mark.parametrize("operation", ["", "short", "with space in it", "x" * 201, "ünicode-id"])
async def test_a_call_without_a_proper_id_is_refused(database: Database, operation: str) -> None:
    act = Counting()
    with pytest.raises(BadOperation, match="no operation id"):
        await Once(ControlStore(database)).outcome(a_call(operation), act)

    assert act.times == 0


async def test_a_refused_call_leaves_nothing_and_may_be_asked_again(database: Database) -> None:
    once, act = Once(ControlStore(database)), Counting()
    act.refuses = True
    with pytest.raises(BadOperation, match="Refused"):
        await once.outcome(a_call(), act)
    assert database.read("select * from operations") == []
    act.refuses = False

    assert await once.outcome(a_call(), act) == {"times": 1}


async def test_what_was_done_is_answered_though_it_can_not_be_recorded(database: Database) -> None:
    """A full disk keeps nobody from ending a control plane. Seen red with a record that raises."""

    async def act(call: Call) -> JsonObject:
        database.close()
        return {"stopping": True}

    assert await Once(ControlStore(database)).outcome(a_call(), act) == {"stopping": True}


async def test_what_a_body_held_is_not_recorded(database: Database) -> None:
    await Once(ControlStore(database)).outcome(a_call(hash="0badc0de"), Counting())

    [row] = database.read("select * from operations")
    assert "0badc0de" not in str(row)
    assert "keys/key-1" in str(row)
