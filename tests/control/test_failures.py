"""What counts as a runner's failure, after which the next start may have to wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from tests.control.machine_in_memory import ENDPOINT, InMemory, a_control_plane


@dataclass
class Lingering(InMemory):
    """A machine on which a runner is gone before whoever stops it has learnt so."""

    async def stop(self, runner_id: str) -> None:
        self.runners[runner_id] = replace(self.runners[runner_id], alive=False, ready=False)
        await asyncio.Event().wait()


async def test_a_runner_that_a_look_finds_gone_while_it_is_stopped_for_failing_has_failed(tmp_path: Path) -> None:
    """Seen red: an app whose health check failed again and again was started again and again without a pause."""
    async with a_control_plane(tmp_path, Lingering()) as plane, asyncio.timeout(20):
        await plane.deploy()
        world = plane.controller.world
        (first,) = world.runners
        plane.controller.following.suspect(first, "it answers nothing")
        await world.until(lambda: first not in world.runners)

        assert world.apps[ENDPOINT].failures == 1
