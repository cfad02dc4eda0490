"""What the control plane tells of itself, as JSON: apps, runners, machines, secrets and keys. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from falplan import clock
from falplan.control.controller import Controller
from falplan.control.holdings import Holdings
from falplan.control.operations import Operations
from falplan.core.audit import Entry
from falplan.core.placement import slots_to_json
from falplan.core.runtime import Key, RunnerState
from falplan.core.values import JsonObject
from falplan.stores.runtime.control import RunnerRow


@dataclass(frozen=True, slots=True)
class Account:
    """The world as its controller knows it. `queue_length` is of an endpoint's queue."""

    controller: Controller
    operations: Operations
    queue_length: Callable[[str], int]

    async def world(self) -> JsonObject:
        """Everything that a plan compares with."""
        world = self.controller.world
        return {
            "apps": [self._app(endpoint) for endpoint in sorted(world.apps)],
            "builds": list(self.controller.host.locks()),
            "orphans": self.controller.adoption.to_json(),
            "secrets": self.secrets(),
            "runners": self.runners(all_states=False),
            "machines": [slots_to_json(m) for m in await self.controller.room.slots()],
            "fleet": self.holdings.machines(),
            "around": await self.holdings.around(),
        }

    @property
    def holdings(self) -> Holdings:
        """The machines that were bought."""
        return Holdings(self.controller)

    def _app(self, endpoint: str) -> JsonObject:
        app = self.controller.world.apps[endpoint]
        demand = self.controller.traffic.demand(endpoint)
        rollout = self.controller.world.open_rollout(endpoint)
        states = [self._state(r) for r in self.controller.world.runners_of(endpoint)]
        return {
            "endpoint": endpoint,
            "address": app.address,
            "revision": app.revision,
            "inputs": app.inputs,
            "settings": app.settings,
            "url": f"{self.operations.url}/run/{endpoint}",
            "overrides": app.overrides,
            "deleting": app.deleting is not None,
            "rollout": {"revision": rollout.rollout.revision, "phase": rollout.rollout.phase.value}
            if rollout
            else None,
            "runners": {s: states.count(s) for s in sorted(set(states))},
            "waiting": len(demand.waiting),
            "in_flight": sum(demand.in_flight.values()),
            "queued": self.queue_length(endpoint),
            "failures": app.failures,
            "launch_after": app.launch_after,
            "held": self.controller.launching.held.get(endpoint, ""),
        }

    def revisions(self, endpoint: str) -> list[Any]:
        """Revisions of an app that are kept, oldest first; none for an app that is not there. Times as RFC 3339."""
        world = self.controller.world
        app, rollout = world.apps.get(endpoint), world.open_rollout(endpoint)
        coming = rollout.rollout.revision if rollout else None
        return [
            {
                "revision": row.revision,
                "state": revision_state(row.revision, app.revision if app else None, coming),
                "created_at": clock.timestamp(row.created_at),
                "served_at": None if row.served_at is None else clock.timestamp(row.served_at),
            }
            for row in world.store.revisions_of(endpoint)
        ]

    def held(self) -> JsonObject:
        """Why apps that need another runner get none, by endpoint."""
        found = {
            endpoint: self.controller.launching.held.get(endpoint, "")
            for endpoint in sorted(self.controller.world.apps)
        }
        return {endpoint: because for endpoint, because in found.items() if because}

    def runners(self, *, all_states: bool) -> list[Any]:
        """Those that run, by app; with `all_states` those that have ended, too."""
        world = self.controller.world
        rows = [r for endpoint in sorted(world.apps) for r in world.runners_of(endpoint)]
        if all_states:
            rows += world.store.ended_runners()
        return [self._runner(r) for r in rows]

    def _runner(self, row: RunnerRow) -> JsonObject:
        demand = self.controller.traffic.demand(row.endpoint)
        return {
            "runner_id": row.runner_id,
            "endpoint": row.endpoint,
            "revision": row.revision,
            "state": self._state(row),
            "machine": row.machine_id,
            "placement": row.placement,
            "in_flight": demand.in_flight.get(row.runner_id, 0),
            "created_at": row.created_at,
            "ready_at": row.ready_at,
            "ended_at": row.ended_at,
            "because": row.because,
        }

    def _state(self, row: RunnerRow) -> str:
        if row.state is RunnerState.IDLE and self.controller.traffic.demand(row.endpoint).in_flight.get(row.runner_id):
            return RunnerState.RUNNING.value
        return row.state.value

    def secrets(self) -> list[Any]:
        """Names, versions and users of all secrets; no values."""
        users = self._users_of_secrets()
        return [
            {
                "address": row.address,
                "environment": row.environment,
                "name": row.name,
                "version": row.version,
                "versions": [v for v in row.versions if v not in row.damaged],
                "damaged": list(row.damaged),
                "changed_at": row.changed_at,
                "since": clock.timestamp(row.since),
                "by": row.by,
                "used_by": sorted({a for v in row.versions for a in users.get(v, ())}),
            }
            for row in self.operations.acts.secrets.all()
        ]

    def _users_of_secrets(self) -> dict[str, list[str]]:
        """Version -> addresses of the apps whose serving revision has it."""
        users: dict[str, list[str]] = {}
        world = self.controller.world
        for app in world.apps.values():
            if app.revision:
                for version in world.definition(app.endpoint, app.revision).secrets.values():
                    users.setdefault(version, []).append(app.address)
        return users


def revision_state(revision: str, serves: str | None, coming: str | None) -> str:
    """Where a kept revision stands: `serving`, `deploying` or `kept`."""
    return "serving" if revision == serves else "deploying" if revision == coming else "kept"


def entry_to_json(entry: Entry) -> JsonObject:
    """An entry of the audit log. Its time as RFC 3339."""
    return {
        "at": clock.timestamp(entry.at),
        "operation": entry.operation,
        "kind": entry.kind.value,
        "what": entry.what,
        "resource": entry.resource,
        "by": {"key_id": entry.asker.key_id, "name": entry.asker.name},
        "outcome": entry.outcome.value,
        "because": entry.because,
    }


def key_to_json(key: Key) -> JsonObject:
    """A key without its hash."""
    return {
        "key_id": key.key_id,
        "scope": key.scope.value,
        "description": key.description,
        "created_at": clock.timestamp(key.created_at),
        "revoked_at": None if key.revoked_at is None else clock.timestamp(key.revoked_at),
    }
