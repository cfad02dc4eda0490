"""Moves rollouts on: prepared, verified, switched or failed. Each step is durable before anything follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from falplan import clock
from falplan.control.host import Host, Traffic
from falplan.control.world import World, live_app
from falplan.core.errors import FalplanError
from falplan.core.rollout import Event as RolloutEvent
from falplan.core.rollout import Phase, Strategy, advance
from falplan.core.runtime import Event, RunnerState
from falplan.core.values import JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import RolloutRow


@dataclass(slots=True)
class Rollouts:
    """The open rollout of each app. `publish` tells the gateway of an app's runners, `wake` makes the controller look again."""

    world: World
    traffic: Traffic
    host: Host
    publish: Callable[[str], None]
    wake: Callable[[], None]

    async def prepared(self, operation: str, endpoint: str) -> None:
        """Files and environment of the new revision are on the machine."""
        async with self.world.rolling:
            row = self.world.open_rollout(endpoint)
            if row is None or row.rollout.operation != operation or row.rollout.phase is not Phase.PREPARING:
                return
            row = replace(row, rollout=replace(row.rollout, phase=advance(row.rollout.phase, RolloutEvent.PREPARED)))
            if row.rollout.strategy is Strategy.RECREATE:
                await self._switch(row)
            else:
                await self.world.save(row)
        self.wake()

    async def switch_if_verified(self, endpoint: str) -> None:
        """A runner of the new revision is healthy: it may serve. Looked at anew each time, so that no restart can miss it."""
        async with self.world.rolling:
            row = self.world.open_rollout(endpoint)
            if row is None or row.rollout.phase is not Phase.VERIFYING:
                return
            lost = row.rollout.runner_id if row.rollout.runner_id not in self.world.runners else None
            healthy = [r for r in self.world.runners_of(endpoint) if r.state is RunnerState.IDLE]
            if any(r.revision == row.rollout.revision for r in healthy):
                await self._switch(row)
                return
        if lost:
            ended = self.world.store.runner(lost)
            because = ended.because if ended else "its runner is gone"
            await self.end(row.rollout.operation, endpoint, because, log_of=lost)

    async def _switch(self, row: RolloutRow) -> None:
        """Move the alias. From here on the new revision serves; older runners drain."""
        rollout = replace(row.rollout, phase=advance(row.rollout.phase, RolloutEvent.HEALTHY))
        app = replace(
            self.world.apps[rollout.endpoint],
            revision=rollout.revision,
            inputs=row.inputs,
            settings=row.settings,
            overrides=row.overrides,
            failures=0,
            launch_after=0.0,
        )
        revision = self.world.store.revision(rollout.endpoint, rollout.revision)
        served = [replace(revision, served_at=clock.now())] if revision else []
        message = f"{rollout.revision} serves now" + (f" in place of {rollout.before}" if rollout.before else "")
        event = Event(clock.now(), "app.switched", app.endpoint, message)
        fp("rollout.switch.before_commit")
        await self.world.save(replace(row, rollout=rollout), app, event, *served)
        fp("rollout.switch.after_commit")
        self.traffic.configure(live_app(app))
        self.publish(app.endpoint)

    async def end(
        self,
        operation: str,
        endpoint: str,
        because: str,
        event: RolloutEvent = RolloutEvent.FAILURE,
        *,
        log_of: str = "",
    ) -> None:
        """The new revision will not serve. What served before goes on."""
        detail: JsonObject = {"log": list(await self._tail(log_of))}
        async with self.world.rolling:
            row = self.world.open_rollout(endpoint)
            if row is None or row.rollout.operation != operation:
                return
            rollout = replace(row.rollout, phase=advance(row.rollout.phase, event), because=because)
            told = Event(clock.now(), "rollout.failed", endpoint, because, detail)
            await self.world.save(replace(row, rollout=rollout), told)
        self.wake()

    async def _tail(self, runner_id: str) -> list[str]:
        try:
            return await self.host.tail(runner_id, 20) if runner_id else []
        except (FalplanError, OSError) as exc:
            return [f"(its log can't be read: {exc})"]
