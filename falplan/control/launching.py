"""How runners begin: placed where there is room and money, recorded, and started; or held back, and why."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from falplan import clock
from falplan.control.ending import Ending
from falplan.control.ledger import Fenced, RoomTaken
from falplan.control.parts import LEAVING, Parts
from falplan.control.room import Room
from falplan.control.world import placement
from falplan.core.definition import Definition
from falplan.core.errors import FalplanError
from falplan.core.fleet import Decision, Waiting
from falplan.core.offers import Unplaced
from falplan.core.placement import Need, NoRoom, place
from falplan.core.reconcile import Step
from falplan.core.runtime import Event, RunnerState
from falplan.core.spec.resolved import MachineType
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import RolloutRow, RunnerRow

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Launching:
    """Starts runners of all apps. `held` tells by endpoint why no further runner of an app is launched.

    `sells_to` tells whether machines can be bought for an app with these `regions`; its runners without room are among `waiting` then.
    """

    parts: Parts
    room: Room
    ending: Ending
    sells_to: Callable[[Sequence[str] | None], bool] = lambda regions: False
    held: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, Waiting] = field(default_factory=dict)

    async def launch(self, endpoint: str, step: Step) -> None:
        """Begin a runner that was decided on, or hold it back."""
        definition = self.parts.world.definition(endpoint, step.revision)
        app = self.parts.world.apps[endpoint]
        rollout = self.parts.world.open_rollout(endpoint)
        verifies = rollout if rollout and rollout.rollout.revision == step.revision else None
        # What verifies a deploy runs by the settings that are deployed with it: they count for callers once it serves.
        need = self.room.need(definition, verifies.settings if verifies else app.settings)
        types = definition.machine_types
        placed = place(need, await self.room.slots(), types)
        if isinstance(placed, NoRoom):
            if self.sells_to(need.regions):
                self._want_machine(endpoint, need, types)
            elif isinstance(place(need, await self.room.slots(leaving=False), types), NoRoom):
                await self._hold(endpoint, verifies, "; ".join(placed.reasons))
            else:
                await self._wait_for_room(endpoint, verifies)
            return
        too_dear = self.room.over_budget(app, placed, definition)
        if too_dear:
            if self.room.over_budget(app, placed, definition, leaving=False):
                await self._hold(endpoint, verifies, too_dear, "runner.over_budget")
            else:
                await self._wait_for_room(endpoint, verifies)
            return
        self.held.pop(endpoint, None)
        row = RunnerRow(
            clock.new_id("runner"),
            endpoint,
            step.revision,
            RunnerState.PENDING,
            placed.machine_id,
            placement(placed),
            clock.now(),
            because=step.because,
        )
        fp("runner.launch.before_intent")
        if not await self._record_launch(row, verifies):
            return
        fp("runner.launch.after_intent")
        self.parts.started[row.runner_id] = math.inf
        self.parts.tasks.spawn(f"start {row.runner_id}", self.start(row))

    def _want_machine(self, endpoint: str, need: Need, types: Mapping[str, MachineType]) -> None:
        """One more runner that has no room, and would have on a machine that is bought."""
        known = self.waiting.get(endpoint)
        count = known.unplaced.count + 1 if known and known.unplaced.need == need else 1
        self.waiting[endpoint] = Waiting(endpoint, Unplaced(need, count, types))

    async def tell_waiting(self, decision: Decision) -> None:
        """What was decided for those that wait for machines: why they do, or that there is no hope."""
        for endpoint in [who for who in decision.held if who in self.waiting]:
            because = "; ".join(decision.held[endpoint])
            rollout = self.parts.world.open_rollout(endpoint)
            verifies = rollout if rollout and rollout.rollout.runner_id is None else None
            if endpoint in decision.hopeless:
                await self._hold(endpoint, verifies, because)
            else:
                await self._wait_because(endpoint, verifies, because, "runner.waits")

    async def _record_launch(self, row: RunnerRow, verifies: RolloutRow | None) -> bool:
        """Make the intent durable, together with the rollout that it verifies. False if that rollout ended meanwhile."""
        if verifies is None:
            await self.parts.world.save(row)
            return True
        async with self.parts.world.rolling:
            current = self.parts.world.open_rollout(row.endpoint)
            if current is None or current.rollout != verifies.rollout:
                return False
            rollout = replace(current.rollout, runner_id=row.runner_id, because="")
            await self.parts.world.save(row, replace(current, rollout=rollout))
        return True

    async def start(self, row: RunnerRow) -> None:
        """Have a runner started where it was placed. May be called again: it gets what it waits for."""
        definition = self.parts.world.definition(row.endpoint, row.revision)
        try:
            await self._try_start(row, definition)
        except Fenced as exc:
            self.parts.give_up(exc)
        finally:
            self.parts.progress.forget(row.runner_id)
            if row.runner_id in self.parts.world.runners:
                self.parts.started[row.runner_id] = clock.monotonic()
        self.parts.wake()

    async def _try_start(self, row: RunnerRow, definition: Definition) -> None:
        try:
            where = f"{row.machine_id}: " if self.parts.host.is_elsewhere(row.machine_id) else ""
            await self.parts.host.start(
                row, definition, lambda line: self.parts.progress.tell(row.runner_id, where + line)
            )
        except Fenced:
            raise
        except RoomTaken as exc:
            # Another project was faster: nothing is known against the revision, it is placed again.
            await self.parts.host.kill(row.runner_id)
            because = f"{exc.summary}: {exc.detail}"
            told = Event(clock.now(), "runner.no_room", row.endpoint, because)
            await self.ending.unlaunch(self.parts.world.runners.get(row.runner_id, row), because, told)
        except (FalplanError, OSError) as exc:
            try:
                await self.parts.host.kill(row.runner_id)
            except (FalplanError, OSError):
                log.warning("%s may run on %s, which does not answer", row.runner_id, row.machine_id)
            await self.ending.ended(row, f"it could not be started: {exc}", failed=True)

    async def _hold(
        self, endpoint: str, verifies: RolloutRow | None, because: str, kind: str = "runner.no_room"
    ) -> None:
        """A launch is not possible: a deploy that waits for it fails, a running app is told why."""
        if verifies:
            because = f"there is no room for a runner of it: {because}"
            await self.parts.rollouts.end(verifies.rollout.operation, endpoint, because)
        elif self.held.get(endpoint) != because:
            self.held[endpoint] = because
            await self.parts.tell(kind, endpoint, because)

    async def _wait_for_room(self, endpoint: str, verifies: RolloutRow | None) -> None:
        """Runners that are ending take room and money still: their end wakes the controller, and the launch is tried again."""
        ending = sorted(r.runner_id for r in self.parts.world.runners.values() if r.state in LEAVING)
        await self._wait_because(endpoint, verifies, f"waits for the room of {', '.join(ending)}", "runner.no_room")

    async def _wait_because(self, endpoint: str, verifies: RolloutRow | None, because: str, kind: str) -> None:
        """Whoever deploys, and whoever asks about the app, is told why nothing is launched yet."""
        if self.held.get(endpoint) == because:
            return
        self.held[endpoint] = because
        async with self.parts.world.rolling:
            current = self.parts.world.open_rollout(endpoint)
            if verifies and current and current.rollout == verifies.rollout:
                await self.parts.world.save(replace(current, rollout=replace(current.rollout, because=because)))
        await self.parts.tell(kind, endpoint, because)
