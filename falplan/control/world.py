"""The controller's memory: apps, runners and rollouts as they stand in the store, and nothing that doesn't stand there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from falplan.core.definition import Definition, definition_from_json
from falplan.core.placement import Placed
from falplan.core.reconcile import AppView, RunnerView
from falplan.core.rollout import Phase
from falplan.core.runtime import AuthMode, LiveApp, RunnerState
from falplan.core.scaling import scaling_of
from falplan.core.values import JsonObject
from falplan.stores.runtime.control import AppRow, ControlStore, RolloutRow, RunnerRow, Write

PATIENCE = 15.0
"""Seconds that hosts which do not answer get to answer, once something waits for them: one may have come back and not be heard yet."""


@dataclass(slots=True)
class World:
    """Rows by their keys. Every change goes through `save`, which is durable before memory shows it."""

    store: ControlStore
    apps: dict[str, AppRow] = field(default_factory=dict)
    runners: dict[str, RunnerRow] = field(default_factory=dict)  #: those not TERMINATED
    rollouts: dict[str, RolloutRow] = field(default_factory=dict)
    rolling: asyncio.Lock = field(default_factory=asyncio.Lock)  #: held while a rollout begins, advances or ends
    since: float = 0.0  #: when this control plane began to look; what was before it does not count as idle time
    replacing: set[str] = field(default_factory=set)  #: runners that stop once another one is ready
    away: frozenset[str] = frozenset()  #: hosts that do not answer: what runs there is unknown, and not counted on
    doubtful: frozenset[str] = frozenset()  #: hosts that did not answer just now: nothing new is sent there
    patience: float = PATIENCE
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _of: dict[str, dict[str, RunnerRow]] = field(default_factory=dict)  #: `runners` by endpoint and id
    _definitions: dict[tuple[str, str], Definition] = field(default_factory=dict)

    def load(self) -> None:
        """Read everything from the store, at start."""
        self.apps = {a.endpoint: a for a in self.store.apps()}
        for row in self.store.alive_runners():
            self._keep(row)
        self.rollouts = {r.rollout.endpoint: r for r in self.store.rollouts()}

    async def save(self, *rows: Write, removed_apps: Iterable[str] = ()) -> None:
        """Make rows durable, together, then show them."""
        removed = list(removed_apps)
        await self.store.save(*rows, removed_apps=removed)
        for row in rows:
            match row:
                case AppRow():
                    self.apps[row.endpoint] = row
                case RolloutRow():
                    self.rollouts[row.rollout.endpoint] = row
                case RunnerRow() if row.state is RunnerState.TERMINATED:
                    self._drop(row.runner_id)
                case RunnerRow():
                    self._keep(row)
                case _:
                    pass
        for endpoint in removed:
            self.apps.pop(endpoint, None)
            self.rollouts.pop(endpoint, None)
        async with self._changed:
            self._changed.notify_all()

    async def count_away(self, machines: Iterable[str]) -> None:
        """Take note of the hosts that do not answer, all of them. Whoever waits for something looks again."""
        self.away = frozenset(machines)
        async with self._changed:
            self._changed.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something about the rows is true."""
        async with self._changed:
            await self._changed.wait_for(true)

    async def until_held_up(self, true: Callable[[], bool], held_up: Callable[[], bool]) -> None:
        """Wait until something about the rows is true, or has been held up by hosts that do not answer for `patience` seconds."""
        while True:
            await self.until(lambda: true() or held_up())
            if true():
                return
            try:
                await asyncio.wait_for(self.until(lambda: true() or not held_up()), self.patience)
            except TimeoutError:
                return

    def runners_of(self, endpoint: str) -> list[RunnerRow]:
        """Those of one app, oldest first."""
        return sorted(self._of.get(endpoint, {}).values(), key=lambda r: (r.created_at, r.runner_id))

    def _keep(self, row: RunnerRow) -> None:
        self.runners[row.runner_id] = row
        self._of.setdefault(row.endpoint, {})[row.runner_id] = row

    def _drop(self, runner_id: str) -> None:
        self.replacing.discard(runner_id)
        gone = self.runners.pop(runner_id, None)
        if gone is not None:
            others = self._of[gone.endpoint]
            del others[runner_id]
            if not others:
                del self._of[gone.endpoint]

    def definition(self, endpoint: str, revision: str) -> Definition:
        """The definition of a revision that exists."""
        found = self._definitions.get((endpoint, revision))
        if found is None:
            row = self.store.revision(endpoint, revision)
            if row is None:
                raise LookupError(f"{endpoint} has no revision {revision}")
            found = self._definitions[endpoint, revision] = definition_from_json(row.definition)
        return found

    def machine_of(self, runner_id: str) -> str:
        """The machine of a runner that is, or was, recorded; empty if none is."""
        row = self.runners.get(runner_id) or self.store.runner(runner_id)
        return row.machine_id if row else ""

    def on_machine(self, machine_id: str) -> list[RunnerRow]:
        """Runners that are recorded there and have not ended."""
        return [row for row in self.runners.values() if row.machine_id == machine_id]

    def out_of_reach(self, endpoint: str) -> list[RunnerRow]:
        """Runners of an app if all that it has are on hosts that do not answer; none if one is not, or it has none."""
        rows = self.runners_of(endpoint)
        return rows if all(row.machine_id in self.away for row in rows) else []

    def open_rollout(self, endpoint: str) -> RolloutRow | None:
        """The app's rollout if it has not ended."""
        row = self.rollouts.get(endpoint)
        return row if row and row.rollout.phase in (Phase.PREPARING, Phase.VERIFYING) else None

    def app_view(self, app: AppRow) -> AppView:
        """The app as decisions need it."""
        settings = dict(app.settings)
        if app.revision:
            settings["max_multiplexing"] = self.definition(app.endpoint, app.revision).setting("max_multiplexing")
        row = self.open_rollout(app.endpoint)
        revision = None if app.deleting else app.revision
        return AppView(
            app.endpoint,
            revision,
            scaling_of(settings),
            row.rollout if row else None,
            app.launch_after,
            frozenset(self.replacing),
        )

    def runner_views(self, endpoint: str) -> list[RunnerView]:
        return [
            RunnerView(r.runner_id, r.revision, r.state, r.created_at, r.ready_at and max(r.ready_at, self.since))
            for r in self.runners_of(endpoint)
            if r.machine_id not in self.away
        ]


def live_app(app: AppRow) -> LiveApp:
    """What the gateway needs to know of an app."""
    start = app.settings.get("request_start_timeout")
    skip = cast("list[str]", app.settings.get("skip_retry_conditions") or [])
    return LiveApp(
        app.endpoint,
        AuthMode(str(app.settings.get("auth", "private"))),
        request_timeout=float(cast("float", app.settings.get("request_timeout") or 3600)),
        request_start_timeout=None if start is None else float(cast("float", start)),
        skip_retry_conditions=tuple(skip),
    )


def starting(row: RunnerRow) -> bool:
    """Whether the runner has not been ready yet."""
    return row.state in (RunnerState.PENDING, RunnerState.SETUP)


def with_state(row: RunnerRow, state: RunnerState, **values: object) -> RunnerRow:
    """The row in another state."""
    return replace(row, state=state, **values)  # type: ignore[arg-type]  # the names are checked by replace itself


def placement(placed: Placed) -> JsonObject:
    """What a runner's row keeps of its place."""
    return {
        "region": placed.region,
        "machine_type": placed.machine_type,
        "vcpu": placed.vcpu,
        "ram": placed.ram,
        "gpus": list(placed.gpus),
        "because": placed.because,
    }


def placed_of(row: RunnerRow) -> Placed:
    """The place that a runner's row tells of."""
    p: Any = row.placement
    return Placed(row.machine_id, p["region"], p["machine_type"], p["vcpu"], p["ram"], tuple(p["gpus"]), p["because"])
