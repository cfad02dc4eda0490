"""What every backend promises: local files, S3 and PostgreSQL, each the real one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from falplan.core.errors import Locked, Refused, StateNotSaved
from falplan.core.state import Entry, Intent, Recorded, State, StateUnreadable
from falplan.stores.state.backend import BACKUPS, Log
from falplan.stores.state.seal import NoSeal
from falplan.stores.state.store import Store
from tests.stores.state.conftest import Place
from tests.stores.state.worker import LINEAGE, entry

EMPTY = State("demo", LINEAGE, 0)
APP = Recorded("app.main.hello", "app", {"endpoint": "acme/hello"}, {}, (), 1)
BEGIN = Entry("begin", APP.address, 1, replace(APP, generation=0, intent=Intent("create", "op", 1, "d")))
DONE = Entry("done", APP.address, 1, APP)


def test_nothing_applied_is_no_state(place: Place) -> None:
    store = place.open()

    assert store.read("demo") is None
    assert store.holder() is None
    assert store.backups() == []
    assert not store.has_journal()


def test_what_is_saved_is_read_by_everybody_with_the_next_serial(place: Place) -> None:
    store = place.open()
    with store.locked("apply"):
        saved = store.save(replace(EMPTY, resources={APP.address: APP}))

    assert saved.serial == 1
    assert place.open().read("demo") == saved


def test_the_journal_counts_as_state_until_it_is_folded_in(place: Place) -> None:
    """Seen red with a `read` that left the journal out; and with a `save` that kept it."""
    store = place.open()
    with store.locked("apply"):
        state = store.save(EMPTY)
        store.append(state, BEGIN)
        begun = place.open().read("demo")
        store.append(state, DONE)
        assert place.open().has_journal()
        done = place.open().read("demo")
        assert done is not None
        saved = store.save(done)

    assert begun is not None
    assert begun.resources[APP.address].intent is not None
    assert not place.open().has_journal()
    assert place.open().read("demo") == saved
    assert saved.resources == {APP.address: APP}


def test_a_dead_ones_journal_is_what_the_next_one_reads(place: Place) -> None:
    """Nothing that was acknowledged is lost, and the next journal begins after it."""
    first = place.open()
    with first.locked("apply"):
        state = first.save(EMPTY)
        first.append(state, DONE)
    second = place.open()
    with second.locked("apply"):
        read = second.read("demo")
        assert read is not None
        assert second.has_journal()
        folded = second.save(read)
        second.append(folded, entry("app.main.two"))

    assert set(place.open().read("demo").resources) == {APP.address, "app.main.two"}  # type: ignore[union-attr]


def test_many_threads_append_at_once_and_nothing_is_lost(place: Place) -> None:
    """Seen red with sequence numbers that were counted outside the store's lock."""
    store = place.open()
    names = [f"app.main.a{n}" for n in range(60)]
    with store.locked("apply"):
        state = store.save(EMPTY)
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda name: store.append(state, entry(name)), names))
        read = place.open().read("demo")

    assert read is not None
    assert sorted(read.resources) == sorted(names)


def test_an_apply_of_many_writes_each_entry_once(place: Place) -> None:
    """Bytes of the journal grow by the entry's own size, however many went before. Seen red with a journal written anew each time."""
    store = place.open()
    with store.locked("apply"):
        state = store.save(EMPTY)
        written: list[int] = []
        real = store.backend.append

        def counted(log: Log, seq: int, records: list[bytes], durable: object) -> None:
            written.append(sum(map(len, records)))
            real(log, seq, records, durable)  # type: ignore[arg-type]

        store.backend.append = counted  # type: ignore[method-assign, assignment]
        for n in range(20):
            store.append(state, entry(f"app.main.a{n:02}"))

    assert len(written) == 20
    assert max(written) == min(written)


def test_a_second_writer_is_told_who_holds_the_lock(place: Place) -> None:
    store = place.open()
    with store.locked("apply"):
        holder = place.open().holder()
        assert holder is not None
        with pytest.raises(Locked) as caught, place.open().locked("destroy"):
            pass
        for word in (
            holder.who,
            f"pid {holder.pid}",
            "`apply`",
            holder.since,
            holder.lock_id,
            "--lock-timeout",
            store.where,
        ):
            assert word in caught.value.detail
        if place.backend != "local":
            assert "last heartbeat 20" in caught.value.detail

    assert place.open().holder() is None


def test_whoever_waits_gets_the_lock_once_it_is_given_back(place: Place) -> None:
    order: list[str] = []

    def second() -> None:
        with place.open().locked("destroy", timeout=30):
            order.append("second")

    with place.open().locked("apply"):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(1)
        order.append("first")
    waiting.join()

    assert order == ["first", "second"]


def test_readers_never_wait_for_a_writer(place: Place) -> None:
    store = place.open()
    with store.locked("apply"):
        store.save(EMPTY)

        assert place.open().read("demo") is not None
        assert place.open().backups() == []


def test_ten_earlier_states_are_kept_and_read(place: Place) -> None:
    store = place.open()
    with store.locked("apply"):
        state = EMPTY
        for _ in range(BACKUPS + 3):
            state = store.save(state)
    kept = store.backups()

    assert [k.serial for k in kept] == list(range(BACKUPS + 2, 2, -1))
    assert store.read_backup(kept[0].name).serial == BACKUPS + 2
    assert all(k.size and k.saved_at.endswith("Z") for k in kept)
    with pytest.raises(Refused, match="No such backup"):
        store.read_backup("state.00000099.json")


def test_another_projects_state_is_refused(place: Place) -> None:
    store = place.open()
    with store.locked("apply"):
        store.save(EMPTY)

    with pytest.raises(StateUnreadable, match="another project"):
        place.open().read("other")


def test_a_state_that_does_not_hold_together_is_neither_written_nor_read(place: Place) -> None:
    """Seen red with a `save` that looked at nothing: a dependency that was never there."""
    broken = replace(EMPTY, resources={"app.main.a": Recorded("app.main.a", "app", {}, {}, ("build.main.a",), 1)})
    store = place.open()
    with store.locked("apply"):
        state = store.save(EMPTY)
        with pytest.raises(StateNotSaved, match=r"depends on build\.main\.a"):
            store.save(broken)
        step = Entry("done", "app.main.a", 1, broken.resources["app.main.a"])
        store.append(state, step)

    with pytest.raises(StateUnreadable, match="does not hold together"):
        place.open().read("demo")
    with pytest.raises(StateNotSaved, match="does not hold together"), store.locked("apply"):
        store.save(state)  # and it is not overwritten either: whoever had done something brings it to safety


def test_a_snapshot_that_is_not_the_one_that_was_read_is_not_overwritten(place: Place) -> None:
    """Compare-and-set on the snapshot itself, whoever holds which lock. Seen red with an unconditional write."""
    store = place.open()
    with store.locked("apply"):
        store.save(EMPTY)
        known = store._known
        assert known is not None
        store.save(replace(EMPTY, serial=1))
        store._known = known

        with pytest.raises(StateNotSaved):
            store.save(replace(EMPTY, serial=1))
    assert place.open().read("demo").serial == 2  # type: ignore[union-attr]


def test_damage_in_the_journal_is_an_error_that_names_the_entry(place: Place) -> None:
    store = place.open()
    with store.locked("apply"):
        state = store.save(EMPTY)
        store.backend.append(Log(LINEAGE, state.serial), 1, [b'{"kind":"begin"}'], lambda: None)
        store.backend.append(Log(LINEAGE, state.serial), 2, [b'{"kind":"done"}'], lambda: None)

    with pytest.raises(StateUnreadable, match="journal is damaged"):
        place.open().read("demo")


class Reversing(NoSeal):
    """Stores bytes that are no text, bound to where they stand."""

    def seal(self, plain: bytes, *, kind: str, serial: int) -> bytes:
        return b"\xff\n" + f"{kind} {serial} ".encode() + plain[::-1]

    def open(self, sealed: bytes, *, kind: str, serial: int | None) -> bytes:
        head = b"\xff\n" + f"{kind} ".encode()
        if not sealed.startswith(head):
            raise StateUnreadable("Not of this place")
        number, _, reverse = sealed[len(head) :].partition(b" ")
        if serial is not None and int(number) != serial:
            raise StateUnreadable("Not of this serial")
        return reverse[::-1]


def test_what_a_seal_makes_is_stored_as_it_is_and_bound_to_its_place(place: Place) -> None:
    """Seen red with a journal whose entries were all sealed as the first."""
    store = Store(place.open().backend, Reversing())
    with store.locked("apply"):
        state = store.save(EMPTY)
        for name in ("app.main.a", "app.main.b"):
            store.append(state, entry(name))
        read = Store(place.open().backend, Reversing()).read("demo")
        saved = store.save(state)
        store.save(saved)

    assert set(read.resources) == {"app.main.a", "app.main.b"}  # type: ignore[union-attr]
    assert store.read_backup("state.00000002.json") == saved
    with pytest.raises(StateUnreadable):
        place.open().read("demo")


def test_nobody_is_unlocked_who_lives_here_or_holds_nothing(place: Place) -> None:
    store = place.open()
    with pytest.raises(Refused, match="not locked"):
        store.force_unlock("x")
    with store.locked("apply"):
        holder = store.holder()
        assert holder is not None
        with pytest.raises(Refused, match="Another lock"):
            place.open().force_unlock("x")
        with pytest.raises(Refused, match=f"kill {holder.pid}"):
            place.open().force_unlock(holder.lock_id)
