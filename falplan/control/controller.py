"""The controller's loop: observe runners, decide with the core, act. Owns every runner of its control plane."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from falplan import clock
from falplan.control.adoption import Adoption
from falplan.control.ending import Ending
from falplan.control.fleet import Fleet
from falplan.control.following import Following
from falplan.control.health import HealthChecks
from falplan.control.host import HERE, Host, Sight, Traffic
from falplan.control.launching import Launching
from falplan.control.ledger import Fenced
from falplan.control.parts import LEAVING, Parts, Timing
from falplan.control.pruning import Pruning
from falplan.control.room import Room
from falplan.control.world import World, live_app, starting
from falplan.core.errors import FalplanError
from falplan.core.placement import is_astray
from falplan.core.reconcile import Verb, reconcile
from falplan.core.runtime import RunnerState
from falplan.stores.runtime.control import AppRow, RunnerRow

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Controller:
    """Drives the runners of all apps. `wake` makes it look again at once."""

    world: World
    traffic: Traffic
    host: Host
    timing: Timing = field(default_factory=Timing)
    health: HealthChecks = field(default_factory=HealthChecks)
    chores: list[Callable[[], Awaitable[None]]] = field(default_factory=list)  #: what else is done while keeping house
    parts: Parts = field(init=False)
    room: Room = field(init=False)
    ending: Ending = field(init=False)
    launching: Launching = field(init=False)
    following: Following = field(init=False)
    pruning: Pruning = field(init=False)
    adoption: Adoption = field(init=False)
    fleet: Fleet | None = None  #: machines that are bought; None where there are none
    fenced: str = ""  #: who took the machine since; empty while this control plane may act
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _fenced: asyncio.Event = field(default_factory=asyncio.Event)
    _met: frozenset[str] = frozenset()  #: machines whose strays were settled

    def __post_init__(self) -> None:
        means = self.world, self.traffic, self.host, self.timing, self.health
        self.parts = Parts(*means, wake=self.wake, give_up=self.give_up)
        self.adoption = Adoption(self.world, self.host)
        self.room = Room(self.world, self.host, lambda: self.adoption.lineage, self.wake)
        self.ending = Ending(self.parts)
        self.launching = Launching(self.parts, self.room, self.ending, self._sells_to)
        self.following = Following(self.parts, self.launching, self.ending)
        self.pruning = Pruning(self.world, self.host)

    def wake(self, *_: object) -> None:
        """Something changed: do not wait for the next look."""
        self._wake.set()

    async def adopt(self) -> None:
        """At start: take over what an earlier control plane of this lineage left, and end what it never recorded."""
        for app in self.world.apps.values():
            self.traffic.configure(live_app(app))
        sight = await self.host.observe()
        self.world.doubtful = sight.unknown()
        await self._readdress(sight)
        await self._settle_strays(sight)
        for row in list(self.world.runners.values()):
            if sight.at(row.machine_id) is None:
                continue  # its host could not be asked: it is followed once it is
            if row.runner_id not in sight.found:
                await self._never_started(row)
            elif row.state in LEAVING:
                self.parts.tasks.spawn(f"end {row.runner_id}", self.ending.finish_draining(row))
        for app in self.world.apps.values():
            self.parts.publish(app.endpoint)

    async def _settle_strays(self, sight: Sight) -> None:
        """Take over, or end, what runs on machines that are seen for the first time and that nobody recorded."""
        there = frozenset(machine_id for machine_id, at in sight.looked.items() if at is not None)
        over = {r.runner_id for r in self.world.store.ended_runners(10_000)}
        for runner_id in await self.host.strays(set(self.world.runners), there - self._met):
            seen = sight.found.get(runner_id)
            if runner_id in over and seen is not None and not seen.lives:
                continue  # ended as recorded; its folder is kept for its log
            if await self.adoption.take_over(seen):
                continue
            try:
                await self.host.kill(runner_id)
            except (FalplanError, OSError) as exc:
                if isinstance(exc, Fenced):
                    raise
                there -= {m for m in there if m != HERE}  # its host does not answer any more: asked again once it does
                continue
            await self.parts.tell("runner.reaped", runner_id, "nobody recorded that it runs")
        self._met = there

    async def _never_started(self, row: RunnerRow) -> None:
        """Only the intent was recorded. Nothing is known against its revision: a rollout launches another one."""
        await self.ending.unlaunch(row, "the control plane ended before it was started")

    async def until_fenced(self) -> None:
        """Wait until another control plane has taken the machine."""
        await self._fenced.wait()

    def give_up(self, because: Fenced) -> None:
        """Another control plane acts here now: never act again. Runners are its own, and are left as they are."""
        if not self.fenced:
            self.fenced = because.detail
            log.error("%s", because)
            self._fenced.set()
            self.wake()

    async def run(self) -> None:
        """Look, decide and act until cancelled, or another control plane has the machine. One failed look is logged and does not end it."""
        keep_house_at = clock.monotonic()
        while not self.fenced:
            self._wake.clear()
            try:
                await self.tick()
                if clock.monotonic() >= keep_house_at:
                    keep_house_at = clock.monotonic() + self.timing.housekeeping
                    await self.housekeep()
            except Fenced as exc:
                self.give_up(exc)
                return
            except Exception:
                # One failed look must not end the control plane: it is logged, and the next one begins afresh.
                log.exception("a look at the runners failed")
            delay = self.timing.busy if self._is_busy() else self.timing.quiet
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):  # not wait_for, which may swallow a cancellation before Python 3.12
                    await self._wake.wait()
            await asyncio.sleep(0.02)  # a burst of requests wakes once, not a hundred times

    def _is_busy(self) -> bool:
        changing = any(starting(r) or r.state is RunnerState.TERMINATING for r in self.world.runners.values())
        return changing or any(self.world.open_rollout(e) or a.deleting for e, a in self.world.apps.items())

    async def tick(self) -> None:
        """One look and what follows from it."""
        if self.world.runners or self.host.has_hosts:
            sight = await self.host.observe()
            await self._contained("hosts", self._readdress(sight))
            await self._contained("hosts", self._count_on(self.host.away(), sight))
            self._met -= sight.unknown()  # what was begun there when the connection broke is looked for once it is back
            if not {m for m, at in sight.looked.items() if at is not None} <= self._met:
                await self._contained("strays", self._settle_strays(sight))
            for row in list(self.world.runners.values()):
                looked_at = sight.at(row.machine_id)
                # A runner whose start ended after this look began may be missing in it without being gone.
                if looked_at is not None and self.parts.started.get(row.runner_id, 0.0) < looked_at:
                    await self._contained(row.runner_id, self.following.follow(row, sight.found.get(row.runner_id)))
        self.launching.waiting.clear()
        for endpoint in sorted(self.world.apps):
            await self._contained(endpoint, self._reconcile(endpoint))
        if self.fleet is not None:
            await self._contained("machines", self._look_after(self.fleet))

    def _sells_to(self, regions: Sequence[str] | None) -> bool:
        return self.fleet is not None and self.fleet.sells_to(regions)

    async def _look_after(self, fleet: Fleet) -> None:
        """Buy for those that found no room, and give back what nobody needs."""
        room = {slots.machine_id: slots for slots in await self.room.slots()}
        busy = {row.machine_id for row in self.world.runners.values()}
        await fleet.tick([*self.launching.waiting.values(), *(w.waiting() for w in self.room.warm)], room, busy)
        await self.launching.tell_waiting(fleet.decision)

    async def _readdress(self, sight: Sight) -> None:
        """Runners on hosts are reached by ways that a restart, or another connection, makes anew."""
        for row in list(self.world.runners.values()):
            seen = sight.found.get(row.runner_id)
            if row.address and seen is not None and seen.ready and seen.address and seen.address != row.address:
                await self.world.save(replace(row, address=seen.address))
                self.parts.publish(row.endpoint)

    async def _count_on(self, away: Mapping[str, str], sight: Sight) -> None:
        """Take note of hosts that do not answer, and of those that do again.

        What runs on one that did not answer just now gets no new requests; after a lease it is not counted on, either.
        """
        doubtful = sight.unknown()
        if doubtful != self.world.doubtful:
            changed = {
                r.endpoint for r in self.world.runners.values() if r.machine_id in doubtful ^ self.world.doubtful
            }
            self.world.doubtful = doubtful
            for endpoint in sorted(changed):
                self.parts.publish(endpoint)
        gone, back = away.keys() - self.world.away, self.world.away - away.keys()
        if not gone and not back:
            return
        await self.world.count_away(away)
        for row in list(self.world.runners.values()):
            if row.machine_id in gone:
                self.traffic.abandon(row.runner_id)  # its requests go elsewhere
                await self._give_up_rollout(row, away[row.machine_id])
        for machine_id in sorted(gone):
            await self.parts.tell("host.away", machine_id, away[machine_id])
        for machine_id in sorted(back):
            await self.parts.tell("host.back", machine_id, "it answers again")

    async def _give_up_rollout(self, row: RunnerRow, because: str) -> None:
        rollout = self.world.open_rollout(row.endpoint)
        if rollout and rollout.rollout.runner_id == row.runner_id:
            await self.parts.rollouts.end(rollout.rollout.operation, row.endpoint, f"{row.machine_id}: {because}")

    async def _contained(self, subject: str, work: Coroutine[Any, Any, None]) -> None:
        """One runner or app that fails must not keep the others from being looked after."""
        if self.fenced:
            work.close()
            return
        try:
            await work
        except Fenced as exc:
            self.give_up(exc)
        except Exception:
            log.exception("looking after %s failed", subject)

    async def housekeep(self) -> None:
        """Delete what is beyond the limits. May be called at any time."""
        await self.host.reserved()  # keeps the machine's ledger from looking abandoned
        await self.pruning.prune_quickly(self.timing.limits)
        for chore in self.chores:
            await chore()

    async def finish_starts(self) -> None:
        """Wait for starts under way: they can't be called back, and must not outlive this control plane."""
        await self.parts.tasks.wait("start ")

    async def let_go(self) -> None:
        """Stop acting; runners go on, and belong to the next control plane."""
        await self._leave_fleet()
        await self.parts.tasks.cancel_all(but="start ")

    async def _leave_fleet(self) -> None:
        """A call under way is not waited for: what it does is found by its record."""
        if self.fleet is not None:
            await self.fleet.tasks.cancel_all(but="nothing ")

    async def stop_all(self) -> None:
        """Stop every runner and wait until they are gone: the end of this control plane."""
        await self._leave_fleet()
        await self.parts.tasks.cancel_all(but="start ")  # a start under way can't be called back: it is waited for
        if self.fenced:
            return
        rows = list(self.world.runners.values())
        await asyncio.gather(*(self.host.stop(r.runner_id) for r in rows), return_exceptions=True)
        for row in rows:
            await self.ending.ended(row, "the control plane was stopped")

    # -- what follows -------------------------------------------------------------------------------------------------

    async def _reconcile(self, endpoint: str) -> None:
        await self.parts.rollouts.switch_if_verified(endpoint)
        astray = await self._astray(self.world.apps[endpoint])
        app = self.world.apps[endpoint]  # nothing is awaited from here to the decision
        demand = self.traffic.demand(endpoint)
        view = self.world.app_view(app)
        view = replace(view, replacing=view.replacing | astray)
        steps = reconcile(view, self.world.runner_views(endpoint), demand, now=clock.now())
        if not any(step.verb is Verb.LAUNCH for step in steps):
            self.launching.held.pop(endpoint, None)
        for step in steps:
            if step.verb is Verb.LAUNCH:
                await self.launching.launch(endpoint, step)
            else:
                await self.ending.drain(step.runner_id, step.because)
        if app.deleting and not self.world.runners_of(endpoint):
            async with self.world.rolling:
                await self.world.save(removed_apps=[endpoint])

    async def _astray(self, app: AppRow) -> frozenset[str]:
        """Runners in regions that the app may not run in any more. They serve until others do in their place."""
        regions, rows = app.settings.get("regions"), self.world.runners_of(app.endpoint)
        if regions is None or not rows:
            return frozenset()
        machines = await self.host.machines()
        return frozenset(r.runner_id for r in rows if is_astray(regions, r.machine_id, machines))
