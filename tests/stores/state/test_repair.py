"""What is broken is looked at, kept and replaced on every backend; what is older than was seen is refused there, too."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from falplan.core.errors import Refused
from falplan.core.state import Entry, Recorded, State, StateUnreadable
from falplan.core.state_repair import Backup, diagnose
from falplan.core.values import JsonObject
from falplan.stores.state.broken import log_told
from falplan.stores.state.places import open_store
from falplan.stores.state.seen import StateOlder
from falplan.stores.state.store import Store
from tests.stores.state.conftest import Place
from tests.stores.state.worker import LINEAGE, entry

KEY = base64.b64encode(b"k" * 32).decode()
ENCRYPTED: JsonObject = {"key": {"env": "STATE_KEY"}}
A = Recorded("app.main.a", "app", {}, {}, (), 1)


@pytest.fixture(params=[False, True], ids=["clear", "encrypted"])
def sealed(request: pytest.FixtureRequest, place: Place) -> Place:
    """A place of each backend, in clear and encrypted."""
    return replace(place, section={**place.section, "encryption": ENCRYPTED}) if request.param else place


def opened(place: Place) -> Store:
    """A store with the key, and a home of its own."""
    environ = {"FALPLAN_STATE_LEASE": "2", "STATE_KEY": KEY, "XDG_STATE_HOME": str(place.root / "home")}
    return open_store(place.section, "demo", place.root, environ)


def applied(place: Place) -> State:
    """Serial 3 with one app, and two more in its journal."""
    store = opened(place)
    with store.locked("apply"):
        state = store.save(store.save(State("demo", LINEAGE, 0)))
        state = store.save(replace(state, resources={"app.main.a": A}))
        store.append(state, entry("app.main.b"))
        store.append(state, entry("app.main.c"))
    return state


def stored(place: Place) -> bytes:
    loaded = opened(place).backend.load(log_told)
    assert loaded.snapshot is not None
    return loaded.snapshot.content


def damage(place: Place, content: bytes) -> None:
    """Write something in the place of the snapshot, as whoever has access to the place could."""
    store = opened(place)
    with store.locked("damage"):
        loaded = store.backend.load(log_told)
        assert loaded.snapshot is not None
        store.backend.write(content, expected=loaded.snapshot.version, keep="damage.json")


def mended(place: Place) -> State:
    store = opened(place)
    with store.locked("state repair"):
        backups = [Backup(k.name, store.read_backup(k.name)) for k in store.backups() if k.serial >= 0]
        found = diagnose(store.examine(), backups, project="demo", seen=0)
        assert found.mended is not None, found
        return store.replace_broken(found.mended, keep_as="broken")


def test_a_torn_snapshot_is_replaced_by_its_backup_and_journal(sealed: Place) -> None:
    applied(sealed)
    whole = stored(sealed)
    torn = whole[: len(whole) - 40]
    damage(sealed, torn)
    with pytest.raises(StateUnreadable):
        opened(sealed).read("demo")
    made = mended(sealed)
    kept = json.loads(opened(sealed).backend.read_backup("broken.json") or b"")

    assert sorted(made.resources) == ["app.main.b", "app.main.c"]  # the backup's, and the journal's
    assert opened(sealed).read("demo") == made
    assert made.serial == 4
    assert base64.b64decode(kept["snapshot"]) == torn
    assert (kept["journal"]["serial"], len(kept["journal"]["records"])) == (3, 2)
    assert not opened(sealed).has_journal()


def test_a_sound_state_is_read_as_sound_on_every_backend(sealed: Place) -> None:
    applied(sealed)
    remains = opened(sealed).examine()

    assert diagnose(remains, [], project="demo", seen=0).findings == ()
    assert remains.lineage == LINEAGE
    assert remains.journal is not None
    assert [e.address for e in remains.journal.entries] == ["app.main.b", "app.main.c"]


def test_a_key_that_is_elsewhere_is_no_damage(place: Place) -> None:
    encrypted = replace(place, section={**place.section, "encryption": ENCRYPTED})
    applied(encrypted)
    without = open_store(encrypted.section, "demo", place.root, {"FALPLAN_STATE_LEASE": "2"})

    assert "environment variable STATE_KEY: it is not set" in without.examine().locked_away
    with pytest.raises(Refused, match="can't be encrypted"), without.locked("apply"):
        pytest.fail("nothing is done without the key")
    assert without.holder() is None


def test_a_sealed_state_is_no_damage_for_a_spec_that_says_nothing_of_encryption(place: Place) -> None:
    """Seen red with sealed bytes taken for a torn snapshot: a repair put an older state in clear in their place."""
    applied(replace(place, section={**place.section, "encryption": ENCRYPTED}))
    store = opened(place)

    with pytest.raises(Refused, match="The state is encrypted"):
        store.read("demo")
    assert "The state is encrypted" in store.examine().locked_away
    assert diagnose(store.examine(), [], project="demo", seen=0).mended is None


def test_an_older_snapshot_is_refused_on_every_backend(sealed: Place) -> None:
    """Seen red without the note of serials."""
    store = opened(sealed)
    with store.locked("apply"):
        store.save(State("demo", LINEAGE, 0))
    older = stored(sealed)
    with store.locked("apply"):
        store.save(store.read("demo"))  # type: ignore[arg-type]
    damage(sealed, older)
    with pytest.raises(StateOlder) as caught:
        opened(sealed).read("demo")

    assert (caught.value.state.serial, caught.value.seen.serial) == (1, 2)
    assert caught.value.exit_code == 6
    elsewhere = open_store(sealed.section, "demo", sealed.root, {"FALPLAN_STATE_LEASE": "2", "STATE_KEY": KEY})
    assert elsewhere.read("demo") == caught.value.state  # another user has seen nothing newer


REPAIR = """
import json, sys
from pathlib import Path
from tests.stores.state.conftest import Place
from tests.stores.state.test_repair import mended
mended(Place(json.loads(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.parametrize(
    "point", ["state.repair.before_journal_removed", "state.repair.before_write", "state.save.after_rename"]
)
def test_a_repair_that_is_killed_loses_nothing_and_is_done_again(local_place: Place, point: str) -> None:
    """Seen red with a repair that did not know its own half: the journal's apps were gone."""
    applied(local_place)
    torn = stored(local_place)[:-40]
    damage(local_place, torn)
    environ = {**os.environ, "FALPLAN_FAILPOINTS": f"{point}=kill", "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", REPAIR, json.dumps(local_place.section), str(local_place.root)]
    ran = subprocess.run(argv, env=environ, capture_output=True, timeout=60)
    assert ran.returncode == -9, ran.stderr.decode()
    made = mended(local_place)
    kept = json.loads(opened(local_place).backend.read_backup("broken.json") or b"")

    assert sorted(made.resources) == ["app.main.b", "app.main.c"]
    assert base64.b64decode(kept["snapshot"]) == torn


def test_a_torn_last_line_and_a_missing_key_are_told_apart(local_place: Place) -> None:
    """Seen red while a missing key counted as damage: the last step of an apply would have been taken for one never taken."""
    encrypted = replace(local_place, section={**local_place.section, "encryption": ENCRYPTED})
    applied(encrypted)
    journal = local_place.root / ".falplan" / "state.journal"
    *lines, _ = journal.read_bytes().splitlines(keepends=True)
    other = replace(encrypted, root=local_place.root / "other")
    environ = {"STATE_KEY": base64.b64encode(b"x" * 32).decode()}
    foreign = open_store(other.section, "demo", other.root, environ)
    state = foreign.save(State("demo", LINEAGE, 2))
    foreign.append(state, entry("app.main.z"))
    foreign.append(state, Entry("done", "app.main.y", 1, None))
    last = (other.root / ".falplan" / "state.journal").read_bytes().splitlines(keepends=True)[-1]
    journal.write_bytes(b"".join(lines) + last)
    with pytest.raises(Refused, match="a key that is not here"):
        opened(encrypted).read("demo")
    journal.write_bytes(b"".join(lines) + last[:50])

    found = opened(encrypted).read("demo")
    assert found is not None
    assert sorted(found.resources) == ["app.main.a", "app.main.b"]
