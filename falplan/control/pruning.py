"""Finds what is beyond the limits, and deletes it. Never anything unfinished, alive, or needed by a revision."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from falplan import clock
from falplan.control.host import Host, Unused, needed_by
from falplan.control.world import World
from falplan.core.pruning import KEPT_UNUSED, Limits, Prunable
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.interfaces import RequestStore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pruning:
    """Deletes what the limits let go. What it did half is done by the next time: nothing is recorded as gone before it is."""

    world: World
    host: Host

    async def measure(self, limits: Limits, requests: RequestStore) -> list[Prunable]:
        """What `prune` would delete now, one entry a kind, also those with nothing in it."""
        now = clock.now()
        store, runners, unused = self.world.store, self._runners(limits), await self._unused()
        finished = await _in_thread(lambda: requests.finished(now=now, ended_before=_ended_before(limits, now)))
        history = await _in_thread(lambda: store.history_before(now - limits.events))
        sizes = await self.host.sizes(runners, unused)
        kinds = {kind: [sizes[u] for u in unused if u.kind == kind] for kind in Unused.KINDS}
        return [
            Prunable("finished requests", *finished),
            Prunable("ended runners", len(runners), sum(sizes[r] for r in runners)),
            Prunable("events and ended operations", *history),
            *(Prunable(kind, len(found), sum(found)) for kind, found in kinds.items()),
        ]

    async def prune(self, limits: Limits, requests: RequestStore) -> None:
        """Delete it. May be called again, and at any time."""
        now = clock.now()
        await requests.forget(now=now, ended_before=_ended_before(limits, now))
        await self.prune_quickly(limits)

    async def prune_quickly(self, limits: Limits) -> None:
        """All but requests, which the gateway forgets by itself: what the control plane does from time to time."""
        runners = self._runners(limits)
        fp("prune.runners.before")
        await self.host.forget_runners(runners)
        fp("prune.runners.after")
        await self.world.store.prune(runner_ids=runners, older_than=clock.now() - limits.events)
        fp("prune.unused.before")
        await self.host.remove(await self._unused())
        fp("prune.unused.after")

    def _runners(self, limits: Limits) -> list[str]:
        return [r.runner_id for r in self.world.store.ended_runners(10_000)[limits.runners :]]

    async def _unused(self) -> list[Unused]:
        rows = self.world.store.revisions()
        apps = {row.endpoint for row in rows} | {r.endpoint for r in self.world.runners.values()}
        needed = needed_by((row.definition for row in rows), apps)
        return await self.host.unused(needed, older_than=clock.now() - KEPT_UNUSED)


def _ended_before(limits: Limits, now: float) -> float | None:
    return None if limits.requests is None else now - limits.requests


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)
