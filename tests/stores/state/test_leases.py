"""Two writers, one of whom is killed, paused, cut off or unlocked: real processes, real servers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.core.errors import StateNotSaved
from falplan.core.state import State
from falplan.stores.state.holding import new_holder
from tests.stores.state.conftest import LEASE, Place
from tests.stores.state.processes import Worker
from tests.stores.state.worker import LINEAGE, entry

pytestmark = pytest.mark.faults

NAMES = {"app.main.a", "app.main.b"}


def names(place: Place) -> set[str]:
    state = place.open().read("demo")
    return set(state.resources) if state else set()


def test_a_killed_holder_holds_nothing_and_loses_nothing(place: Place) -> None:
    """A local lock and a session of the database are free at once, a lease when it runs out."""
    with Worker(place) as first:
        assert first.says() == "locked 1"
        assert first.asked("+app.main.a") == "done"
        first.kill()
    store = place.open()
    with store.locked("apply", timeout=0 if place.backend == "local" else 20):
        read = store.read("demo")

    assert read is not None
    assert set(read.resources) == {"app.main.a"}


def test_a_holder_that_lives_keeps_the_lock_beyond_its_lease(remote: Place) -> None:
    """Seen red without a heartbeat."""
    with Worker(remote) as first:
        assert first.says() == "locked 1"
        with Worker(remote) as second:
            with pytest.raises(AssertionError, match="says nothing"):
                second.says(4 * LEASE)
            assert first.asked("+app.main.a") == "done"
            assert first.asked("end") == "ending"
            assert second.says() == "locked 2"


@pytest.mark.parametrize("late", ["+app.main.late", "save"])
def test_a_paused_holder_is_refused_when_it_wakes(remote: Place, late: str) -> None:
    """SIGSTOP past the lease, then SIGCONT: neither an entry nor a snapshot of it gets through, during the other's work or after.

    Seen red with a takeover that closed no journal (the late entry was taken), with one that did not write the snapshot anew (the late
    snapshot was taken), and on PostgreSQL with writes that did not look at the lock's row.
    """
    with Worker(remote) as first:
        assert first.says() == "locked 1"
        assert first.asked("+app.main.a") == "done"
        first.pause()
        with Worker(remote) as second:
            assert second.says().startswith("locked")
            first.go_on()
            said = first.asked(late)
            assert said.startswith("StateNotSaved: The lock was lost"), said
            assert f"pid {second.process.pid}" in said
            assert second.asked("+app.main.b") == "done"
            assert second.asked("save") == "done"
            assert first.asked(late).startswith("StateNotSaved")
            assert second.asked("end") == "ending"
            second.process.wait(20)
        assert first.asked(late).startswith("StateNotSaved")

    assert names(remote) == NAMES


def test_what_a_paused_holder_wrote_is_there(remote: Place) -> None:
    """What was acknowledged before the loss, and only that."""
    with Worker(remote) as first:
        assert first.says() == "locked 1"
        for name in sorted(NAMES):
            assert first.asked(f"+{name}") == "done"
        first.pause()
        with Worker(remote) as second:
            assert second.says().startswith("locked")

        assert names(remote) == NAMES
        first.go_on()


@pytest.mark.parametrize("late", ["+app.main.late", "save"])
def test_an_unlocked_holder_is_refused(remote: Place, late: str) -> None:
    """force-unlock of a holder on another machine, which lives after all. Seen red without the mark, and without the snapshot written anew."""
    store, other = remote.open(lease=60), remote.open()
    holder = replace(new_holder("apply"), host="another-machine", pid=1)
    with store._holding(store.backend.acquire(holder)):
        state = store.save(State("demo", LINEAGE, 0))
        store.append(state, entry("app.main.a"))
        other.force_unlock(holder.lock_id)
        assert other.holder() is None
        with pytest.raises(StateNotSaved, match="lock was lost"):
            store.save(state) if late == "save" else store.append(state, entry("app.main.late"))

    assert names(remote) == {"app.main.a"}
    with remote.open().locked("apply"):
        pass


def test_exactly_one_of_many_proceeds(place: Place) -> None:
    """Eight at a time, twelve in all: never two holders, every one's entry is there. Seen red with a lock put without its condition."""
    inside: list[int] = []

    def one(number: int) -> None:
        store = place.open(lease=20)
        with store.locked("apply", timeout=100):
            inside.append(number)
            assert len(inside) == 1
            state = store.read("demo") or State("demo", LINEAGE, 0)
            saved = store.save(replace(state))
            store.append(saved, entry(f"app.main.a{number}"))
            read = store.read("demo")
            assert read is not None
            store.save(read)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(12)))

    assert names(place) == {f"app.main.a{n}" for n in range(12)}


COMMON = [
    "state_lock.take.before_take",
    "state_lock.take.after_take",
    "journal.done.before_write",
    "journal.done.before_fsync",
    "journal.done.after_fsync",
    "state.save.before_journal_removed",
    "state_lock.release.before_release",
]
POINTS = {
    "local": [
        "state.save.before_write",
        "state.save.before_fsync",
        "state.save.before_rename",
        "state.save.after_rename",
    ],
    "s3": ["s3.lock.before_put", "s3.lock.after_put", "s3.write.before_put", "s3.write.after_put"],
    "postgres": [
        "postgres.lock.before_take",
        "postgres.lock.before_commit",
        "postgres.lock.after_commit",
        "postgres.write.before_commit",
        "postgres.write.after_commit",
    ],
}
POINTS = {backend: sorted({*COMMON, *own}) for backend, own in POINTS.items()}


def _work(worker: Worker) -> tuple[bool, bool]:
    """Lock, one entry, save, leave. Returns whether the entry and the save were acknowledged, before the worker died."""
    locked = worker.says()
    appended = locked.startswith("locked") and worker.asked("+app.main.a") == "done"
    saved = appended and worker.asked("save") == "done"
    worker.told("end")
    worker.process.wait(30)
    return appended, saved


def test_the_points_that_are_killed_at_are_those_there_are(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "points"
    with Worker(place, FALPLAN_FAILPOINTS_LOG=str(log)) as worker:
        assert _work(worker) == (True, True)

    assert sorted(set(log.read_text().split())) == POINTS[place.backend]


def _kills() -> list[object]:
    marks = {"local": [], "s3": [], "postgres": [pytest.mark.needs("postgresql")]}
    return [
        pytest.param(f"{backend}_place", point, nth, marks=marks[backend], id=f"{backend}-{point}-{nth}")
        for backend, points in POINTS.items()
        for point in points
        for nth in (1, 2)
        if nth == 1 or "state.save" in point or "s3.write" in point or "postgres.write" in point
    ]


@pytest.mark.parametrize(("where", "point", "nth"), _kills())
def test_a_kill_at_any_point_loses_nothing_that_was_acknowledged(
    request: pytest.FixtureRequest, where: str, point: str, nth: int
) -> None:
    """And the next one gets the lock, reads, and goes on. Seen red with a snapshot that dropped the journal before it was written."""
    place: Place = request.getfixturevalue(where)
    with Worker(place, FALPLAN_FAILPOINTS=f"{point}=kill@{nth}") as worker:
        appended, _ = _work(worker)
    store = place.open()
    with store.locked("apply", timeout=20):
        read = store.read("demo") or State("demo", LINEAGE, 0)
        assert "app.main.a" in read.resources or not appended
        saved = store.save(read)
        store.append(saved, entry("app.main.b"))

    assert names(place) == {*read.resources, "app.main.b"}


FENCES = ["state_lock.fence.before_close", "state_lock.fence.before_write", "state_lock.fence.after_write"]


@pytest.mark.parametrize("point", FENCES)
def test_a_kill_while_a_lock_is_taken_over_loses_nothing(s3_place: Place, point: str) -> None:
    """The third one takes over from the second, which died half-way through fencing the first, which is paused and then refused."""
    with Worker(s3_place) as first:
        assert first.says() == "locked 1"
        assert first.asked("+app.main.a") == "done"
        first.pause()
        with Worker(s3_place, FALPLAN_FAILPOINTS=f"{point}=kill") as second:
            assert second.process.wait(30) == -9
        with Worker(s3_place) as third:
            assert third.says().startswith("locked")
            first.go_on()
            assert first.asked("+app.main.late").startswith("StateNotSaved: The lock was lost")
            assert third.asked("+app.main.b") == "done"

            assert names(s3_place) == NAMES
