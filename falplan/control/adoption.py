"""Runners that run and that the database knows nothing of: taken over, kept until their app is applied again, or ended.

They are there when the database is older than what acted here: a backup was restored, or a folder was copied back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from falplan import clock
from falplan.control.host import HERE, Host, Observation
from falplan.control.labels import Labels, labels_of
from falplan.control.world import World
from falplan.core.operations import Operation
from falplan.core.runtime import Event, RunnerState
from falplan.core.values import Json, JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import RunnerRow

log = logging.getLogger(__name__)

ROLLED_BACK = "rolled_back"
"""The mark of a database that is older than what acted on its machine, until an apply has told it everything again."""


@dataclass(slots=True)
class Adoption:
    """What is done with runners that nobody recorded. `waiting` are those whose revision the database does not know."""

    world: World
    host: Host
    lineage: str = ""
    rolled_back: bool = False
    waiting: dict[str, Labels] = field(default_factory=dict)
    _machines: dict[str, str] = field(default_factory=dict)  #: where those that wait are

    async def take_over(self, seen: Observation | None) -> bool:
        """Take over a runner that nobody recorded, or let it wait. False: it is to be ended."""
        labels = labels_of(seen.labels) if seen and seen.alive else None
        if seen is None or labels is None or labels.lineage != self.lineage:
            return False
        if self._wanted(labels):
            await self._adopt(seen.runner_id, labels, seen.machine_id)
            return True
        if self.rolled_back:
            self.waiting[seen.runner_id] = labels
            self._machines[seen.runner_id] = seen.machine_id
        return self.rolled_back

    async def adopt_of(self, endpoint: str, revision: str) -> None:
        """A revision was made known: its runners that wait belong to it."""
        for runner_id, labels in sorted(self.waiting.items()):
            if (labels.endpoint, labels.revision) == (endpoint, revision):
                await self._adopt(runner_id, labels, self._machines.get(runner_id, HERE))
                del self.waiting[runner_id]

    async def settle(self, record: Callable[[list[str]], Operation]) -> list[str]:
        """Everything was applied again: what still waits belongs to nobody, and is ended. Returns its ids.

        What `record` makes of them becomes durable together with the fact that nothing waits any more.
        """
        ended = sorted(self.waiting)
        for runner_id in ended:
            await self.host.kill(runner_id)
            await self.world.save(Event(clock.now(), "runner.reaped", runner_id, "nothing that was applied wants it"))
            self.waiting.pop(runner_id, None)
        await self.world.store.mark(ROLLED_BACK, None, record(ended))
        self.rolled_back = False
        return ended

    def to_json(self) -> list[Json]:
        """Those that wait: whose they are, and since when (epoch seconds)."""
        return [self._described(runner_id, labels) for runner_id, labels in sorted(self.waiting.items())]

    @staticmethod
    def _described(runner_id: str, labels: Labels) -> JsonObject:
        return {
            "runner_id": runner_id,
            "endpoint": labels.endpoint,
            "revision": labels.revision,
            "control_plane": labels.control_plane,
            "epoch": labels.epoch,
            "created_at": labels.created_at,
        }

    def _wanted(self, labels: Labels) -> bool:
        app = self.world.apps.get(labels.endpoint)
        rollout = self.world.open_rollout(labels.endpoint)
        revisions = {app.revision if app and not app.deleting else None, rollout.rollout.revision if rollout else None}
        return labels.revision in revisions

    async def _adopt(self, runner_id: str, labels: Labels, host: str) -> None:
        machines = [m for m in await self.host.machines() if m.region == labels.placement.get("region")]
        here = machines[0].machine_id if machines else ""
        row = RunnerRow(
            runner_id,
            labels.endpoint,
            labels.revision,
            RunnerState.SETUP,  # its health is looked at before it gets a request
            host or here,
            labels.placement,
            labels.created_at,
            because=f"taken over: control plane {labels.control_plane}, epoch {labels.epoch} started it",
        )
        fp("runner.adopt.before_commit")
        await self.world.save(row, Event(clock.now(), "runner.adopted", runner_id, row.because))
        fp("runner.adopt.after_commit")
        log.warning("%s of %s is taken over", runner_id, labels.endpoint)
