"""`falplan force-unlock`, as it is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from falplan.core.errors import ExitCode, StateNotSaved
from falplan.core.state import State
from falplan.stores.state.holding import new_holder
from tests.stores.state.conftest import Place
from tests.stores.state.test_places import a_spec
from tests.stores.state.worker import LINEAGE, entry

pytestmark = pytest.mark.faults


def falplan(place: Place, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "falplan", "-C", str(place.root), *argv]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=90, check=False)


def test_the_lock_is_taken_from_a_holder_elsewhere_after_asking(remote: Place) -> None:
    a_spec(remote)
    none = falplan(remote, "force-unlock", "x", "--auto-approve")
    store = remote.open(lease=600)
    holder = replace(new_holder("apply"), host="another-machine", pid=1)
    with store._holding(store.backend.acquire(holder)):
        state = store.save(State("demo", LINEAGE, 0))
        wrong = falplan(remote, "force-unlock", "x", "--auto-approve")
        asked = falplan(remote, "force-unlock", holder.lock_id)
        assert remote.open().holder() is not None
        done = falplan(remote, "force-unlock", holder.lock_id, "--auto-approve")
        with pytest.raises(StateNotSaved, match="lock was lost"):
            store.append(state, entry("app.main.late"))

    assert (none.returncode, "not locked" in none.stderr) == (ExitCode.REFUSED, True)
    assert (wrong.returncode, holder.lock_id in wrong.stderr) == (ExitCode.REFUSED, True)
    assert (asked.returncode, "Approval is missing" in asked.stderr) == (ExitCode.REFUSED, True)
    assert done.returncode == ExitCode.DONE, done.stderr
    assert "another-machine" in done.stdout or holder.who in done.stdout


def test_a_local_lock_is_never_taken_from_a_process_that_lives(local_place: Place) -> None:
    a_spec(local_place)
    store = local_place.open()
    with store.locked("apply"):
        holder = store.holder()
        assert holder is not None
        refused = falplan(local_place, "force-unlock", holder.lock_id, "--auto-approve")

    assert refused.returncode == ExitCode.REFUSED
    assert f"kill {holder.pid}" in refused.stderr
