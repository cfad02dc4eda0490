"""A store of state that fails in mid-apply: nothing more is begun, and nothing that was done is forgotten."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.core.errors import StateNotSaved
from falplan.core.plan import Change
from falplan.core.planner import make_plan
from falplan.core.resources import ResourceType
from falplan.core.state import Entry, State, parse_state
from falplan.core.values import JsonObject
from falplan.engine.apply import Happened, Moment, Result, carry_out
from falplan.engine.handlers import Handler, Say
from falplan.sdk import failpoints
from falplan.stores.state import errored
from falplan.stores.state.errored import Places
from falplan.stores.state.local import LocalState
from falplan.stores.state.seal import NoSeal
from tests.core.builders import LINEAGE, a_build, a_gateway, an_app, wanted
from tests.engine.memory_store import MemoryStore
from tests.engine.test_apply import FINAL, World
from tests.runner.machine import until

SPEC = wanted(a_gateway(), a_build("a"), an_app("a"), a_build("b"), an_app("b"), a_build("c"), an_app("c"))
STEPS = 2 * len(SPEC)
PROJECT = "demo"


def go(
    store: MemoryStore | LocalState, world: World, moments: list[Happened] | None = None, at_once: int = 3
) -> Result:
    state = store.read(PROJECT) or State(PROJECT, LINEAGE, 0)
    handlers: dict[ResourceType, Handler] = dict.fromkeys(ResourceType, world)
    show = moments.append if moments is not None else lambda h: None
    return carry_out(
        make_plan(SPEC, state, {}),
        state,
        store,
        handlers,
        parallelism=at_once,
        show=show,
        interrupted=threading.Event(),
    )


@pytest.mark.parametrize("fails_at", range(1, STEPS + 1))
@pytest.mark.parametrize("failing", [(), ("build.main.b",)], ids=["all-well", "one-fails"])
def test_whatever_append_fails_nothing_done_is_forgotten(
    tmp_path: Path, fails_at: int, failing: tuple[str, ...]
) -> None:
    """What the store has, or the errored file where there is one, is the state that would have been; and it converges.

    Seen red with outcomes that were dropped once the journal was broken; with steps that were begun after that; and with appends
    behind the one that failed.
    """
    store, world = MemoryStore(fails_at), World(dict.fromkeys(failing, FINAL))
    moments: list[Happened] = []
    result = go(store, world, moments)
    begun = [e.address for e in store.appended[: fails_at - 1] if e.kind == "begin"]
    if failing and result.broken is None:
        return  # so many entries were never asked for

    assert result.broken is not None
    assert sorted(world.log) == sorted(begun), "something was begun after the failure"
    assert sorted(h.change.address for h in moments if h.moment is Moment.START) == sorted(begun)
    assert len(store.appended) == fails_at, "the journal was written to after it had failed"
    assert set(result.done) | set(result.errors) == set(begun)

    places = Places(tmp_path, {"TMPDIR": str(tmp_path / "tmp")})
    would_have_been = replace(result.state, serial=result.state.serial + 1)
    store.repaired()
    if result.unsaved:
        path = errored.write(places, LINEAGE, errored.content_of(result.state, NoSeal()))
        assert path == tmp_path / "errored.json"
        assert path.stat().st_mode & 0o777 == 0o600
        here = store.read(PROJECT)
        assert here is not None
        [found] = errored.find(places, here, NoSeal())
        assert found.state == would_have_been
        assert store.save(replace(found.state, serial=here.serial)) == would_have_been
        errored.forget(found)
    again = store.read(PROJECT)
    assert again is not None
    assert again.resources == would_have_been.resources
    assert all(again.resources[a].intent is None for a in result.done)
    assert errored.find(places, again, NoSeal()) == []

    second = World()
    second.things = world.things
    last = go(store, second)
    assert last.broken is None
    assert set(last.state.resources) == set(SPEC)
    assert not set(second.operations) & {world.operations[world.log.index(a)] for a in result.done}


def test_what_runs_when_the_store_fails_is_waited_for_and_known() -> None:
    """Two are under way when the third can't begin. Seen red with an apply that wrote on behind a line that may be torn."""
    store = MemoryStore(fails_at=5)  # begin and done of the gateway, begin of two builds, and that of the third

    class Slow(World):
        def apply(self, change: Change, state: State, say: Say) -> JsonObject:
            if change.type is ResourceType.BUILD:
                until(lambda: store.saves_fail)
            return super().apply(change, state, say)

    result = go(store, Slow())

    assert len(store.appended) == 5
    assert len(result.done) == 3
    assert sorted(e.address for e in result.unsaved) == sorted(set(result.done) - {"gateway"})
    assert all(result.state.resources[a].intent is None for a in result.done)
    assert set(result.state.resources) == set(result.done)


def test_a_store_that_takes_the_snapshot_after_all_needs_no_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with an apply that gave its snapshot up once an append had failed."""
    store, world = MemoryStore(4), World()
    real = MemoryStore.append

    def append(self: MemoryStore, base: State, entry: Entry) -> None:
        try:
            real(self, base, entry)
        finally:
            self.saves_fail = False

    monkeypatch.setattr(MemoryStore, "append", append)
    result = go(store, world)

    assert result.broken is not None
    assert (result.saved, result.unsaved) == (True, ())
    assert store.read(PROJECT) == result.state
    assert set(result.state.resources) == set(result.done)


def test_a_full_disk_stops_the_apply_and_the_other_place_takes_what_is_known(tmp_path: Path) -> None:
    """A real file that may not grow: the journal is cut short in mid-line, as by a full disk.

    Seen red with a file that went only to the project's folder.
    """
    import resource
    import signal

    folder, other = tmp_path / "state", tmp_path / "tmp"
    store = LocalState(folder)
    folder.mkdir()
    world = World()
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))
        result = go(store, world)
        kept = errored.write(Places(folder, {"TMPDIR": str(other)}), LINEAGE, b"x" * 2501)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)

    assert result.broken is not None
    assert kept is None, "nothing here takes a file of that size"
    assert len(world.log) < len(SPEC)
    assert store.read(PROJECT) is not None, "the journal's torn end made the state unreadable"
    (folder / "errored.json").mkdir()  # the first place takes nothing
    path = errored.write(Places(folder, {"TMPDIR": str(other)}), LINEAGE, errored.content_of(result.state, NoSeal()))
    assert path is not None
    assert path.parent == other / f"falplan-{path.stat().st_uid}"
    assert parse_state(path.read_text(), "it").resources == result.state.resources
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_is_neither_used_nor_believed(tmp_path: Path) -> None:
    """Seen red with a file that anybody could have put into /tmp: it would have been pushed."""
    folder, other = tmp_path / "state", tmp_path / "tmp"
    places = Places(folder, {"TMPDIR": str(other)})
    folder.write_text("no folder")
    state = State(PROJECT, LINEAGE, 4)
    path = errored.write(places, LINEAGE, errored.content_of(state, NoSeal()))
    assert path is not None
    assert [e.state.serial for e in errored.find(places, state, NoSeal())] == [5]
    path.parent.chmod(0o777)

    assert errored.find(places, state, NoSeal()) == []
    assert errored.write(places, LINEAGE, b"{}") is None


def test_nobodys_last_resort_is_written_over(tmp_path: Path) -> None:
    """Seen red with a file of another lineage that was replaced."""
    places = Places(tmp_path, {"TMPDIR": str(tmp_path / "tmp")})
    first = errored.write(places, "another", errored.content_of(State(PROJECT, "another", 4), NoSeal()))
    second = errored.write(places, LINEAGE, errored.content_of(State(PROJECT, LINEAGE, 7), NoSeal()))

    assert first != second
    assert [e.state.serial for e in errored.find(places, State(PROJECT, "another", 4), NoSeal())] == [5]
    assert [e.state.serial for e in errored.find(places, State(PROJECT, LINEAGE, 7), NoSeal())] == [8]


@pytest.mark.parametrize("moment", ["before_write", "before_fsync", "before_rename"])
def test_a_place_that_fails_half_way_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(failpoints, "_SPEC", "set")
    monkeypatch.setattr(failpoints, "_ACTIONS", {f"errored.save.{moment}": ("raise", 1)})
    monkeypatch.setattr(failpoints, "_counts", {})
    places = Places(tmp_path / "state", {"TMPDIR": str(tmp_path / "tmp")})
    path = errored.write(places, LINEAGE, b"{}\n")

    assert path is not None
    assert path.parent.parent == tmp_path / "tmp"
    assert list((tmp_path / "state").iterdir()) == []


def test_nothing_is_begun_when_not_even_the_first_write_succeeds() -> None:
    store, world = MemoryStore(), World()
    store.saves_fail = True
    result = go(store, world)

    assert isinstance(result.broken, StateNotSaved)
    assert (result.saved, result.unsaved, world.log) == (False, (), [])
    assert result.unstarted == sorted(SPEC)
