"""State on disk: whole, locked, never taken for something else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.core.errors import Locked, StateNotSaved
from falplan.core.state import Entry, Intent, Recorded, State, StateUnreadable
from falplan.stores.state.backend import BACKUPS
from falplan.stores.state.local import LocalState
from tests.core.builders import LINEAGE, a_build, a_gateway, a_state, an_app

EMPTY = State("demo", LINEAGE, 0)
APP = Recorded("app.main.hello", "app", {"endpoint": "acme/hello"}, {}, (), 1)
BEGIN = Entry("begin", APP.address, 1, replace(APP, generation=0, intent=Intent("create", "op", 1, "d")))
DONE = Entry("done", APP.address, 1, APP)


@pytest.fixture
def store(tmp_path: Path) -> LocalState:
    store = LocalState(tmp_path / ".falplan")
    store.folder.mkdir()
    return store


def test_nothing_applied_is_no_state(store: LocalState) -> None:
    assert store.read("demo") is None


def test_what_is_saved_is_read_with_the_next_serial(store: LocalState) -> None:
    saved = store.save(a_state(a_gateway(), a_build(), an_app()))

    assert store.read("demo") == saved
    assert saved.serial == 2


def test_the_journal_counts_as_state_until_it_is_folded_in(store: LocalState) -> None:
    state = store.save(EMPTY)
    store.append(state, BEGIN)
    read = store.read("demo")
    assert read is not None
    assert read.resources[APP.address].intent == BEGIN.recorded.intent  # type: ignore[union-attr]
    store.append(state, DONE)
    read = store.read("demo")
    assert read is not None
    store.save(read)

    assert not store.journal.exists()
    assert store.read("demo").resources == {APP.address: APP}  # type: ignore[union-attr]


def test_a_torn_last_line_of_the_journal_is_a_step_never_taken(store: LocalState) -> None:
    state = store.save(EMPTY)
    store.append(state, BEGIN)
    store.append(state, DONE)
    store.journal.write_bytes(store.journal.read_bytes()[:-9])

    assert store.read("demo").resources[APP.address].intent is not None  # type: ignore[union-attr]


def test_damage_in_the_middle_of_the_journal_is_an_error(store: LocalState) -> None:
    state = store.save(EMPTY)
    store.append(state, BEGIN)
    store.append(state, DONE)
    store.journal.write_text(store.journal.read_text().replace("begin", "began"))

    with pytest.raises(StateUnreadable, match=r"state\.journal:2"):
        store.read("demo")


def test_a_journal_left_over_behind_its_snapshot_is_ignored(store: LocalState) -> None:
    state = store.save(EMPTY)
    store.append(state, DONE)
    left_over = store.journal.read_bytes()
    store.save(replace(state, resources={}))
    store.journal.write_bytes(left_over)

    assert store.read("demo").resources == {}  # type: ignore[union-attr]


def test_a_journal_without_its_state_is_an_error(store: LocalState) -> None:
    state = store.save(EMPTY)
    store.append(state, DONE)
    store.path.unlink()

    with pytest.raises(StateUnreadable, match="missing"):
        store.read("demo")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_a_damaged_state_is_a_hard_error_that_names_the_backups(store: LocalState, content: bytes) -> None:
    store.path.write_bytes(content)

    with pytest.raises(StateUnreadable, match="backups"):
        store.read("demo")


def test_another_projects_state_is_refused(store: LocalState) -> None:
    store.save(EMPTY)

    with pytest.raises(StateUnreadable, match="another project"):
        store.read("other")


def test_ten_earlier_states_are_kept(store: LocalState) -> None:
    state = EMPTY
    for _ in range(15):
        state = store.save(state)
    kept = sorted(p.name for p in (store.folder / "backups").iterdir())

    assert len(kept) == BACKUPS
    assert kept[-1] == "state.00000014.json"


def test_a_full_disk_leaves_the_old_state_whole(store: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = store.save(EMPTY)
    code = "from falplan.core.state import *; from falplan.stores.state.local import LocalState; from pathlib import Path; import sys\n"
    code += "s = LocalState(Path(sys.argv[1])); s.save(s.read('demo'))"
    for point in ("state.save.before_write", "state.save.before_fsync", "state.save.before_rename"):
        run = _python(code, str(store.folder), FALPLAN_FAILPOINTS=f"{point}=raise")
        assert "StateNotSaved" in run.stderr
        assert store.read("demo") == saved


@pytest.mark.parametrize(
    "point",
    [
        "state.save.before_write",
        "state.save.before_fsync",
        "state.save.before_rename",
        "state.save.after_rename",
        "state.save.before_journal_removed",
    ],
)
def test_a_kill_at_any_point_of_a_save_leaves_the_old_or_the_new_state(store: LocalState, point: str) -> None:
    """Seen red with a state that was written in place: half a file."""
    old = store.save(EMPTY)
    store.append(old, DONE)
    code = "from falplan.stores.state.local import LocalState; from pathlib import Path; import sys\n"
    code += "s = LocalState(Path(sys.argv[1])); s.save(s.read('demo'))"
    run = _python(code, str(store.folder), FALPLAN_FAILPOINTS=f"{point}=kill")
    read = store.read("demo")

    assert run.returncode == -9
    assert read is not None
    assert read.resources == {APP.address: APP}


def test_an_entry_that_is_not_durable_stops_its_step(store: LocalState) -> None:
    state = store.save(EMPTY)
    code = "from falplan.stores.state.local import LocalState; from falplan.core.state import *; from pathlib import Path; import sys\n"
    code += "s = LocalState(Path(sys.argv[1])); s.append(s.read('demo'), Entry('begin', 'a', 1, None))"
    run = _python(code, str(store.folder), FALPLAN_FAILPOINTS="journal.begin.before_fsync=raise")

    assert StateNotSaved.__name__ in run.stderr
    assert store.read("demo") is not None
    assert state.serial == 1


def test_a_second_writer_is_told_who_holds_the_lock(store: LocalState) -> None:
    with (
        store.locked("apply"),
        pytest.raises(Locked, match=rf"pid {os.getpid()}.*`apply`"),
        LocalState(store.folder).locked("destroy"),
    ):
        pass


def test_a_reader_never_waits_for_a_writer(store: LocalState) -> None:
    store.save(EMPTY)
    with store.locked("apply"):
        assert LocalState(store.folder).read("demo") is not None


def test_a_killed_holder_holds_nothing(store: LocalState) -> None:
    code = "from falplan.stores.state.local import LocalState; from pathlib import Path; import sys, os, signal\n"
    code += "with LocalState(Path(sys.argv[1])).locked('apply'): os.kill(os.getpid(), signal.SIGKILL)"
    assert _python(code, str(store.folder)).returncode == -9

    with store.locked("destroy"):
        pass


def _python(code: str, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=60,
        check=False,
    )
