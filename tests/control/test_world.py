"""The controller's memory."""

from __future__ import annotations

from pathlib import Path

from falplan.control.world import World
from falplan.core.runtime import RunnerState
from falplan.stores.runtime.control import ControlStore, RunnerRow
from falplan.stores.runtime.database import Database


async def test_time_before_a_restart_does_not_count_as_idle(tmp_path: Path) -> None:
    """Seen red with views that gave the time at which a runner was ready: one that had waited long was stopped at once."""
    database = Database.open(tmp_path / "control.db")
    world = World(ControlStore(database), since=1000.0)
    await world.save(
        RunnerRow("r1", "acme/one", "r-1", RunnerState.IDLE, "here", {}, 1.0, ready_at=2.0),
        RunnerRow("r2", "acme/one", "r-1", RunnerState.IDLE, "here", {}, 1001.0, ready_at=1002.0),
        RunnerRow("r3", "acme/one", "r-1", RunnerState.SETUP, "here", {}, 1003.0),
    )
    views = {v.runner_id: v.ready_at for v in world.runner_views("acme/one")}
    database.close()

    assert views == {"r1": 1000.0, "r2": 1002.0, "r3": None}
