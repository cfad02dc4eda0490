"""What the controller needs of the machines that runners are put on. Knows no apps, rollouts or requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, ClassVar, Protocol

from falplan.core.definition import Definition
from falplan.core.notices import Notice
from falplan.core.placement import Need, Reserved, Slots
from falplan.core.runtime import Demand, LiveApp, LogEntry, RunnerAccess, RunnerTarget
from falplan.core.spec.resolved import MachineType
from falplan.core.values import Json, JsonObject
from falplan.stores.runtime.control import RunnerRow

HERE = ""
"""What the control plane's own machine is called where hosts are called by their machine ids."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A runner as its machine shows it. `reason` says why it ended; `address` is where the control plane reaches it once it is ready.

    `alive`: its supervisor lives; `lives`: that, or a process of it that outlived its supervisor. `machine_id` is a host's, or `HERE`.
    """

    runner_id: str
    alive: bool
    ready: bool
    address: str = ""
    reason: str = ""
    lives: bool = False
    labels: Mapping[str, Json] = field(default_factory=dict)
    machine_id: str = HERE
    starting: bool = False  #: its app does not take requests yet
    waits: bool = False  #: for its secrets, which it gets by being started once more
    spoiled: bool = False  #: somebody changed what it is run from: another one takes its place
    access: RunnerAccess | None = None  #: what connecting to its address takes


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at all machines. `looked` is when each was looked at (monotonic seconds), None for a host that could not be.

    A runner that is on a machine which was looked at, and is not `found`, is gone; one on another machine is unknown.
    """

    found: Mapping[str, Observation]
    looked: Mapping[str, float | None]

    def unknown(self) -> frozenset[str]:
        """Hosts that could not be looked at."""
        return frozenset(machine_id for machine_id, at in self.looked.items() if at is None)

    def at(self, machine_id: str) -> float | None:
        """When a machine was looked at. What is no host's id is the control plane's own machine."""
        return self.looked[machine_id] if machine_id in self.looked else self.looked.get(HERE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a build is to lock: requirements of an app of a `kind`, for a Python (None: the control plane's), and as if they had never been
    locked if `anew`; or an `image` to fetch. `need` is what its runners ask of a machine, of the sizes in `types`; None if nobody says.
    """

    kind: str
    requirements: Sequence[str]
    python: str | None = None
    anew: bool = False
    need: Need | None = None
    types: Mapping[str, MachineType] = field(default_factory=dict)
    image: str = ""


@dataclass(frozen=True, slots=True)
class BuiltLock:
    """What a build ends with. `lock` is the digest of the locked requirements."""

    lock: str
    packages: int


@dataclass(frozen=True, slots=True)
class Needed:
    """What revisions and runners need: digests of bundles and locks, names of images, and the endpoints of their apps."""

    bundles: set[str]
    locks: set[str]
    endpoints: set[str]
    images: set[str] = field(default_factory=set)


def needed_by(definitions: Iterable[JsonObject], endpoints: Iterable[str] = ()) -> Needed:
    """What these revisions need, by their definitions as they are kept."""
    every = list(definitions)
    bundles, locks, images = ({str(d[name]) for d in every if d.get(name)} for name in ("bundle", "lock", "image"))
    return Needed(bundles, locks, set(endpoints), images)


@dataclass(frozen=True, slots=True)
class Unused:
    """Something that lies on a machine though no revision needs it: a file or a folder by its absolute path, an image by its name."""

    KINDS: ClassVar = ("uploaded bundles", "bundles", "environments", "images", "uv", "homes", "locks", "replaced data")

    kind: str
    path: str
    machine_id: str = HERE


@dataclass(frozen=True, slots=True)
class Told:
    """A host as apply, or whoever bought it, told of it. `options` are the region's options that declare it, as
    `{"hosts": {"gpu-01": {…}}}`.

    `leaving`: it is being removed; nothing new is put there. `by` is the provider that leads onto it where that is not its region's:
    then `options` are all that there is. `sold` is its room as it was promised, of a machine that was bought.
    """

    address: str
    region: str
    options: JsonObject
    leaving: bool = False
    by: str = ""
    sold: JsonObject = field(default_factory=dict)


class Host(Protocol):
    """The machines of a control plane. Methods are awaited; the blocking work runs in a bounded pool."""

    async def machines(self) -> list[Slots]:
        """Machines as if no runner of ours were there."""
        ...

    def away(self) -> dict[str, str]:
        """Hosts that have not answered for longer than a lease, and why: what runs there is unknown, and not counted on."""
        ...

    @property
    def has_hosts(self) -> bool:
        """Whether there are machines beside the control plane's own."""
        ...

    def is_elsewhere(self, machine_id: str) -> bool:
        """Whether it is a host, and not the control plane's own machine."""
        ...

    async def reserved(self) -> dict[str, list[Reserved]]:
        """What runners take, by host, and here; those of other projects too. Ours that have not been started yet may be missing."""
        ...

    @property
    def regions(self) -> Mapping[str, Mapping[str, Json]]:
        """Regions as they were configured last."""
        ...

    async def configure(self, regions: JsonObject) -> None:
        """Regions as the spec has them; raises FalplanError for an unknown provider."""
        ...

    async def add_host(self, told: Told) -> JsonObject:
        """Take a host that apply tells of; its outputs. May be called again."""
        ...

    def notice(self, machine_id: str) -> Notice | None:
        """That a machine is taken back by its provider, if it says so."""
        ...

    async def close_host(self, address: str) -> str:
        """Put nothing new on a host. Its machine id, or empty if there is no such host."""
        ...

    async def remove_host(self, address: str, *, silent: bool = False) -> None:
        """Give up a host that has no runner any more. One that is `silent` is not asked for anything."""
        ...

    def access(self, runner_id: str) -> RunnerAccess:
        """What connecting to a runner by TLS takes."""
        ...

    async def observe(self) -> Sight: ...
    async def strays(self, known: set[str], machines: frozenset[str] = frozenset()) -> list[str]:
        """Ids of runners that nobody knows, here and on these hosts."""
        ...

    async def start(self, row: RunnerRow, definition: Definition, say: Callable[[str], None]) -> None:
        """Put there what it needs, saying so, and start it.

        Raises RoomTaken if another project was faster; like stop and kill, Fenced if another control plane took the machine.
        """
        ...

    async def stop(self, runner_id: str) -> None: ...
    async def kill(self, runner_id: str) -> None: ...
    async def tail(self, runner_id: str, lines: int) -> list[str]: ...
    async def tail_entries(self, runner_id: str, lines: int) -> list[LogEntry]: ...
    async def entries_since(self, runner_id: str, position: int | None, lines: int) -> tuple[list[LogEntry], int]:
        """Entries after a position, and the position after them; the last `lines` for None."""
        ...

    async def build(self, wanted: Wanted, say: Callable[[str], None]) -> BuiltLock:
        """Lock for every platform on which its runners may be, and make the environment here if one may be here."""
        ...

    async def fetch(self, wanted: Wanted, say: Callable[[str], None]) -> None:
        """Have an image on every machine on which its runners may be."""
        ...

    async def prepare(self, definition: Definition, say: Callable[[str], None], machine_id: str = HERE) -> None:
        """Put environment and files where a runner will be."""
        ...

    def has_lock(self, lock: str) -> bool: ...
    def python_of(self, lock: str) -> str:
        """The Python that environments of a lock are made with, as `3.11`; empty if the lock is gone."""
        ...

    def locks(self) -> list[str]: ...
    async def forget_unused(self, needed: Needed) -> None:
        """Remove what no revision needs."""
        ...

    async def unused(self, needed: Needed, *, older_than: float) -> list[Unused]:
        """What nobody needs and was not made since `older_than`, in seconds since the epoch."""
        ...

    async def sizes(self, runner_ids: list[str], unused: list[Unused]) -> dict[str | Unused, int]:
        """Bytes on the machine of each of these."""
        ...

    async def remove(self, unused: list[Unused]) -> None:
        """Remove what `unused` found. May be called again."""
        ...

    async def forget_runners(self, runner_ids: list[str]) -> None:
        """Remove what ended runners left on their machine, their logs too."""
        ...

    async def backup(self) -> IO[bytes]:
        """Everything durable of this control plane in one archive: an open file without a name, at its beginning."""
        ...

    async def logs_of(self, runner_id: str, request_id: str, since: float) -> list[LogEntry]: ...


class Traffic(Protocol):
    """The part of the gateway that the controller steers."""

    def configure(self, app: LiveApp) -> None: ...
    def forget(self, endpoint: str) -> None: ...
    def set_targets(self, endpoint: str, targets: list[RunnerTarget]) -> None: ...
    def demand(self, endpoint: str) -> Demand: ...
    async def drained(self, runner_id: str) -> None: ...
    def abandon(self, runner_id: str) -> None: ...
