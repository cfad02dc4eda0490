"""The machines of a control plane behind the controller's `Host`: its own, and the hosts that it was told of.

Blocking work is done in bounded pools.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar, cast

from falplan import clock, registry
from falplan.control import launch
from falplan.control.building import build, places_of
from falplan.control.bundle_store import BundleStore
from falplan.control.environments import keys_of
from falplan.control.host import HERE, BuiltLock, Needed, Sight, Told, Unused, Wanted
from falplan.control.images import ensure_image
from falplan.control.ledger import Claim, Fenced, Process, RoomTaken, release_claim
from falplan.control.posts import Book, Entrance, Post
from falplan.control.station import Identify, Reveal, Station
from falplan.control.wheels import remove_wheels_except
from falplan.core.definition import Definition
from falplan.core.errors import FalplanError
from falplan.core.notices import Notice
from falplan.core.placement import Reserved, Slots, candidates, lacks
from falplan.core.resources import machine_of
from falplan.core.runtime import LogEntry, RunnerAccess
from falplan.core.values import Json, JsonObject
from falplan.sdk.failpoints import fp
from falplan.sdk.here import own_platform
from falplan.sdk.shell import Shell
from falplan.sdk.values import Machine
from falplan.stores.files import write_whole
from falplan.stores.home import ControlHome, read_json
from falplan.stores.runtime.control import RunnerRow

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
LOOK_AGAIN = 30.0  # seconds for which what a machine has is taken as known: looking for GPUs starts a process
READ_AGAIN = 0.5  # seconds for which what others take there is taken as known
LOOK_WITHIN = 1.0  # seconds that a look waits for hosts; slower ones are seen with the next one
LEASE = 30.0  # seconds without an answer after which a host's runners get no requests, and others are started elsewhere
LEAVE_OUT = (
    "Put it right and apply again. If the app is not meant to run on one of them, leave it out of its `regions`."
)
Regions = dict[str, dict[str, Json]]


def machines_of(home: ControlHome) -> Machines:
    """This machine, as the control plane of a folder uses it, and the hosts that it was told of."""
    provider = registry.provider_of("local", "local", {})
    shell = provider.shell(provider.machines()[0])
    bundles = BundleStore(home.bundles)
    here = Station(home, shell, str(home.machine), bundles, search_path=os.environ.get("PATH", os.defpath))
    return Machines(home, here, bundles, lease=float(os.environ.get("FALPLAN_HOST_LEASE") or LEASE))


@dataclass(slots=True)
class Machines:
    """Machines by id; what is no host's id means this machine, `here`. `recorded` tells a runner's machine as the database knows it."""

    home: ControlHome
    here: Station
    bundles: BundleStore
    recorded: Callable[[str], str] = lambda runner_id: ""
    lease: float = LEASE
    claim: Claim | None = None  #: what claims of hosts say; none are taken before this machine is
    replaces: str = ""  #: the control plane whose place this one takes
    succeeds: Process | None = None  #: the living process that has given way to this one
    regions: Regions = field(init=False)
    posts: dict[str, Post] = field(default_factory=dict)  #: by machine id
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16, thread_name_prefix="machine"))
    _looking: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="observe"))
    _asking: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(64, thread_name_prefix="hosts"))
    _working: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(64, thread_name_prefix="work"))
    _own: list[Slots] | None = None
    _look_again_at: float = 0.0
    _reserved: list[Reserved] = field(default_factory=list)
    _read_again_at: float = 0.0
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pythons: dict[str, str] = field(default_factory=dict)  #: by lock, which never changes
    _seen_on: dict[str, str] = field(default_factory=dict)  #: runner -> the machine that it was seen on

    def __post_init__(self) -> None:
        self.regions = cast("Regions", read_json(self._regions_file) or {})
        self.posts = {p.machine_id: p for p in (Post(t, machine_of(t.address)) for t in self._book.read().values())}

    @property
    def _regions_file(self) -> Path:
        return self.home.folder / "regions.json"

    @property
    def _book(self) -> Book:
        return Book(self.home.folder / "hosts.json")

    @property
    def reveal(self) -> Reveal:
        """The values of secrets, by name, for a revision's versions."""
        return self.here.reveal

    @reveal.setter
    def reveal(self, reveal: Reveal) -> None:
        self.here.reveal = reveal

    @property
    def identify(self) -> Identify:
        """The certificates, keys and tokens of runners, by their ids."""
        return self.here.identify

    @identify.setter
    def identify(self, identify: Identify) -> None:
        self.here.identify = identify

    def access(self, runner_id: str) -> RunnerAccess:
        return self.identify(runner_id).access

    # -- which machine ----------------------------------------------------------------------------------------------------

    def _station(self, machine_id: str) -> Station:
        """The machine to work on; hosts are connected to if need be. Blocks."""
        post = self.posts.get(machine_id)
        return self.here if post is None else post.open(self.regions, self._entrance)

    def _place(self, runner_id: str) -> str:
        """Where a runner is: as it was recorded, or where it was seen. Reads the database: not for threads of the pool."""
        return self.recorded(runner_id) or self._seen_on.get(runner_id, HERE)

    @property
    def _entrance(self) -> Entrance:
        if self.claim is None:
            raise FalplanError("The control plane is starting", "Hosts are connected to once it has its own machine.")
        return Entrance(str(self.home.access_key), self.claim, self._station_of, self.replaces, self.succeeds)

    def _station_of(self, shell: Shell, machine: Machine) -> Station:
        facts = getattr(shell, "facts", {})
        path = str(facts.get("path", "")) or os.defpath
        station = replace(self.here, shell=shell, root=machine.folder, fence=None, elsewhere=True, search_path=path)
        station._reached = {}
        station.as_root = bool(getattr(getattr(shell, "target", None), "sudo", False))
        station.systemd = str(facts.get("systemd", "")) if machine.units.used else ""
        station.units = machine.units
        station.pushes = machine.pushes
        system = registry.system_of(machine)
        station.platform = system.platform if system and system.arch else own_platform()
        station.direct = machine.direct
        return station

    # -- what there is ----------------------------------------------------------------------------------------------------

    async def machines(self) -> list[Slots]:
        if self._own is None or clock.monotonic() > self._look_again_at:
            self._own = await self._run(registry.slots_of, self._regions_here())
            self._look_again_at = clock.monotonic() + LOOK_AGAIN
        away = self.away()
        return [*self._own, *(post.room(away.get(machine_id, "")) for machine_id, post in sorted(self.posts.items()))]

    def _regions_here(self, regions: Regions | None = None) -> Regions:
        """Regions whose machines are all there without apply having told of them."""
        regions = self.regions if regions is None else regions
        return {name: body for name, body in regions.items() if body.get("provider") != "ssh"}

    def away(self) -> dict[str, str]:
        """Hosts that have not answered for longer than the lease, and why."""
        now = clock.monotonic()
        doubts = {m: p.doubt(now) for m, p in self.posts.items() if now - p.heard_at > self.lease}
        return {machine_id: because for machine_id, because in doubts.items() if because}

    @property
    def has_hosts(self) -> bool:
        return bool(self.posts)

    def is_elsewhere(self, machine_id: str) -> bool:
        return machine_id in self.posts

    async def reserved(self) -> dict[str, list[Reserved]]:
        if self.here.fence is not None and clock.monotonic() >= self._read_again_at:
            self._reserved = await self._run(self.here.reserved)
            self._read_again_at = clock.monotonic() + READ_AGAIN
        return {HERE: self._reserved, **{machine_id: post.reserved for machine_id, post in self.posts.items()}}

    async def configure(self, regions: JsonObject) -> None:
        wanted = cast("Regions", regions)
        await self._run(registry.slots_of, self._regions_here(wanted))  # refuses what a provider does not understand
        await self._run(write_whole, self._regions_file, json.dumps(regions).encode(), point="regions")
        changed = {name for name in self.regions | wanted if self.regions.get(name) != wanted.get(name)}
        self.regions, self._own = wanted, None
        for post in list(self.posts.values()):
            if post.told.region in changed:
                if post.looking is not None:
                    await asyncio.wait([post.looking])
                await self._away(post.retire)

    # -- hosts ------------------------------------------------------------------------------------------------------------

    async def add_host(self, told: Told) -> JsonObject:
        """Take a host, so that runners are put there. It is known before it is touched. May be called again.

        Raises:
            Unreachable, ClaimRefused, FalplanError: it can't be used, and why.
        """
        machine_id = machine_of(told.address)
        await self._write(told.address, told)
        fp("host.add.after_write")
        old = self.posts.get(machine_id)
        if old is not None:
            if old.looking is not None:
                await asyncio.wait([old.looking])
            await self._away(old.retire)
        post = self.posts[machine_id] = Post(told, machine_id)
        await self._look(post)
        if post.error is not None:
            raise post.error
        return {"machine": machine_id}

    def notice(self, machine_id: str) -> Notice | None:
        """See `Host.notice`."""
        post = self.posts.get(machine_id)
        return None if post is None else post.notice

    async def close_host(self, address: str) -> str:
        """Put nothing new on a host that is to be removed. Its machine id, or empty if it is not known."""
        told = self._told().get(address)
        if told is None:
            return ""
        leaving = replace(told, leaving=True)
        await self._write(address, leaving)
        machine_id = machine_of(told.address)
        self.posts[machine_id].told = leaving
        return machine_id

    async def remove_host(self, address: str, *, silent: bool = False) -> None:
        """Give a host up: it has no runner any more. One that is `silent` is not asked for anything."""
        told = self._told().get(address)
        if told is None:
            return
        post = self.posts.pop(machine_of(told.address))
        try:
            if post.looking is not None:  # without a claim its next look would find that it may not act there
                await asyncio.wait([post.looking])
            await self._away(post.close if silent else partial(self._release, post))
        except BaseException:
            self.posts[post.machine_id] = post
            raise
        fp("host.remove.before_write")
        await self._write(address, None)

    def _release(self, post: Post) -> None:
        if self.claim is not None:
            station = post.open(self.regions, self._entrance)
            release_claim(station.shell, station.root, lineage=self.claim.lineage, home=self.claim.home)
        post.close()

    def _told(self) -> dict[str, Told]:
        return {post.told.address: post.told for post in self.posts.values()}

    async def _write(self, address: str, told: Told | None) -> None:
        """Keep what is told of one host, or forget it. Durable when it returns; one after the other."""
        async with self._writing:
            others = {a: t for a, t in (await self._run(self._book.read)).items() if a != address}
            await self._run(self._book.write, others | ({address: told} if told else {}))

    # -- runners ----------------------------------------------------------------------------------------------------------

    async def observe(self) -> Sight:
        # Never behind a build or an upload, nor behind hosts that do not answer: a look has a pool of its own.
        began = clock.monotonic()
        looks = [self._look(post) for post in self.posts.values()]
        seen = await asyncio.get_running_loop().run_in_executor(self._looking, self.here.observe, HERE)
        if looks:
            await asyncio.wait(looks, timeout=LOOK_WITHIN)
        for look in looks:
            if look.done() and isinstance(look.exception(), Fenced):
                raise cast("Fenced", look.exception())
        found = {o.runner_id: o for o in seen}
        looked: dict[str, float | None] = {HERE: began}
        for machine_id, post in self.posts.items():
            known = not post.doubt(clock.monotonic())
            looked[machine_id] = post.looked_at if known else None
            found |= {o.runner_id: o for o in post.seen} if known else {}
        self._seen_on = {o.runner_id: o.machine_id for o in found.values()}
        return Sight(found, looked)

    def _look(self, post: Post) -> asyncio.Task[None]:
        """The look at a host that is under way, or another one."""
        if post.looking is None or post.looking.done():
            post.begun_at = clock.monotonic()
            post.looking = asyncio.get_running_loop().create_task(self._look_once(post))
        return post.looking

    async def _look_once(self, post: Post) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._asking, post.look, self.regions, self._entrance)
        except Fenced:
            raise
        except (FalplanError, OSError) as exc:
            post.failed(exc)
        except Exception as exc:
            log.exception("%s can't be looked at", post.told.address)
            post.failed(exc)

    async def strays(self, known: set[str], machines: frozenset[str] = frozenset()) -> list[str]:
        found = await self._run(self.here.strays, known)
        for machine_id, post in list(self.posts.items()):
            if machine_id in machines and post.station is not None:
                try:
                    theirs = await self._away(post.station.strays, known)
                except (FalplanError, OSError) as exc:
                    post.failed(exc)  # it is asked again once it answers
                    continue
                self._seen_on |= dict.fromkeys(theirs, machine_id)
                found += theirs
        return found

    async def start(self, row: RunnerRow, definition: Definition, say: Callable[[str], None]) -> None:
        room = await self.machines()
        self._read_again_at = 0.0
        await self._on(row.machine_id, self._start, row, definition, _reservation(row, room), say)

    def _start(
        self, row: RunnerRow, definition: Definition, reservation: launch.Reservation, say: Callable[[str], None]
    ) -> None:
        self._station(row.machine_id).start(row, definition, reservation, say)

    async def stop(self, runner_id: str) -> None:
        place = self._place(runner_id)
        while await self._on(place, lambda: self._station(place).stop(runner_id)):  # noqa: ASYNC110 - another process ends
            await asyncio.sleep(0.1)

    async def kill(self, runner_id: str) -> None:
        place = self._place(runner_id)
        await self._on(place, lambda: self._station(place).kill(runner_id))
        self._read_again_at = 0.0

    async def tail(self, runner_id: str, lines: int) -> list[str]:
        return [e.message for e in await self.tail_entries(runner_id, lines)]

    async def tail_entries(self, runner_id: str, lines: int) -> list[LogEntry]:
        place = self._place(runner_id)
        return await self._on(place, lambda: self._station(place).logs.tail(runner_id, lines))

    async def logs_of(self, runner_id: str, request_id: str, since: float) -> list[LogEntry]:
        place = self._place(runner_id)
        if place not in self.posts:
            return self.here.logs.of_request(
                runner_id, request_id, since
            )  # a file of this machine: a thread would cost more
        if self.posts[place].doubt(clock.monotonic()):
            return []
        try:
            return await self._away(lambda: self._station(place).logs.of_request(runner_id, request_id, since))
        except (FalplanError, OSError):
            return []  # its host went away just now: a request's status is told without its lines, rather than not at all

    async def entries_since(self, runner_id: str, position: int | None, lines: int) -> tuple[list[LogEntry], int]:
        place = self._place(runner_id)
        return await self._on(place, self._entries, place, runner_id, position, lines)

    def _entries(self, place: str, runner_id: str, position: int | None, lines: int) -> tuple[list[LogEntry], int]:
        logs = self._station(place).logs
        return logs.last(runner_id, lines) if position is None else logs.since(runner_id, position)

    async def forget_runners(self, runner_ids: list[str]) -> None:
        for runner_id in runner_ids:
            place = self._place(runner_id)
            if place in self.posts and self.posts[place].because:
                continue  # nobody answers there now; what it left goes with the host
            await self._on(place, self._forget, place, runner_id)

    def _forget(self, place: str, runner_id: str) -> None:
        self._station(place).forget(runner_id)

    # -- what runners need ------------------------------------------------------------------------------------------------

    async def build(self, wanted: Wanted, say: Callable[[str], None]) -> BuiltLock:
        places = places_of(wanted, await self.machines(), self.is_elsewhere)
        return await self._run(build, self.here, wanted, places, say)

    async def fetch(self, wanted: Wanted, say: Callable[[str], None]) -> None:
        need = wanted.need
        large = candidates(need, await self.machines(), wanted.types) if need else []
        able = [m.machine_id for m in large if need and not lacks(need, m)]
        places = {m if self.is_elsewhere(m) else HERE: m for m in able} or ({} if need else {HERE: "this machine"})
        answers = await asyncio.gather(
            *(self._on(p, self._fetch, p, name, wanted.image, say) for p, name in sorted(places.items())),
            return_exceptions=True,
        )
        failed = [str(a) for a in answers if isinstance(a, FalplanError | OSError)]
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, FalplanError | OSError):
                raise answer
        if failed:
            raise FalplanError("The image can't be had everywhere", "\n".join([*failed, LEAVE_OUT]))

    def _fetch(self, place: str, name: str, image: str, say: Callable[[str], None]) -> None:
        """Have an image on one machine."""
        station = self._station(place)
        try:
            ensure_image(station.shell, station.root, image, progress=lambda line: say(f"{name}: {line}"))
        except FalplanError as exc:
            raise FalplanError(exc.summary, f"{name}: {exc.detail}") from exc

    async def prepare(self, definition: Definition, say: Callable[[str], None], machine_id: str = HERE) -> None:
        await self._on(machine_id, lambda: self._station(machine_id).prepare(definition, say))

    def locks(self) -> list[str]:
        return self.here.locks.digests()

    def python_of(self, lock: str) -> str:
        if lock not in self._pythons:
            try:
                self._pythons[lock] = self.here.locks.read(lock).python
            except FalplanError:
                return ""  # whoever starts the runner says so
        return self._pythons[lock]

    def has_lock(self, lock: str) -> bool:
        return lock in self.locks()

    # -- keeping house ----------------------------------------------------------------------------------------------------

    async def forget_unused(self, needed: Needed) -> None:
        await self._run(self._forget_unused, needed)

    def _forget_unused(self, needed: Needed) -> None:
        with self._keeping:
            keys = {key for lock in needed.locks for key in keys_of(self.here.locks.read(lock))}
            for station in self._stations():
                station.forget_all_but(needed.bundles, keys, needed.images)
            self.bundles.remove_except(needed.bundles)
            remove_wheels_except(self.home.cache, needed.locks)
            for path in self.home.locks.glob("*.json"):
                if path.stem not in needed.locks:
                    path.unlink(missing_ok=True)

    @property
    def _keeping(self) -> threading.Lock:
        """Held while files must stay that a backup's database needs."""
        return self.here.keeping

    def _stations(self) -> list[Station]:
        """This machine, and the hosts that answer."""
        return [self.here, *(p.station for p in list(self.posts.values()) if p.station is not None and not p.because)]

    async def unused(self, needed: Needed, *, older_than: float) -> list[Unused]:
        return await self._run(self._unused, needed, older_than)

    def _unused(self, needed: Needed, older_than: float) -> list[Unused]:
        found = self.here.unused(needed, older_than)
        for machine_id, post in list(self.posts.items()):
            if post.station is not None and not post.because:
                found += [replace(u, machine_id=machine_id) for u in post.station.unused(needed, older_than)]
        return found

    async def sizes(self, runner_ids: list[str], unused: list[Unused]) -> dict[str | Unused, int]:
        return await self._run(self._sizes, {r: self._place(r) for r in runner_ids}, unused)

    def _sizes(self, places: Mapping[str, str], unused: list[Unused]) -> dict[str | Unused, int]:
        sizes: dict[str | Unused, int] = {}
        for runner_id, place in places.items():
            post = self.posts.get(place)
            if post is not None and post.because:
                sizes[runner_id] = 0  # nobody answers there now
                continue
            station = self._station(place)
            sizes[runner_id] = station.leftovers.size(f"{station.root}/runners/{runner_id}")
        return sizes | {u: self._station(u.machine_id).leftovers.size(u.path) for u in unused}

    async def remove(self, unused: list[Unused]) -> None:
        await self._run(self._remove, unused)

    def _remove(self, unused: list[Unused]) -> None:
        with self._keeping:
            for one in unused:
                self._station(one.machine_id).leftovers.remove([one])

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

    async def _on(self, place: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work on one machine. Hosts have threads of their own: one that does not answer keeps nobody else waiting for this machine."""
        return await (self._away if place in self.posts else self._run)(work, *args, **kwargs)

    async def _away(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._working, partial(work, *args, **kwargs))

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Give up threads and connections; what they do ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._looking.shutdown(wait=False, cancel_futures=True)
        self._asking.shutdown(wait=False, cancel_futures=True)
        self._working.shutdown(wait=False, cancel_futures=True)
        for post in self.posts.values():
            post.close()


def _reservation(row: RunnerRow, room: list[Slots]) -> launch.Reservation:
    """What the runner takes, with the machine as its region offers it.

    Raises:
        RoomTaken: the region is not declared any more.
    """
    p: Any = row.placement
    for machine in room:
        if (machine.machine_id, machine.region) == (row.machine_id, p["region"]) and not (
            machine.closed or machine.unknown
        ):
            totals = (machine.total_vcpu, machine.total_ram, machine.strict)
            return launch.Reservation(p["vcpu"], p["ram"], tuple(p["gpus"]), *totals)
    raise RoomTaken("The room was taken meanwhile", f"Region {p['region']} was removed.")
