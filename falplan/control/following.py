"""What follows from a look at a runner: it is ready, healthy, in doubt, replaced or gone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from falplan import clock
from falplan.control.ending import Ending
from falplan.control.host import Observation
from falplan.control.launching import Launching
from falplan.control.parts import FAILS, LEAVING, Parts
from falplan.control.world import starting, with_state
from falplan.core.runtime import Event, RunnerState
from falplan.stores.runtime.control import RunnerRow


@dataclass(slots=True)
class Following:
    """Follows each recorded runner from its start to its end."""

    parts: Parts
    launching: Launching
    ending: Ending

    async def follow(self, row: RunnerRow, seen: Observation | None) -> None:
        """Act on what was seen of a runner; None where its machine was looked at and it was not there."""
        if row.runner_id not in self.parts.world.runners:
            return  # ended while others were followed
        if seen is None:
            await self.ending.ended(row, "its folder is gone", failed=True)
        elif not seen.alive:
            await self.parts.tasks.cancel(f"check {row.runner_id}", f"end {row.runner_id}")
            await self.parts.host.kill(row.runner_id)  # what outlived its supervisor
            told = row.because if row.state is RunnerState.TERMINATING else ""  # stopping it has not returned yet
            await self.ending.ended(row, told or seen.reason, failed=row.state in FAILS)
        elif seen.spoiled and row.state not in LEAVING and row.runner_id not in self.parts.world.replacing:
            self.parts.world.replacing.add(row.runner_id)
            await self.parts.tell(
                "runner.spoiled", row.runner_id, "somebody changed what it is run from: it is replaced"
            )
        elif seen.waits and row.state not in LEAVING:
            if f"start {row.runner_id}" not in self.parts.tasks:
                self.parts.tasks.spawn(f"start {row.runner_id}", self.launching.start(row))  # it gets its secrets
        elif seen.starting and row.state is RunnerState.IDLE:
            await self._starts_again(row)
        elif seen.ready and starting(row) and f"check {row.runner_id}" not in self.parts.tasks:
            self.parts.tasks.spawn(f"check {row.runner_id}", self._first_check(row, seen))
        elif row.state is RunnerState.PENDING:
            await self.parts.world.save(with_state(row, RunnerState.SETUP))
        elif row.state in LEAVING and not self._is_ending(row.runner_id):
            self.parts.tasks.spawn(
                f"end {row.runner_id}", self.ending.finish_draining(row)
            )  # an earlier try at stopping it failed
        elif row.ready_at is not None and row.state is RunnerState.IDLE:
            self._check_again(row)

    async def _starts_again(self, row: RunnerRow) -> None:
        """Its machine was restarted, and brought it back: it is no other runner, but gets no request until it is healthy again."""
        await self.parts.tasks.cancel(f"check {row.runner_id}")
        because = "its machine was restarted"
        told = Event(clock.now(), "runner.restarted", row.runner_id, because)
        await self.parts.world.save(with_state(row, RunnerState.SETUP, ready_at=None, address=""), told)
        self.parts.publish(row.endpoint)
        self.parts.traffic.abandon(row.runner_id)

    def _is_ending(self, runner_id: str) -> bool:
        return f"end {runner_id}" in self.parts.tasks or f"check {runner_id}" in self.parts.tasks

    async def _first_check(self, row: RunnerRow, seen: Observation) -> None:
        definition = self.parts.world.definition(row.endpoint, row.revision)
        failure = await self.parts.health.until_healthy(seen.address, definition, seen.access)
        current = self.parts.world.runners.get(row.runner_id)
        if current is None or not starting(current):
            return
        if failure:
            await self.ending.terminate(current, failure, failed=True)
        else:
            await self._ready(with_state(current, RunnerState.IDLE, ready_at=clock.now(), address=seen.address))

    async def _ready(self, row: RunnerRow) -> None:
        async with self.parts.world.rolling:
            app = self.parts.world.apps.get(row.endpoint)
            if app and app.failures and app.revision == row.revision:
                await self.parts.world.save(row, replace(app, launch_after=0.0))
            else:
                await self.parts.world.save(row)
        self.parts.publish(row.endpoint)
        self.parts.wake()

    def _check_again(self, row: RunnerRow) -> None:
        definition = self.parts.world.definition(row.endpoint, row.revision)
        name = f"check {row.runner_id}"
        if name not in self.parts.tasks and self.parts.health.is_due(row.runner_id, definition, now=clock.monotonic()):
            self.parts.tasks.spawn(name, self._regular_check(row))

    async def _regular_check(self, row: RunnerRow) -> None:
        definition = self.parts.world.definition(row.endpoint, row.revision)
        failure = await self.parts.health.regular(row.runner_id, row.address, definition, self.parts.access(row))
        if failure and self.parts.host.is_elsewhere(row.machine_id) and not await self._fails_itself(row):
            return  # it is the way there that fails
        current = self.parts.world.runners.get(row.runner_id)
        if failure and current and current.state is RunnerState.IDLE:
            await self.ending.terminate(current, f"health check: {failure}", failed=True)

    def suspect(self, runner_id: str, reason: str) -> None:
        """The gateway lost a runner, or it answered that it should be replaced."""
        row = self.parts.world.runners.get(runner_id)
        if row and row.state in (RunnerState.IDLE, RunnerState.DRAINING) and f"end {runner_id}" not in self.parts.tasks:
            self.parts.tasks.spawn(f"end {runner_id}", self._question(row, reason))

    async def _question(self, row: RunnerRow, reason: str) -> None:
        """End a suspect; one on a host only if it is the runner that fails, not the way to it."""
        if self.parts.host.is_elsewhere(row.machine_id):
            self.parts.traffic.abandon(row.runner_id)
            if not await self._fails_itself(row):
                self.parts.publish(row.endpoint)  # unless its host is in doubt by now
                return
        await self.ending.terminate(row, reason, failed=row.state in FAILS)

    async def _fails_itself(self, row: RunnerRow) -> bool:
        """Whether it is a runner on a host that fails, and not the way to it: as a look shows that begins after the failure."""
        asked, sight = clock.monotonic(), await self.parts.host.observe()
        while (at := sight.at(row.machine_id)) is not None and at < asked:
            await asyncio.sleep(0.2)
            sight = await self.parts.host.observe()
        if at is None:
            return False
        seen = sight.found.get(row.runner_id)
        if seen is not None and seen.starting:
            return False  # its machine was restarted: it comes back
        if seen is None or not seen.ready:
            return True
        definition = self.parts.world.definition(row.endpoint, row.revision)
        return await self.parts.health.once(seen.address, definition, seen.access) is not None
