"""Where the state is, and how it gets from one place to another without being lost, doubled or begun afresh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from falplan.core.errors import Refused
from falplan.core.spec.resolved import ResolvedSpec
from falplan.core.state import Recorded, State, StateUnreadable
from falplan.engine.migrating import find_migration, migrate
from falplan.engine.project import open_project
from falplan.stores.spec import load_spec
from falplan.stores.state.marker import marker_path
from tests.stores.state.conftest import REMOTE, Place
from tests.stores.state.worker import LINEAGE, entry

HEAD = "version: 1\nproject: demo\n"


def a_spec(place: Place) -> ResolvedSpec:
    """The spec in the place's folder, whose `state:` names that place."""
    (place.root / "falplan.yaml").write_text(HEAD + "state: " + json.dumps(place.section) + "\n")
    return load_spec(place.root)


def at(place: Place, root: Path) -> Place:
    return replace(place, root=root)


def apply(place: Place, *names: str) -> State:
    """What an apply leaves that was killed after its last step: a snapshot and a journal."""
    store = open_project(a_spec(place), os.environ).store
    with store.locked("apply"):
        state = store.save(store.read("demo") or State("demo", LINEAGE, 0))
        for name in names:
            store.append(state, entry(name))
    found = place.open().read("demo")
    assert found is not None
    return found


@pytest.fixture(params=REMOTE)
def other(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


def test_another_place_in_the_spec_never_starts_afresh(local_place: Place, other: Place) -> None:
    """Seen red without the marker: the next apply made everything once more."""
    apply(local_place, "app.main.a")

    with pytest.raises(Refused, match=r"elsewhere[\s\S]*falplan state migrate") as caught:
        open_project(a_spec(other), os.environ)
    assert local_place.open().where in caught.value.detail
    assert other.open().where in caught.value.detail
    marker_path(local_place.root).unlink()
    with pytest.raises(Refused, match="elsewhere"):  # a state from before there were markers counts as well
        open_project(a_spec(other), os.environ)


def test_the_marker_holds_no_secret_and_follows_the_state(postgres_place: Place) -> None:
    apply(postgres_place)
    body = json.loads(marker_path(postgres_place.root).read_text())

    assert body["where"] == postgres_place.open().where
    assert body["lineage"] == LINEAGE


def test_state_moves_there_and_back_with_everything_in_it(local_place: Place, other: Place) -> None:
    """Journal and all. Seen red with a copy of the snapshot alone."""
    before = apply(local_place, "app.main.a", "app.main.b")
    moving = find_migration(a_spec(other), os.environ)
    done = migrate(moving, "demo", timeout=0)
    there = open_project(a_spec(other), os.environ).read_state()

    assert (done.copied, done.resources) == (True, 2)
    assert there.resources == before.resources
    assert there.lineage == before.lineage
    with pytest.raises(StateUnreadable, match=r"kept elsewhere now[\s\S]*migrate"):
        local_place.open().read("demo")
    assert local_place.open().backups()
    after = apply(other, "app.main.c")
    assert migrate(find_migration(a_spec(local_place), os.environ), "demo", timeout=0).copied
    assert open_project(a_spec(local_place), os.environ).read_state().resources == after.resources
    assert find_migration(a_spec(local_place), os.environ).nothing


def test_a_teammate_without_a_marker_uses_the_spec_and_one_with_an_old_marker_is_brought_along(
    local_place: Place, s3_place: Place, postgres_place: Place, tmp_path: Path
) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    first, second = at(s3_place, mine), at(postgres_place, mine)
    apply(first, "app.main.a")
    apply(at(first, theirs))
    migrate(find_migration(a_spec(second), os.environ), "demo", timeout=0)
    apply(second, "app.main.b")
    late = at(second, theirs)
    with pytest.raises(Refused, match="elsewhere"):
        open_project(a_spec(late), os.environ)
    done = migrate(find_migration(a_spec(late), os.environ), "demo", timeout=0)

    assert not done.copied
    assert set(open_project(a_spec(late), os.environ).read_state().resources) == {"app.main.a", "app.main.b"}


def test_a_foreign_or_newer_state_in_the_new_place_is_not_touched(local_place: Place, s3_place: Place) -> None:
    apply(local_place, "app.main.a")
    store = s3_place.open()
    with store.locked("apply"):
        theirs = store.save(State("demo", "another-lineage", 0))
    with pytest.raises(Refused, match="Another state is there"):
        migrate(find_migration(a_spec(s3_place), os.environ), "demo", timeout=0)
    assert s3_place.open().read("demo") == theirs
    with store.locked("apply"):
        store.copy_in(State("demo", LINEAGE, 40))
    with pytest.raises(Refused, match="A newer state is there"):
        migrate(find_migration(a_spec(s3_place), os.environ), "demo", timeout=0)

    assert s3_place.open().read("demo").serial == 40  # type: ignore[union-attr]
    assert set(local_place.open().read("demo").resources) == {"app.main.a"}  # type: ignore[union-attr]


POINTS = [
    "migrate.copy.before_write",
    "s3.write.before_put",
    "s3.write.after_put",
    "migrate.copy.after_write",
    "migrate.note.before_write",
    "state.save.before_rename",
    "state.save.after_rename",
    "migrate.note.after_write",
    "marker.write.before_write",
    "marker.save.before_rename",
    "marker.write.after_write",
]


@pytest.mark.faults
@pytest.mark.parametrize("point", POINTS)
def test_a_migration_that_is_killed_anywhere_is_run_again(local_place: Place, s3_place: Place, point: str) -> None:
    """Nothing is lost, and nobody starts afresh in between. Seen red with a marker that was written before the copy."""
    store = local_place.open()
    with store.locked("apply"):
        before = store.save(replace(State("demo", LINEAGE, 0), resources={"app.main.a": _recorded("app.main.a")}))
    a_spec(s3_place)
    argv = [sys.executable, "-m", "falplan", "-C", str(s3_place.root), "state", "migrate", "--auto-approve"]
    environ = {**os.environ, "FALPLAN_STATE_LEASE": "2", "FALPLAN_FAILPOINTS": f"{point}=kill"}
    killed = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -9, killed.stderr
    again = subprocess.run(
        [*argv, "--lock-timeout", "30"],
        env={**environ, "FALPLAN_FAILPOINTS": ""},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert again.returncode == 0, again.stderr

    assert open_project(a_spec(s3_place), os.environ).read_state().resources == before.resources
    with pytest.raises(StateUnreadable, match="kept elsewhere"):
        local_place.open().read("demo")


def _recorded(address: str) -> Recorded:
    return entry(address).recorded or Recorded(address, "app", {}, {})
