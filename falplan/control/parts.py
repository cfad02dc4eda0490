"""What the parts of the controller share: its memory, its means, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from falplan import clock
from falplan.control.health import HealthChecks
from falplan.control.host import Host, Traffic
from falplan.control.ledger import Fenced
from falplan.control.progress import Progress
from falplan.control.rollouts import Rollouts
from falplan.control.tasks import Tasks
from falplan.control.world import World
from falplan.core.pruning import Limits
from falplan.core.runtime import Event, RunnerAccess, RunnerState, RunnerTarget
from falplan.stores.runtime.control import RunnerRow

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


@dataclass(slots=True)
class Parts:
    """The means of all parts. `wake` makes the controller look again, `give_up` never act again. `started` is when a runner's start ended,
    in monotonic seconds, or infinity while it is under way."""

    world: World
    traffic: Traffic
    host: Host
    timing: Timing
    health: HealthChecks
    wake: Callable[..., None]
    give_up: Callable[[Fenced], None]
    tasks: Tasks = field(init=False)
    rollouts: Rollouts = field(init=False)
    progress: Progress = field(default_factory=Progress)
    started: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = Tasks(self.wake)
        self.rollouts = Rollouts(self.world, self.traffic, self.host, self.publish, self.wake)

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
        return RunnerTarget(*whose, row.address, multiplexing, self.access(row))

    def access(self, row: RunnerRow) -> RunnerAccess | None:
        """What connecting to a runner takes beside its address."""
        return self.host.access(row.runner_id) if row.address.startswith("tls:") else None

    async def tell(self, kind: str, subject: str, message: str) -> None:
        """Record an event."""
        await self.world.save(Event(clock.now(), kind, subject, message))
