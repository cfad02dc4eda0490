"""How runners end: drained, told to stop, and recorded as gone with what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from falplan import clock
from falplan.control.ledger import Fenced
from falplan.control.parts import LEAVING, Parts
from falplan.control.world import with_state
from falplan.core.runtime import Event, RunnerState
from falplan.core.scaling import backoff
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import AppRow, RolloutRow, RunnerRow


@dataclass(slots=True)
class Ending:
    """Ends runners of all apps. `failing` are those that are being stopped because they failed."""

    parts: Parts
    failing: set[str] = field(default_factory=set)

    async def drain(self, runner_id: str, because: str) -> None:
        """Give a runner no new request; stop it once it has none."""
        row = self.parts.world.runners.get(runner_id)
        if row is None or row.state in LEAVING:
            return
        row = with_state(row, RunnerState.DRAINING, because=because)
        await self.parts.world.save(row, Event(clock.now(), "runner.draining", runner_id, because))
        self.parts.publish(row.endpoint)
        await self.parts.tasks.cancel(f"check {runner_id}")
        self.parts.tasks.spawn(f"end {runner_id}", self.finish_draining(row))

    async def finish_draining(self, row: RunnerRow) -> None:
        """Stop a runner that gets no new request, once it has none."""
        await self.parts.tasks.wait(f"start {row.runner_id}")  # stopping it before it is there would leave it behind
        await self.parts.traffic.drained(row.runner_id)
        await self.terminate(row, row.because)

    async def terminate(self, row: RunnerRow, because: str, *, failed: bool = False) -> None:
        """Stop a runner, whatever it does. What it `failed` at counts against its revision."""
        if row.runner_id not in self.parts.world.runners:
            return
        row = with_state(row, RunnerState.TERMINATING, because=because)
        if failed:
            self.failing.add(row.runner_id)
        await self.parts.world.save(row)
        self.parts.publish(row.endpoint)
        fp("runner.stop.before_signal")
        try:
            await self.parts.host.stop(row.runner_id)
        except Fenced as exc:
            self.parts.give_up(exc)
            return
        fp("runner.stop.after_signal")
        if row.runner_id in self.parts.world.runners:
            await self.ended(row, because, failed=failed)

    async def ended(self, row: RunnerRow, because: str, *, failed: bool = False) -> None:
        """A runner is gone: record it, fail its rollout; if it `failed`, the next start may have to wait."""
        failed = failed or row.runner_id in self.failing  # a look may see it gone before stopping it returns
        gone = with_state(row, RunnerState.TERMINATED, ended_at=clock.now(), because=because)
        rows: list[RunnerRow | AppRow | Event] = [gone, Event(clock.now(), "runner.ended", row.runner_id, because)]
        async with self.parts.world.rolling:
            if row.runner_id not in self.parts.world.runners:
                return
            app = self.parts.world.apps.get(row.endpoint)
            if app and failed and app.revision == row.revision:
                rows.append(self._count_failure(app, row))
            await self.parts.world.save(*rows)
        self.parts.health.forget(row.runner_id)
        self.parts.started.pop(row.runner_id, None)
        self.failing.discard(row.runner_id)
        self.parts.progress.forget(row.runner_id)
        self.parts.publish(row.endpoint)
        self.parts.traffic.abandon(row.runner_id)
        rollout = self.parts.world.open_rollout(row.endpoint)
        if rollout and rollout.rollout.runner_id == row.runner_id:
            await self.parts.rollouts.end(rollout.rollout.operation, row.endpoint, because, log_of=row.runner_id)
        self.parts.wake()

    def _count_failure(self, app: AppRow, row: RunnerRow) -> AppRow:
        lived = clock.now() - row.ready_at if row.ready_at else 0.0
        if lived > self.parts.timing.steady:
            return replace(app, failures=0, launch_after=0.0)
        failures = app.failures + 1
        # A runner that was ready is replaced at once the first time; only a repeated crash has to wait.
        wait = backoff(failures - (1 if row.ready_at else 0), self.parts.timing.backoff)
        return replace(app, failures=failures, launch_after=clock.now() + wait)

    async def unlaunch(self, row: RunnerRow, because: str, *more: Event) -> None:
        """Take back a launch that came to nothing: the rollout that waited for it launches another one."""
        async with self.parts.world.rolling:
            rollout = self.parts.world.open_rollout(row.endpoint)
            rows: list[RunnerRow | RolloutRow | Event] = [
                with_state(row, RunnerState.TERMINATED, ended_at=clock.now(), because=because),
                *more,
            ]
            if rollout and rollout.rollout.runner_id == row.runner_id:
                rows.append(replace(rollout, rollout=replace(rollout.rollout, runner_id=None)))
            await self.parts.world.save(*rows)
