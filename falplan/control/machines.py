"""The machines at hand behind the controller's `Host`: blocking work in a bounded pool. One machine in this version."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar, cast

from falplan import clock, registry
from falplan.control import environments, launch
from falplan.control.bundle_store import BundleStore
from falplan.control.bundles import ensure_bundle, remove_bundles_except
from falplan.control.host import BuiltLock, Observation, Unused
from falplan.control.labels import Labels
from falplan.control.ledger import Fence, RoomTaken, check_fence, read_ledger
from falplan.control.logs import RunnerLogs
from falplan.control.unused import Leftovers
from falplan.core.definition import Definition
from falplan.core.errors import FalplanError
from falplan.core.placement import Reserved, Slots
from falplan.core.runtime import LogEntry
from falplan.core.secret import SecretValue
from falplan.core.spec.resolved import AppKind
from falplan.core.values import Json, JsonObject
from falplan.sdk.shell import Shell
from falplan.stores.files import write_whole
from falplan.stores.home import ControlHome, read_json
from falplan.stores.runtime.control import RunnerRow

P = ParamSpec("P")
T = TypeVar("T")
STOP_WAIT = 1.0  # seconds of one wait for a runner's end
LOOK_AGAIN = 30.0  # seconds for which what a machine has is taken as known: looking for GPUs starts a process
READ_AGAIN = 0.5  # seconds for which what others take there is taken as known
Regions = dict[str, dict[str, Json]]
Reveal = Callable[[Mapping[str, str]], Mapping[str, SecretValue]]


def local_host(home: ControlHome) -> LocalHost:
    """This machine, as the control plane of a folder uses it."""
    provider = registry.provider_of("local", "local", {})
    shell = provider.shell(provider.machines()[0])
    return LocalHost(home, shell, BundleStore(home.bundles))


@dataclass(slots=True)
class LocalHost:
    """This machine. `shell` is the way onto it; everything of ours lies below `home.machine`.

    With a `fence` all that is done to runners is checked against the machine's ledger, and what they take is recorded there.
    """

    home: ControlHome
    shell: Shell
    bundles: BundleStore
    reveal: Reveal = lambda versions: {}  #: the values of secrets, by name, for a revision's versions
    fence: Fence | None = None
    project: str = ""
    regions: Regions = field(init=False)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8, thread_name_prefix="machine"))
    _looking: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="observe"))
    _logs: RunnerLogs = field(init=False)
    _machines: list[Slots] | None = None
    _look_again_at: float = 0.0
    _reserved: list[Reserved] = field(default_factory=list)
    _read_again_at: float = 0.0
    _keeping: threading.Lock = field(
        default_factory=threading.Lock
    )  #: held while files must stay that a backup's database needs

    def __post_init__(self) -> None:
        self._logs = RunnerLogs(self.shell, self.root)
        self.regions = cast("Regions", read_json(self._regions_file) or {})

    @property
    def _regions_file(self) -> Path:
        return self.home.folder / "regions.json"

    @property
    def root(self) -> str:
        return str(self.home.machine)

    @property
    def _leftovers(self) -> Leftovers:
        return Leftovers(self.home, self.shell, self.root)

    async def machines(self) -> list[Slots]:
        if self._machines is None or clock.monotonic() > self._look_again_at:
            self._machines = await self._run(registry.slots_of, self.regions)
            self._look_again_at = clock.monotonic() + LOOK_AGAIN
        return self._machines

    async def reserved(self) -> list[Reserved]:
        if self.fence is not None and clock.monotonic() >= self._read_again_at:
            ledger = await self._run(read_ledger, self.shell, self.root)
            check_fence(ledger, self.fence)  # one that only serves learns in this way that it is not the owner any more
            self._reserved = list(ledger.reservations)
            self._read_again_at = clock.monotonic() + READ_AGAIN
        return self._reserved

    async def configure(self, regions: JsonObject) -> None:
        wanted = cast("Regions", regions)
        await self._run(registry.slots_of, wanted)  # refuses what a provider does not understand
        await self._run(write_whole, self._regions_file, json.dumps(regions).encode(), point="regions")
        self.regions, self._machines = wanted, None

    async def observe(self) -> dict[str, Observation]:
        # Never behind a build or an upload: a look has a pool of its own.
        loop = asyncio.get_running_loop()
        seen = await loop.run_in_executor(self._looking, launch.observe_runners, self.shell, self.root)
        return {o.runner_id: _observation(o) for o in seen}

    async def strays(self, known: set[str]) -> list[str]:
        return await self._run(launch.find_strays, self.shell, self.root, known)

    async def start(self, row: RunnerRow, definition: Definition) -> None:
        room = await self.machines()
        self._read_again_at = 0.0
        await self._run(self._start, row, definition, _reservation(row, room))

    def _start(self, row: RunnerRow, definition: Definition, reservation: launch.Reservation) -> None:
        files = self._put_files(definition)
        python = self._environment(definition, lambda line: None)
        launch.start_runner(
            self.shell,
            self.root,
            launch.RunnerLaunch(
                row.runner_id,
                self._argv(definition, python),
                listen="unix" if definition.kind == AppKind.FAL else "tcp",
                files=files,
                env=_variables(row, definition, python),
                secrets=self.reveal(definition.secrets),
                startup_timeout=definition.seconds("startup_timeout"),
                grace=definition.seconds("termination_grace_period_seconds"),
                memory_limit=int(cast("int", row.placement["ram"])),
                gpus=tuple(int(cast("int", g)) for g in cast("list[Json]", row.placement["gpus"])),
                labels=self._labels(row),
                reservation=reservation,
            ),
            fence=self.fence,
        )

    def _labels(self, row: RunnerRow) -> JsonObject:
        if self.fence is None:
            return {}
        machine_type = str(row.placement["machine_type"])
        whose = (self.fence.lineage, self.fence.control_plane, self.fence.epoch, self.project)
        return Labels(*whose, row.endpoint, row.revision, machine_type, row.placement, row.created_at).to_json()

    def _argv(self, definition: Definition, python: str | None) -> tuple[str, ...]:
        if definition.kind == AppKind.FAL:
            return launch.fal_argv(cast("str", python), self.root, definition.entry)
        return definition.command

    async def stop(self, runner_id: str) -> None:
        # In short waits: a runner that takes its time to finish must not keep a thread of the pool from the others.
        stop = partial(launch.stop_runner, self.shell, self.root, runner_id, wait=STOP_WAIT, fence=self.fence)
        while (await self._run(stop)).alive:  # noqa: ASYNC110 - another process ends
            await asyncio.sleep(0.1)

    async def kill(self, runner_id: str) -> None:
        await self._run(launch.kill_runner, self.shell, self.root, runner_id, fence=self.fence)
        self._read_again_at = 0.0

    async def tail(self, runner_id: str, lines: int) -> list[str]:
        return [e.message for e in await self.tail_entries(runner_id, lines)]

    async def tail_entries(self, runner_id: str, lines: int) -> list[LogEntry]:
        return await self._run(self._logs.tail, runner_id, lines)

    async def build(
        self, kind: str, requirements: list[str], python: str | None, say: Callable[[str], None], *, anew: bool = False
    ) -> BuiltLock:
        return await self._run(self._build, kind, requirements, python, say, anew)

    async def prepare(self, definition: Definition, say: Callable[[str], None]) -> None:
        await self._run(self._put_files, definition)
        await self._run(self._environment, definition, say)

    def locks(self) -> list[str]:
        return sorted(p.stem for p in self.home.locks.glob("*.json"))

    def has_lock(self, lock: str) -> bool:
        return lock in self.locks()

    def logs_of(self, runner_id: str, request_id: str, since: float) -> list[LogEntry]:
        return self._logs.of_request(runner_id, request_id, since)

    async def entries_since(self, runner_id: str, position: int | None, lines: int) -> tuple[list[LogEntry], int]:
        if position is None:
            return await self._run(self._logs.last, runner_id, lines)
        return await self._run(self._logs.since, runner_id, position)

    async def forget_unused(self, bundles: set[str], locks: set[str]) -> None:
        await self._run(self._forget_unused, bundles, locks)

    async def backup(self) -> IO[bytes]:
        return await self._run(self._backup)

    def _backup(self) -> IO[bytes]:
        from falplan.stores.backup.write import write_backup  # with pydantic: ending what a dead one left needs neither

        file = tempfile.TemporaryFile(dir=self.home.folder)  # noqa: SIM115 - its reader closes it
        try:
            with self._keeping:
                write_backup(self.home, file)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def _forget_unused(self, bundles: set[str], locks: set[str]) -> None:
        with self._keeping:
            self._forget_all_but(bundles, locks)

    def _forget_all_but(self, bundles: set[str], locks: set[str]) -> None:
        remove_bundles_except(self.shell, self.root, bundles)
        self.bundles.remove_except(bundles)
        keys = {self._key(self._read_lock(lock)) for lock in locks}
        environments.remove_environments_except(self.shell, self.root, keys)
        for path in self.home.locks.glob("*.json"):
            if path.stem not in locks:
                path.unlink(missing_ok=True)

    async def unused(self, bundles: set[str], locks: set[str], *, older_than: float) -> list[Unused]:
        return await self._run(self._leftovers.find, bundles, locks, older_than)

    async def sizes(self, runner_ids: list[str], unused: list[Unused]) -> dict[str | Unused, int]:
        paths: dict[str | Unused, str] = {r: f"{self.root}/runners/{r}" for r in runner_ids}
        paths |= {u: u.path for u in unused}
        return await self._run(lambda: {name: self._leftovers.size(path) for name, path in paths.items()})

    async def remove(self, unused: list[Unused]) -> None:
        await self._run(self._remove, unused)

    def _remove(self, unused: list[Unused]) -> None:
        with self._keeping:
            self._leftovers.remove(unused)

    async def forget_runners(self, runner_ids: list[str]) -> None:
        for runner_id in runner_ids:
            await self._run(launch.forget_runner, self.shell, self.root, runner_id)

    def _build(
        self, kind: str, requirements: list[str], python: str | None, say: Callable[[str], None], anew: bool
    ) -> BuiltLock:
        lock = environments.lock_requirements(
            requirements,
            python=python,
            cache=self.home.cache,
            cwd=Path("/"),
            progress=say,
            kind=AppKind(kind),
            anew=anew,
        )
        self.home.locks.mkdir(parents=True, exist_ok=True)
        write_whole(self.home.locks / f"{lock.digest}.json", json.dumps(asdict(lock)).encode(), point="lock")
        environments.ensure_environment(self.shell, self.root, self._key(lock), lock, progress=say)
        return BuiltLock(lock.digest, lock.packages)

    def _environment(self, definition: Definition, say: Callable[[str], None]) -> str | None:
        """The interpreter of the definition's environment, built if this machine does not have it yet."""
        if definition.lock is None:
            return None
        lock = self._read_lock(definition.lock)
        return environments.ensure_environment(self.shell, self.root, self._key(lock), lock, progress=say)

    @staticmethod
    def _key(lock: environments.Lock) -> str:
        return environments.environment_key(lock.text, lock.python, environments.platform_of())

    def _read_lock(self, digest: str) -> environments.Lock:
        try:
            return environments.Lock(**json.loads((self.home.locks / f"{digest}.json").read_bytes()))
        except FileNotFoundError:
            raise FalplanError("A lock is gone", f"{digest}: `falplan apply` locks the requirements again.") from None

    def _put_files(self, definition: Definition) -> str:
        path = self.bundles.path(definition.bundle)
        try:
            with path.open("rb") as archive:
                return ensure_bundle(self.shell, self.root, definition.bundle, archive)
        except FileNotFoundError:
            detail = f"{path} does not exist: `falplan apply` uploads them again."
            raise FalplanError("The app's files are gone", detail) from None

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Give up threads; what they do ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._looking.shutdown(wait=False, cancel_futures=True)


def _observation(seen: launch.ObservedRunner) -> Observation:
    lives = seen.alive or bool(seen.survivors)
    return Observation(seen.runner_id, seen.alive, seen.ready, seen.address, seen.reason, lives, seen.labels)


def _reservation(row: RunnerRow, room: list[Slots]) -> launch.Reservation:
    """What the runner takes, with the machine as its region offers it.

    Raises:
        RoomTaken: the region is not declared any more.
    """
    p: Any = row.placement
    for machine in room:
        if (machine.machine_id, machine.region) == (row.machine_id, p["region"]):
            totals = (machine.total_vcpu, machine.total_ram, machine.strict)
            return launch.Reservation(p["vcpu"], p["ram"], tuple(p["gpus"]), *totals)
    raise RoomTaken("The room was taken meanwhile", f"Region {p['region']} was removed.")


def _variables(row: RunnerRow, definition: Definition, python: str | None) -> dict[str, str]:
    """What the app finds in its environment: names that fal sets, too, then the app's own variables."""
    values = {
        "FAL_APP_NAME": row.endpoint,
        "FAL_JOB_ID": row.runner_id,
        "FAL_REGION": str(row.placement["region"]),
    }
    if python is not None:
        folder = str(Path(python).parent)
        values["VIRTUAL_ENV"] = str(Path(folder).parent)
        values["PATH"] = f"{folder}:{os.environ.get('PATH', os.defpath)}"
    own = cast("Mapping[str, str]", definition.setting("environment_variables"))
    return {**values, **own}
