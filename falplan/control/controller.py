"""The controller's loop: observe runners, decide with the core, act. Owns every runner of its control plane."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from falplan import clock
from falplan.control.adoption import Adoption
from falplan.control.health import HealthChecks
from falplan.control.host import HERE, Host, Observation, Sight, Traffic
from falplan.control.ledger import Fenced, RoomTaken
from falplan.control.progress import Progress
from falplan.control.pruning import Pruning
from falplan.control.rollouts import Rollouts
from falplan.control.tasks import Tasks
from falplan.control.world import World, live_app, placed_of, placement, starting, with_state
from falplan.core.definition import Definition
from falplan.core.errors import FalplanError
from falplan.core.placement import (
    Need,
    NoRoom,
    Placed,
    Reserved,
    Slots,
    candidates,
    is_astray,
    lacks,
    place,
    take,
    without,
)
from falplan.core.pruning import Limits
from falplan.core.reconcile import Step, Verb, reconcile
from falplan.core.resources import environment_of
from falplan.core.runtime import Event, RunnerAccess, RunnerState, RunnerTarget
from falplan.core.scaling import backoff
from falplan.core.spending import Running, Spending, over_budget, spending_from_json
from falplan.core.values import Json, JsonObject
from falplan.sdk.failpoints import fp
from falplan.stores.runtime.control import AppRow, RolloutRow, RunnerRow

log = logging.getLogger(__name__)


FAILS = frozenset({RunnerState.PENDING, RunnerState.SETUP, RunnerState.IDLE})
"""States in which an end by itself is a failure; a runner that drains or is told to stop may end."""


LEAVING = frozenset({RunnerState.DRAINING, RunnerState.TERMINATING})
"""States of runners that take room, and will not for long."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the controller looks, in seconds. `backoff` are the waits after failed starts; `steady` a life that resets them.

    `limits` is what stays when it keeps house.
    """

    quiet: float = 2.0
    busy: float = 0.1
    backoff: tuple[float, ...] = (30, 60, 90)
    steady: float = 60.0
    limits: Limits = field(default_factory=Limits)
    housekeeping: float = 600.0


SPENDING = "spending"
"""The mark under which prices and budgets are kept."""


@dataclass(slots=True)
class Controller:
    """Drives the runners of all apps. `wake` makes it look again at once."""

    world: World
    traffic: Traffic
    host: Host
    timing: Timing = field(default_factory=Timing)
    health: HealthChecks = field(default_factory=HealthChecks)
    chores: list[Callable[[], Awaitable[None]]] = field(default_factory=list)  #: what else is done while keeping house
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: Tasks = field(init=False)
    rollouts: Rollouts = field(init=False)
    pruning: Pruning = field(init=False)
    adoption: Adoption = field(init=False)
    progress: Progress = field(default_factory=Progress)
    _started: dict[str, float] = field(default_factory=dict)  #: when a runner's start ended, monotonic seconds
    _failing: set[str] = field(default_factory=set)  #: runners that are being stopped because they failed
    _held: dict[str, str] = field(default_factory=dict)  #: endpoint -> why no further runner of it is launched
    spending: Spending = field(default_factory=Spending)
    _met: frozenset[str] = frozenset()  #: machines whose strays were settled
    fenced: str = ""  #: who took the machine since; empty while this control plane may act
    _fenced: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.tasks = Tasks(self.wake)
        self.adoption = Adoption(self.world, self.host)
        self.pruning = Pruning(self.world, self.host)
        self.rollouts = Rollouts(self.world, self.traffic, self.host, self.publish, self.wake)

    def wake(self, *_: object) -> None:
        """Something changed: do not wait for the next look."""
        self._wake.set()

    async def spend(self, prices: Mapping[str, Mapping[str, str]], budgets: Mapping[str, Json]) -> None:
        """Prices and budgets as the spec has them, durable before they hold. What runs beyond them goes on."""
        told = spending_from_json(prices, budgets)
        kept = json.dumps({"prices": prices, "budgets": budgets}, sort_keys=True)
        await self.world.store.mark(SPENDING, kept if prices or budgets else None)
        self.spending = told
        self.wake()

    def remember_spending(self, identity: Mapping[str, str]) -> None:
        """At start: prices and budgets as an earlier process was told them."""
        if SPENDING in identity:
            kept = json.loads(identity[SPENDING])
            self.spending = spending_from_json(kept["prices"], kept["budgets"])

    def held(self, endpoint: str) -> str:
        """Why the app gets no further runner although it needs one; empty if nothing holds it back."""
        return self._held.get(endpoint, "")

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
                self.tasks.spawn(f"end {row.runner_id}", self._drain(row))
        for app in self.world.apps.values():
            self.publish(app.endpoint)

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
            await self._tell("runner.reaped", runner_id, "nobody recorded that it runs")
        self._met = there

    async def _never_started(self, row: RunnerRow) -> None:
        """Only the intent was recorded. Nothing is known against its revision: a rollout launches another one."""
        await self._unlaunch(row, "the control plane ended before it was started")

    async def _unlaunch(self, row: RunnerRow, because: str, *more: Event) -> None:
        async with self.world.rolling:
            rollout = self.world.open_rollout(row.endpoint)
            rows: list[RunnerRow | RolloutRow | Event] = [
                with_state(row, RunnerState.TERMINATED, ended_at=clock.now(), because=because),
                *more,
            ]
            if rollout and rollout.rollout.runner_id == row.runner_id:
                rows.append(replace(rollout, rollout=replace(rollout.rollout, runner_id=None)))
            await self.world.save(*rows)

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
                if looked_at is not None and self._started.get(row.runner_id, 0.0) < looked_at:
                    await self._contained(row.runner_id, self._follow(row, sight.found.get(row.runner_id)))
        for endpoint in sorted(self.world.apps):
            await self._contained(endpoint, self._reconcile(endpoint))

    async def _readdress(self, sight: Sight) -> None:
        """Runners on hosts are reached by ways that a restart, or another connection, makes anew."""
        for row in list(self.world.runners.values()):
            seen = sight.found.get(row.runner_id)
            if row.address and seen is not None and seen.ready and seen.address and seen.address != row.address:
                await self.world.save(replace(row, address=seen.address))
                self.publish(row.endpoint)

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
                self.publish(endpoint)
        gone, back = away.keys() - self.world.away, self.world.away - away.keys()
        if not gone and not back:
            return
        self.world.away = frozenset(away)
        for row in list(self.world.runners.values()):
            if row.machine_id in gone:
                self.traffic.abandon(row.runner_id)  # its requests go elsewhere
                await self._give_up_rollout(row, away[row.machine_id])
        for machine_id in sorted(gone):
            await self._tell("host.away", machine_id, away[machine_id])
        for machine_id in sorted(back):
            await self._tell("host.back", machine_id, "it answers again")

    async def _give_up_rollout(self, row: RunnerRow, because: str) -> None:
        rollout = self.world.open_rollout(row.endpoint)
        if rollout and rollout.rollout.runner_id == row.runner_id:
            await self.rollouts.end(rollout.rollout.operation, row.endpoint, f"{row.machine_id}: {because}")

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
        await self.tasks.wait("start ")

    async def let_go(self) -> None:
        """Stop acting; runners go on, and belong to the next control plane."""
        await self.tasks.cancel_all(but="start ")

    async def stop_all(self) -> None:
        """Stop every runner and wait until they are gone: the end of this control plane."""
        await self.tasks.cancel_all(but="start ")  # a start under way can't be called back: it is waited for
        if self.fenced:
            return
        rows = list(self.world.runners.values())
        await asyncio.gather(*(self.host.stop(r.runner_id) for r in rows), return_exceptions=True)
        for row in rows:
            await self.ended(row, "the control plane was stopped")

    # -- what is seen -------------------------------------------------------------------------------------------------

    async def _follow(self, row: RunnerRow, seen: Observation | None) -> None:
        if row.runner_id not in self.world.runners:
            return  # ended while others were followed
        if seen is None:
            await self.ended(row, "its folder is gone", failed=True)
        elif not seen.alive:
            await self.tasks.cancel(f"check {row.runner_id}", f"end {row.runner_id}")
            await self.host.kill(row.runner_id)  # what outlived its supervisor
            told = row.because if row.state is RunnerState.TERMINATING else ""  # stopping it has not returned yet
            await self.ended(row, told or seen.reason, failed=row.state in FAILS)
        elif seen.waits and row.state not in LEAVING:
            if f"start {row.runner_id}" not in self.tasks:
                self.tasks.spawn(f"start {row.runner_id}", self._start(row))  # it gets its secrets
        elif seen.starting and row.state is RunnerState.IDLE:
            await self._starts_again(row)
        elif seen.ready and starting(row) and f"check {row.runner_id}" not in self.tasks:
            self.tasks.spawn(f"check {row.runner_id}", self._first_check(row, seen))
        elif row.state is RunnerState.PENDING:
            await self.world.save(with_state(row, RunnerState.SETUP))
        elif row.state in LEAVING and not self._is_ending(row.runner_id):
            self.tasks.spawn(f"end {row.runner_id}", self._drain(row))  # an earlier try at stopping it failed
        elif row.ready_at is not None and row.state is RunnerState.IDLE:
            self._check_again(row)

    async def _starts_again(self, row: RunnerRow) -> None:
        """Its machine was restarted, and brought it back: it is no other runner, but gets no request until it is healthy again."""
        await self.tasks.cancel(f"check {row.runner_id}")
        because = "its machine was restarted"
        told = Event(clock.now(), "runner.restarted", row.runner_id, because)
        await self.world.save(with_state(row, RunnerState.SETUP, ready_at=None, address=""), told)
        self.publish(row.endpoint)
        self.traffic.abandon(row.runner_id)

    def _is_ending(self, runner_id: str) -> bool:
        return f"end {runner_id}" in self.tasks or f"check {runner_id}" in self.tasks

    async def _first_check(self, row: RunnerRow, seen: Observation) -> None:
        definition = self.world.definition(row.endpoint, row.revision)
        failure = await self.health.until_healthy(seen.address, definition, seen.access)
        current = self.world.runners.get(row.runner_id)
        if current is None or not starting(current):
            return
        if failure:
            await self._terminate(current, failure, failed=True)
        else:
            await self._ready(with_state(current, RunnerState.IDLE, ready_at=clock.now(), address=seen.address))

    async def _ready(self, row: RunnerRow) -> None:
        async with self.world.rolling:
            app = self.world.apps.get(row.endpoint)
            if app and app.failures and app.revision == row.revision:
                await self.world.save(row, replace(app, launch_after=0.0))
            else:
                await self.world.save(row)
        self.publish(row.endpoint)
        self.wake()

    def _check_again(self, row: RunnerRow) -> None:
        definition = self.world.definition(row.endpoint, row.revision)
        name = f"check {row.runner_id}"
        if name not in self.tasks and self.health.is_due(row.runner_id, definition, now=clock.monotonic()):
            self.tasks.spawn(name, self._regular_check(row))

    async def _regular_check(self, row: RunnerRow) -> None:
        definition = self.world.definition(row.endpoint, row.revision)
        failure = await self.health.regular(row.runner_id, row.address, definition, self._access(row))
        if failure and self.host.is_elsewhere(row.machine_id) and not await self._fails_itself(row):
            return  # it is the way there that fails
        current = self.world.runners.get(row.runner_id)
        if failure and current and current.state is RunnerState.IDLE:
            await self._terminate(current, f"health check: {failure}", failed=True)

    def suspect(self, runner_id: str, reason: str) -> None:
        """The gateway lost a runner, or it answered that it should be replaced."""
        row = self.world.runners.get(runner_id)
        if row and row.state in (RunnerState.IDLE, RunnerState.DRAINING) and f"end {runner_id}" not in self.tasks:
            self.tasks.spawn(f"end {runner_id}", self._question(row, reason))

    async def _question(self, row: RunnerRow, reason: str) -> None:
        """End a suspect; one on a host only if it is the runner that fails, not the way to it."""
        if self.host.is_elsewhere(row.machine_id):
            self.traffic.abandon(row.runner_id)
            if not await self._fails_itself(row):
                self.publish(row.endpoint)  # unless its host is in doubt by now
                return
        await self._terminate(row, reason, failed=row.state in FAILS)

    async def _fails_itself(self, row: RunnerRow) -> bool:
        """Whether it is a runner on a host that fails, and not the way to it: as a look shows that begins after the failure."""
        asked, sight = clock.monotonic(), await self.host.observe()
        while (at := sight.at(row.machine_id)) is not None and at < asked:
            await asyncio.sleep(0.2)
            sight = await self.host.observe()
        if at is None:
            return False
        seen = sight.found.get(row.runner_id)
        if seen is not None and seen.starting:
            return False  # its machine was restarted: it comes back
        if seen is None or not seen.ready:
            return True
        definition = self.world.definition(row.endpoint, row.revision)
        return await self.health.once(seen.address, definition, seen.access) is not None

    async def ended(self, row: RunnerRow, because: str, *, failed: bool = False) -> None:
        """A runner is gone: record it, fail its rollout; if it `failed`, the next start may have to wait."""
        failed = failed or row.runner_id in self._failing  # a look may see it gone before stopping it returns
        gone = with_state(row, RunnerState.TERMINATED, ended_at=clock.now(), because=because)
        rows: list[RunnerRow | AppRow | Event] = [gone, Event(clock.now(), "runner.ended", row.runner_id, because)]
        async with self.world.rolling:
            if row.runner_id not in self.world.runners:
                return
            app = self.world.apps.get(row.endpoint)
            if app and failed and app.revision == row.revision:
                rows.append(self._count_failure(app, row))
            await self.world.save(*rows)
        self.health.forget(row.runner_id)
        self._started.pop(row.runner_id, None)
        self._failing.discard(row.runner_id)
        self.progress.forget(row.runner_id)
        self.publish(row.endpoint)
        self.traffic.abandon(row.runner_id)
        rollout = self.world.open_rollout(row.endpoint)
        if rollout and rollout.rollout.runner_id == row.runner_id:
            await self.rollouts.end(rollout.rollout.operation, row.endpoint, because, log_of=row.runner_id)
        self.wake()

    def _count_failure(self, app: AppRow, row: RunnerRow) -> AppRow:
        lived = clock.now() - row.ready_at if row.ready_at else 0.0
        if lived > self.timing.steady:
            return replace(app, failures=0, launch_after=0.0)
        failures = app.failures + 1
        # A runner that was ready is replaced at once the first time; only a repeated crash has to wait.
        wait = backoff(failures - (1 if row.ready_at else 0), self.timing.backoff)
        return replace(app, failures=failures, launch_after=clock.now() + wait)

    # -- what follows -------------------------------------------------------------------------------------------------

    async def _reconcile(self, endpoint: str) -> None:
        await self.rollouts.switch_if_verified(endpoint)
        astray = await self._astray(self.world.apps[endpoint])
        app = self.world.apps[endpoint]  # nothing is awaited from here to the decision
        demand = self.traffic.demand(endpoint)
        view = self.world.app_view(app)
        view = replace(view, replacing=view.replacing | astray)
        steps = reconcile(view, self.world.runner_views(endpoint), demand, now=clock.now())
        if not any(step.verb is Verb.LAUNCH for step in steps):
            self._held.pop(endpoint, None)
        for step in steps:
            if step.verb is Verb.LAUNCH:
                await self._launch(endpoint, step)
            else:
                await self.drain(step.runner_id, step.because)
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

    async def _launch(self, endpoint: str, step: Step) -> None:
        definition = self.world.definition(endpoint, step.revision)
        app = self.world.apps[endpoint]
        rollout = self.world.open_rollout(endpoint)
        verifies = rollout if rollout and rollout.rollout.revision == step.revision else None
        # What verifies a deploy runs by the settings that are deployed with it: they count for callers once it serves.
        need = self._need(definition, verifies.settings if verifies else app.settings)
        types = definition.machine_types
        placed = place(need, await self.slots(), types)
        if isinstance(placed, NoRoom):
            if isinstance(place(need, await self.slots(leaving=False), types), NoRoom):
                await self._hold(endpoint, verifies, "; ".join(placed.reasons))
            else:
                await self._wait_for_room(endpoint, verifies)
            return
        too_dear = self._over_budget(app, placed, definition)
        if too_dear:
            if self._over_budget(app, placed, definition, leaving=False):
                await self._hold(endpoint, verifies, too_dear, "runner.over_budget")
            else:
                await self._wait_for_room(endpoint, verifies)
            return
        self._held.pop(endpoint, None)
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
        self._started[row.runner_id] = math.inf
        self.tasks.spawn(f"start {row.runner_id}", self._start(row))

    def _need(self, definition: Definition, settings: JsonObject) -> Need:
        python = self.host.python_of(definition.lock) if definition.lock else ""
        return replace(definition.need(settings.get("regions")), python=python)

    async def may_run_here(self, definition: Definition, settings: JsonObject) -> bool:
        """Whether the control plane's own machine is one of those that a runner may be put on, with these runtime settings."""
        need = self._need(definition, settings)
        large = candidates(need, await self.host.machines(), definition.machine_types)
        return any(not self.host.is_elsewhere(m.machine_id) and not lacks(need, m) for m in large)

    async def _record_launch(self, row: RunnerRow, verifies: RolloutRow | None) -> bool:
        """Make the intent durable, together with the rollout that it verifies. False if that rollout ended meanwhile."""
        if verifies is None:
            await self.world.save(row)
            return True
        async with self.world.rolling:
            current = self.world.open_rollout(row.endpoint)
            if current is None or current.rollout != verifies.rollout:
                return False
            rollout = replace(current.rollout, runner_id=row.runner_id, because="")
            await self.world.save(row, replace(current, rollout=rollout))
        return True

    async def _start(self, row: RunnerRow) -> None:
        definition = self.world.definition(row.endpoint, row.revision)
        try:
            await self._try_start(row, definition)
        except Fenced as exc:
            self.give_up(exc)
        finally:
            self.progress.forget(row.runner_id)
            if row.runner_id in self.world.runners:
                self._started[row.runner_id] = clock.monotonic()
        self.wake()

    async def _try_start(self, row: RunnerRow, definition: Definition) -> None:
        try:
            where = f"{row.machine_id}: " if self.host.is_elsewhere(row.machine_id) else ""
            await self.host.start(row, definition, lambda line: self.progress.tell(row.runner_id, where + line))
        except Fenced:
            raise
        except RoomTaken as exc:
            # Another project was faster: nothing is known against the revision, it is placed again.
            await self.host.kill(row.runner_id)
            because = f"{exc.summary}: {exc.detail}"
            told = Event(clock.now(), "runner.no_room", row.endpoint, because)
            await self._unlaunch(self.world.runners.get(row.runner_id, row), because, told)
        except (FalplanError, OSError) as exc:
            try:
                await self.host.kill(row.runner_id)
            except (FalplanError, OSError):
                log.warning("%s may run on %s, which does not answer", row.runner_id, row.machine_id)
            await self.ended(row, f"it could not be started: {exc}", failed=True)

    def _over_budget(self, app: AppRow, placed: Placed, definition: Definition, *, leaving: bool = True) -> str:
        """Why one more runner would cost too much. Those that start or end cost money, too; the latter not with `leaving` False."""
        if not self.spending.budgets:
            return ""
        rows = [r for r in self.world.runners.values() if leaving or r.state not in LEAVING]
        running = [
            _running(self.world.apps[r.endpoint].address, placed_of(r), self.world.definition(r.endpoint, r.revision))
            for r in rows
            if r.endpoint in self.world.apps
        ]
        return over_budget(self.spending, running, _running(app.address, placed, definition))

    async def _hold(
        self, endpoint: str, verifies: RolloutRow | None, because: str, kind: str = "runner.no_room"
    ) -> None:
        """A launch is not possible: a deploy that waits for it fails, a running app is told why."""
        if verifies:
            because = f"there is no room for a runner of it: {because}"
            await self.rollouts.end(verifies.rollout.operation, endpoint, because)
        elif self._held.get(endpoint) != because:
            self._held[endpoint] = because
            await self._tell(kind, endpoint, because)

    async def _wait_for_room(self, endpoint: str, verifies: RolloutRow | None) -> None:
        """Runners that are ending take room and money still: their end wakes the controller, and the launch is tried again."""
        ending = sorted(r.runner_id for r in self.world.runners.values() if r.state in LEAVING)
        because = f"waits for the room of {', '.join(ending)}"
        if self._held.get(endpoint) == because:
            return
        self._held[endpoint] = because
        async with self.world.rolling:
            current = self.world.open_rollout(endpoint)
            if verifies and current and current.rollout == verifies.rollout:
                await self.world.save(replace(current, rollout=replace(current.rollout, because=because)))
        await self._tell("runner.no_room", endpoint, because)

    async def slots(self, *, leaving: bool = True) -> list[Slots]:
        """Machines with the room that recorded runners leave; with `leaving` False, once those that are ending are gone."""
        machines = list(await self.host.machines())
        for row in self.world.runners.values():
            if row.state in LEAVING and not leaving:
                continue
            placed = placed_of(row)
            machines = [take(m, placed) if m.machine_id == row.machine_id else m for m in machines]
        reserved = await self.host.reserved()
        return [without(m, self._of_others(reserved.get(m.machine_id, reserved[HERE]), leaving)) for m in machines]

    def _of_others(self, reserved: Sequence[Reserved], leaving: bool) -> list[Reserved]:
        """What is taken beside our own recorded runners."""
        others = [r for r in reserved if r.runner_id not in self.world.runners]
        if leaving:
            return others
        # What is our own and has no runner any more is given back as soon as the ledger is looked at again.
        return [r for r in others if r.lineage != self.adoption.lineage]

    async def drain(self, runner_id: str, because: str) -> None:
        """Give a runner no new request; stop it once it has none."""
        row = self.world.runners.get(runner_id)
        if row is None or row.state in LEAVING:
            return
        row = with_state(row, RunnerState.DRAINING, because=because)
        await self.world.save(row, Event(clock.now(), "runner.draining", runner_id, because))
        self.publish(row.endpoint)
        await self.tasks.cancel(f"check {runner_id}")
        self.tasks.spawn(f"end {runner_id}", self._drain(row))

    async def _drain(self, row: RunnerRow) -> None:
        await self.tasks.wait(f"start {row.runner_id}")  # stopping it before it is there would leave it behind
        await self.traffic.drained(row.runner_id)
        await self._terminate(row, row.because)

    async def _terminate(self, row: RunnerRow, because: str, *, failed: bool = False) -> None:
        if row.runner_id not in self.world.runners:
            return
        row = with_state(row, RunnerState.TERMINATING, because=because)
        if failed:
            self._failing.add(row.runner_id)
        await self.world.save(row)
        self.publish(row.endpoint)
        fp("runner.stop.before_signal")
        try:
            await self.host.stop(row.runner_id)
        except Fenced as exc:
            self.give_up(exc)
            return
        fp("runner.stop.after_signal")
        if row.runner_id in self.world.runners:
            await self.ended(row, because, failed=failed)

    def publish(self, endpoint: str) -> None:
        """Tell the gateway which runners may be given requests."""
        app = self.world.apps.get(endpoint)
        if app is None:
            return
        ready = [
            r
            for r in self.world.runners_of(endpoint)
            if r.state is RunnerState.IDLE and r.revision == app.revision and r.machine_id not in self.world.doubtful
        ]
        self.traffic.set_targets(endpoint, [self._target(r) for r in ready])

    def _target(self, row: RunnerRow) -> RunnerTarget:
        multiplexing = int(self.world.definition(row.endpoint, row.revision).seconds("max_multiplexing"))
        whose = (row.runner_id, row.endpoint, row.revision)
        return RunnerTarget(*whose, row.address, multiplexing, self._access(row))

    def _access(self, row: RunnerRow) -> RunnerAccess | None:
        """What connecting to a runner takes beside its address."""
        return self.host.access(row.runner_id) if row.address.startswith("tls:") else None

    async def _tell(self, kind: str, subject: str, message: str) -> None:
        await self.world.save(Event(clock.now(), kind, subject, message))


def _running(address: str, placed: Placed, definition: Definition) -> Running:
    """The runner as its price is counted. `address` is its app's."""
    kind = definition.machine_types.get(placed.machine_type)
    own = kind.gpus if kind else 0
    return Running(environment_of(address) or "", placed.region, placed.machine_type, len(placed.gpus), own)
