"""One control plane in this process: store, controller and gateway put together, started and ended."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import aiohttp

from falplan import __version__, clock
from falplan.cli.claiming import TELLING, Claiming, claim_machine
from falplan.cli.readiness import tell_systemd
from falplan.control.account import Account
from falplan.control.acts import Acts
from falplan.control.admin import Admin
from falplan.control.adoption import ROLLED_BACK
from falplan.control.buying import markets_of
from falplan.control.changes import Changes, Ending, HandOver, Stop
from falplan.control.controller import Controller
from falplan.control.fleet import Fleet
from falplan.control.ledger import Fenced, release_claim
from falplan.control.machine_acts import RETIRED
from falplan.control.machines import Machines, machines_of
from falplan.control.once import Once
from falplan.control.operations import Operations
from falplan.control.parts import Timing
from falplan.control.tenancy import HostTenancy
from falplan.control.world import World
from falplan.core.errors import FalplanError
from falplan.core.runtime import KeyScope
from falplan.core.values import JsonObject
from falplan.gateway.dispatch import Dispatcher
from falplan.gateway.moving import Move
from falplan.gateway.server import Gateway, GatewayConfig, start_gateway
from falplan.registry import seller_of
from falplan.stores.access_key import ensure_access_key
from falplan.stores.certificates import ALWAYS, Certificates
from falplan.stores.given_certificate import GivenCertificate
from falplan.stores.home import LOOPBACK, ControlHome, Endpoint, GatewaySettings, Ownership
from falplan.stores.machine import addresses, host_name, machine_id
from falplan.stores.release import this_release
from falplan.stores.runner_identity import identities
from falplan.stores.runtime.control import ControlStore
from falplan.stores.runtime.database import Database
from falplan.stores.runtime.fleet import FleetStore
from falplan.stores.runtime.interfaces import KeyStore
from falplan.stores.runtime.keys import SqliteKeyStore
from falplan.stores.runtime.requests import SqliteRequestStore
from falplan.stores.runtime.secrets import SecretStore
from falplan.stores.sealing import Seal

log = logging.getLogger("falplan.serve")

SETTLE = 15.0  # seconds that queued requests get to end before a successor tries them again
IDLE = 5.0  # seconds after which an idle connection is closed once a successor answers
LINGER = 3600.0  # seconds that direct calls under way may take after a successor has taken over
LOOK_AT_FILES = 30.0  # seconds between looks at certificate files
RENEW = 12 * 3600.0  # seconds between looks at the age of our own certificate


def names_of(settings: GatewaySettings) -> list[str]:
    """What the certificate has to carry: the machine's name and the addresses that it is reached at."""
    if settings.cert:
        return [settings.hostname]
    reached = addresses() if settings.everywhere else [settings.listen]
    return sorted({host_name(), *reached, *([settings.hostname] if settings.hostname else [])} - set(ALWAYS))


@dataclass(slots=True)
class Plane:
    """A control plane that runs. `tried` successors did not take over; `failed` says why the last of them did not."""

    home: ControlHome
    settings: GatewaySettings
    identity: Mapping[str, str]
    certificates: Certificates | GivenCertificate
    tls: ssl.SSLContext
    database: Database
    controller: Controller
    operations: Operations
    host: Machines
    dispatcher: Dispatcher
    access: str  #: the public key that it logs in to hosts with
    tried: int = 0
    failed: str | None = None
    claiming: Claiming = field(default_factory=Claiming)
    started_at: float = field(default_factory=clock.now)
    instance: str = field(default_factory=clock.new_uuid)
    gateway: Gateway | None = None
    _told: asyncio.Queue[Ending] = field(default_factory=asyncio.Queue)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    async def open(cls, home: ControlHome, lineage: str, settings: GatewaySettings, timing: Timing) -> Plane:
        """Read everything from the folder. Nothing acts yet."""
        certificates = _certificates(home, settings)
        certificates.ensure(names_of(settings), now=clock.now())
        tls = certificates.server_context()
        database = Database.open(home.database)
        try:
            store = ControlStore(database)
            fresh = {"control_plane_id": clock.new_id("cp"), "lineage": lineage, "epoch": "1"}
            identity = await store.identity(fresh)
            await _first_keys(home, SqliteKeyStore(database))
            seal = Seal.kept_in(home.secrets_key)
            secrets = SecretStore(database, seal)
            access = ensure_access_key(home.access_key)
            host = machines_of(home)
            host.reveal, host.identify = secrets.reveal, identities(seal)
            world = World(store, since=clock.now())
            world.load()
            host.recorded = world.machine_of
            dispatcher = Dispatcher(
                SqliteRequestStore(database),
                on_demand=lambda endpoint: controller.wake(),
                on_suspect=lambda runner_id, reason: controller.following.suspect(runner_id, reason),  # noqa: PLW0108 - made below
            )
            controller = Controller(world, dispatcher, host, timing)
            acts = Acts(controller, secrets)
            controller.chores.append(acts.forget_versions)
            operations = Operations(controller.world, acts)
            return cls(
                home,
                settings,
                identity,
                certificates,
                tls,
                database,
                controller,
                operations,
                host,
                dispatcher,
                access,
            )
        except BaseException:
            database.close()
            raise

    async def start(
        self, listening: socket.socket, ownership: Ownership, checked: Callable[[], None] | None = None
    ) -> None:
        """Take the machine, adopt what runs, serve, and announce it.

        With `checked` the gateway is first looked at where no caller can reach it; it is called once that went well.

        Raises:
            ClaimRefused: another control plane has the machine.
        """
        self.identity = await claim_machine(self.host, self.controller.world.store, self.identity, self.claiming)
        self.controller.fleet = self._fleet()
        self.controller.room.remember_spending(await self.controller.world.store.identity({}))
        keys = SqliteKeyStore(self.database)
        account = Account(self.controller, self.operations, self.dispatcher.queue_length)
        changes = Changes(
            self.controller,
            account,
            keys,
            self.operations.acts.secrets,
            self.host.bundles,
            self.dispatcher.store,
            self.tell,
            Once(self.controller.world.store),
        )
        admin = Admin(
            self.controller, self.operations, account, changes, self.identity, self.dispatcher.unfinished, self._about
        )
        await self.dispatcher.recover()
        self.controller.adoption.lineage = self.identity["lineage"]
        self.controller.adoption.rolled_back = ROLLED_BACK in self.identity
        await self.controller.adopt()
        port = int(listening.getsockname()[1])
        self.settings = replace(self.settings, port=port)
        self.home.keep_gateway_settings(self.settings)
        self.operations.url = self.settings.url(host_name(), port)

        async def look(port: int) -> None:
            await self.check(port)
            if checked:
                checked()

        self.gateway = await start_gateway(
            GatewayConfig(host=self.settings.listen, port=port, ssl=self.tls),
            self.dispatcher,
            keys=keys,
            admin=admin,
            logs_of=self.host.logs_of,
            listening=listening,
            before_listening=look if checked else None,
        )
        self.operations.resume()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self.controller.run(), name="controller"),
            loop.create_task(self._stop_when_fenced(), name="fence"),
            loop.create_task(self._renew(), name="certificate"),
            loop.create_task(self._watch_folder(ownership), name="folder"),
        ]
        self.home.announce(Endpoint(self.local_url, os.getpid(), __version__))
        tell_systemd(os.environ)
        log.info("falplan %s serves %s from %s", this_release(), self.operations.url, self.home.folder)

    def _fleet(self) -> Fleet:
        """The machines that it bought, and the regions where it may buy others."""
        controller = self.controller
        tenancy = HostTenancy(self.host, controller.world, controller.ending)
        fleet = Fleet(
            FleetStore(self.database),
            tenancy,
            self.identity["lineage"],
            self.identity["control_plane_id"],
            controller.wake,
            access=self.access,
            retired=self.identity.get(RETIRED, "").split(),
            budgets=lambda: controller.room.spending.budgets.regions,
            seller_of=seller_of,
        )
        fleet.load()
        fleet.configure(markets_of(cast("JsonObject", self.host.regions)))
        return fleet

    @property
    def local_url(self) -> str:
        """Where processes of this machine reach it."""
        return self.settings.local_url(self.settings.port)

    async def check(self, port: int) -> None:
        """Look whether it answers on a port of this machine.

        Raises:
            OSError, aiohttp.ClientError, TimeoutError: it does not.
        """
        timeout = aiohttp.ClientTimeout(total=20)
        name = self.name() or LOOPBACK
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.get(f"https://{LOOPBACK}:{port}/health", ssl=self.trust(), server_hostname=name),
        ):
            pass

    def trust(self) -> ssl.SSLContext:
        """For connections from this machine to this gateway."""
        return ssl.create_default_context(cafile=str(self.home.trust))

    def name(self) -> str | None:
        """The name that the certificate carries, if it is not the address."""
        return self.settings.hostname if self.settings.cert else None

    def not_replaced(self, because: str, tried: int) -> None:
        """A successor did not take over."""
        self.tried, self.failed = tried, because

    def tell(self, ending: Ending) -> None:
        """Ask it to end."""
        self._told.put_nowait(ending)

    async def told(self) -> Ending:
        """Wait until somebody asks it to end."""
        return await self._told.get()

    async def stop(self, how: Stop) -> None:
        """End it: finish what is in flight, stop the runners or leave them, close everything."""
        await self._quiet()
        if self.gateway:
            await self.gateway.stop(grace=2.0 if how.runners else 10.0)
        await self.controller.finish_starts()
        if how.runners:
            await self.controller.stop_all()
            if self.controller.fleet is not None:
                await self.controller.fleet.abandon()
        if how.remove:
            self.give_up_claim()
        self.close()
        if how.runners:
            self.home.remove_remains()
        if self.controller.fenced:
            raise Fenced("Another control plane took this machine", self.controller.fenced)

    def give_up_claim(self) -> None:
        """Its runners are gone, and its data go now."""
        home = str(self.home.folder.resolve())
        release_claim(self.host.here.shell, self.host.here.root, lineage=self.identity["lineage"], home=home)

    async def give_way(self) -> Move:
        """Stop acting and let go of the database; connections stay open until `linger`."""
        assert self.gateway is not None  # noqa: S101 - it was started
        move = Move(self.local_url, self.trust(), self.name())
        await self._quiet()
        await self.gateway.give_way(move, SETTLE)
        await self.operations.cancel()
        await self.controller.let_go()
        self.close()
        return move

    async def linger(self, move: Move) -> None:
        """After giving way: serve open connections to their end."""
        assert self.gateway is not None  # noqa: S101 - it was started
        await self.gateway.linger(move, IDLE, LINGER)

    def close(self) -> None:
        """Let go of everything but open connections."""
        if self.controller.fleet is not None:
            self.controller.fleet.close()
        self.host.close()
        self.database.close()

    async def _quiet(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stop_when_fenced(self) -> None:
        await self.controller.until_fenced()
        await asyncio.sleep(TELLING)
        self.tell(Stop())

    async def _renew(self) -> None:
        """See whether the certificate runs out or was replaced; new connections get the new one, open ones go on."""
        pause = LOOK_AT_FILES if isinstance(self.certificates, GivenCertificate) else RENEW
        while True:
            await asyncio.sleep(float(os.environ.get("FALPLAN_LOOK_AT_FILES") or pause))
            try:
                because = self.certificates.ensure(names_of(self.settings), now=clock.now())
                if because:
                    self.certificates.reload(self.tls)
                    log.info("the gateway has a new certificate: %s", because)
            except (FalplanError, OSError) as exc:
                log.error("the gateway keeps its certificate: %s", exc)

    async def _watch_folder(self, ownership: Ownership) -> None:
        """A control plane without its folder has lost its memory: it ends its runners and itself."""
        while self.home.is_still_there(ownership):  # noqa: ASYNC110 - a deleted folder tells nobody
            await asyncio.sleep(1)
        log.error("%s is gone: stopping all runners, then ending", self.home.folder)
        self.tell(Stop(runners=True))

    def _about(self) -> JsonObject:
        return {
            "release": str(this_release()),
            "instance": self.instance,
            "url": self.operations.url,
            "ca": self.certificates.given_ca,
            "host": host_name(),
            "machine": machine_id(),
            "home": str(self.home.folder),
            "access": self.access,
            "settings": asdict(self.settings),
            "started_at": self.started_at,
            "successors": {"tried": self.tried, "failed": self.failed},
        }


def _certificates(home: ControlHome, settings: GatewaySettings) -> Certificates | GivenCertificate:
    if settings.cert:
        from pathlib import Path

        return GivenCertificate(Path(settings.cert), Path(settings.key), home.tls)
    return Certificates(home.tls)


async def _first_keys(home: ControlHome, keys: KeyStore) -> None:
    """The keys of the user who runs this: one to administer, one to call with."""
    for name, scope in (("admin", KeyScope.ADMIN), ("api", KeyScope.API)):
        kept = home.key(name)
        if kept is None or keys.verify(kept) is None:
            _, secret = await keys.create(scope, f"{name} key of {_user()}")
            home.keep_key(name, secret)


def _user() -> str:
    """Who runs this, for people: who a change is put down to in the audit log."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as in some containers
        name = f"uid {os.getuid()}"
    return f"{name}@{host_name()}"


__all__ = ["HandOver", "Plane", "Stop"]
