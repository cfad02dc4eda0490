"""Machines and attempts come back from the database as they were written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.core.fleet import Life
from falplan.core.runtime import Event
from falplan.sdk.launches import Attempt, Pool, Verdict
from falplan.stores.runtime.control import ControlStore
from falplan.stores.runtime.database import Database, StoreUnavailable
from falplan.stores.runtime.fleet import FleetStore, MachineRow

ROW = MachineRow(
    "us-east/m-1",
    "us-east",
    Life.STARTING,
    100.0,
    101.5,
    ("p5.4xlarge", "p5.48xlarge"),
    "p5.4xlarge",
    "use1-az1",
    "spot",
    "i-1",
    "6.88",
    {"p5.4xlarge": {"slots": {"gpus": [0]}, "price": "6.88"}},
    because="it is wanted",
)
TRY = Attempt("us-east/m-1", 1, Pool("p5.4xlarge", "use1-az1", "spot"), {"ClientToken": "t", "MinCount": 1}, 100.0)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database.open(tmp_path / "control.db")
    yield found
    found.close()


async def test_machines_are_read_as_they_were_written(database: Database) -> None:
    store = FleetStore(database)
    later = replace(ROW, machine_id="us-east/m-2", made_at=200.0, identity="")
    await store.save(later, ROW, Event(1.0, "machine.wanted", ROW.machine_id, "why"))
    assert store.machines() == [ROW, later]
    gone = replace(ROW, life=Life.GONE, ended_at=300.0)
    await store.save(gone)

    assert store.machines() == [later]
    assert store.machines(gone_since=300.0) == [gone, later]
    assert store.machines(gone_since=301.0) == [later]
    assert database.read("select kind, subject from events") == [("machine.wanted", "us-east/m-1")]


async def test_attempts_are_read_as_they_were_written_last(database: Database) -> None:
    journal, other = FleetStore(database).journal("us-east"), FleetStore(database).journal("us-west")
    second = replace(TRY, number=2, verdict=Verdict.CAPACITY, because="none", told_at=50.0)

    def work() -> None:
        for attempt in (second, TRY, replace(TRY, verdict=Verdict.MADE, identity="i-1", told_at=60.0)):
            journal.write(attempt)
        other.write(replace(TRY, launch="us-west/m-1", verdict=Verdict.MADE, told_at=55.0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    made = replace(TRY, verdict=Verdict.MADE, identity="i-1", told_at=60.0)
    assert journal.attempts("us-east/m-1") == [made, second]
    assert sorted(journal.since(50.0), key=lambda a: a.number) == [made, second]
    assert journal.since(51.0) == [made] and journal.since(61.0) == []
    assert [a.launch for a in other.since(1.0)] == ["us-west/m-1"]


async def test_what_nobody_knows_the_end_of_counts_for_no_other_launch(database: Database) -> None:
    journal = FleetStore(database).journal("us-east")
    await asyncio.to_thread(journal.write, TRY)
    assert journal.attempts("us-east/m-1") == [TRY] and journal.since(0.0) == []


def test_a_thread_is_told_that_nothing_was_stored(database: Database) -> None:
    journal = FleetStore(database).journal("us-east")
    database.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        journal.write(TRY)


async def test_requests_for_machines_that_are_gone_are_forgotten_and_no_others(database: Database) -> None:
    """What a machine cost is told as long as its row is there; its requests, with all that was sent, are not."""
    store, journal = FleetStore(database), FleetStore(database).journal("us-east")
    told = replace(TRY, verdict=Verdict.MADE, identity="i-1", told_at=150.0)
    gone = replace(ROW, machine_id="us-east/m-2", life=Life.GONE, ended_at=200.0)
    await store.save(ROW, gone)
    for attempt in (told, replace(told, launch=gone.machine_id), replace(TRY, launch=gone.machine_id, number=2)):
        await asyncio.to_thread(journal.write, attempt)
    control = ControlStore(database)
    await control.prune(runner_ids=[], older_than=200.0)
    assert len(journal.attempts(gone.machine_id)) == 2
    await control.prune(runner_ids=[], older_than=201.0)

    assert [a.number for a in journal.attempts(gone.machine_id)] == [2], "nobody knows what became of that one"
    assert journal.attempts(ROW.machine_id) == [told]
    assert store.machines(gone_since=0.0) == [ROW, gone]
