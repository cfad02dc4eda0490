"""`falplan serve`: puts store, controller and gateway together, and runs them until told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import resource
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan import __version__, clock
from falplan.cli.context import Options
from falplan.cli.project import open_here
from falplan.core.errors import ExitCode, FalplanError

if TYPE_CHECKING:
    from falplan.control.controller import Timing
    from falplan.control.machines import LocalHost
    from falplan.stores.certificates import Certificates
    from falplan.stores.home import ControlHome
    from falplan.stores.runtime.interfaces import KeyStore

log = logging.getLogger("falplan.serve")


@click.command()
@click.option(
    "--home",
    "folder",
    type=click.Path(path_type=Path),
    help="The control plane's folder; the project's own by default.",
)
@click.option("--lineage", default="", help="The lineage that the folder belongs to.")
@click.option("--project", default="", help="The project's name, for messages.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Listen there; chosen once and kept by default.")
@click.option("--end", is_flag=True, help="Serve nothing: stop the runners of a control plane that is gone.")
@click.pass_obj
def command(options: Options, folder: Path | None, lineage: str, project: str, port: int, end: bool) -> int:
    """Run the control plane in the foreground: gateway, queue and controller. `falplan apply` starts it by itself."""
    home, lineage = _home(options, folder, lineage)
    _prepare_process()
    with home.owned():
        if end:
            return asyncio.run(_end(home))
        return _run(home, lineage, port, options)


def _home(options: Options, folder: Path | None, lineage: str) -> tuple[ControlHome, str]:
    from falplan.stores.home import ControlHome

    if folder is not None:
        return ControlHome(folder), lineage or folder.name
    project = open_here(options)
    state = project.read_state()
    if state.serial == 0:
        with project.store.locked("serve"):
            state = project.store.save(state)
    return project.home(state.lineage), state.lineage


def _prepare_process() -> None:
    """Nothing that others could read: no core dumps, private files; as many sockets as the system lets us have."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _run(home: ControlHome, lineage: str, port: int, options: Options) -> int:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(home, lineage, port, options))


async def _serve(home: ControlHome, lineage: str, port: int, options: Options) -> int:
    from falplan.control.admin import Admin
    from falplan.control.controller import Controller
    from falplan.control.operations import Operations
    from falplan.control.world import World
    from falplan.gateway.dispatch import Dispatcher
    from falplan.gateway.server import GatewayConfig, start_gateway
    from falplan.stores.certificates import Certificates
    from falplan.stores.home import Endpoint
    from falplan.stores.runtime.control import ControlStore
    from falplan.stores.runtime.database import Database
    from falplan.stores.runtime.keys import SqliteKeyStore
    from falplan.stores.runtime.requests import SqliteRequestStore

    certificates = Certificates(home.tls)
    certificates.ensure(_host_names(), now=clock.now())
    tls = certificates.server_context()
    database = Database.open(home.database)
    try:
        store = ControlStore(database)
        identity = await store.identity({"control_plane_id": clock.new_id("cp"), "lineage": lineage, "epoch": "1"})
        keys = SqliteKeyStore(database)
        await _first_keys(home, keys)
        host = _local_host(home)
        world = World(store)
        world.load()
        dispatcher = Dispatcher(
            SqliteRequestStore(database),
            on_demand=lambda endpoint: controller.wake(),
            on_suspect=lambda runner_id, reason: controller.suspect(runner_id, reason),  # noqa: PLW0108 - made below
        )
        controller = Controller(world, dispatcher, host, _timing(options))
        operations = Operations(controller)
        stopping: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        admin = Admin(
            controller, operations, keys, host.bundles, identity, _once(stopping), dispatcher.queue_length, clock.now()
        )
        await dispatcher.recover()
        await controller.adopt()
        config = GatewayConfig(port=_port(home, port), ssl=tls)
        try:
            gateway = await start_gateway(config, dispatcher, keys=keys, admin=admin, logs_of=host.logs_of)
        except OSError as exc:
            raise FalplanError("The gateway can't listen", f"127.0.0.1:{config.port}: {exc.strerror}") from exc
        operations.url = gateway.url
        _keep_port(home, gateway.port)
        operations.resume()
        driving = asyncio.create_task(controller.run(), name="controller")
        renewing = asyncio.create_task(_renew(certificates, tls), name="certificate")
        home.announce(Endpoint(gateway.url, os.getpid(), __version__))
        log.info("falplan %s serves %s from %s", __version__, gateway.url, home.folder)
        if sys.stderr.isatty():
            click.echo(f"Serving {gateway.url}; Ctrl-C stops it. Runners go on without it.", err=True)
        stop_runners = await _until_told(stopping)
        driving.cancel()
        renewing.cancel()
        await asyncio.gather(driving, renewing, return_exceptions=True)
        await gateway.stop(grace=2.0 if stop_runners else 10.0)
        await controller.finish_starts()
        if stop_runners:
            await controller.stop_all()
        host.close()
    finally:
        database.close()
    return ExitCode.DONE


def _host_names() -> list[str]:
    return [platform.node()] if platform.node() else []


async def _renew(certificates: Certificates, context: ssl.SSLContext) -> None:
    """Twice a day, see whether the certificate runs out; new connections get the new one, open ones go on."""
    while True:
        await asyncio.sleep(12 * 3600)
        because = certificates.ensure(_host_names(), now=clock.now())
        if because:
            certificates.reload(context)
            log.info("the gateway has a new certificate: %s", because)


async def _until_told(stopping: asyncio.Future[bool]) -> bool:
    """Wait for a signal (False: runners go on) or the admin interface (True: runners stop)."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _once(stopping), False)
    return await stopping


def _once(future: asyncio.Future[bool]) -> Callable[[bool], None]:
    """Tells a future once; later tellings don't count."""

    def tell(stop_runners: bool) -> None:
        if not future.done():
            future.set_result(stop_runners)

    return tell


def _local_host(home: ControlHome) -> LocalHost:
    from falplan import registry
    from falplan.control.bundle_store import BundleStore
    from falplan.control.machines import LocalHost

    provider = registry.provider_of("local", "local", {})
    shell = provider.shell(provider.machines()[0])
    return LocalHost(home, shell, BundleStore(home.bundles))


async def _first_keys(home: ControlHome, keys: KeyStore) -> None:
    """The keys of the user who runs this: one to administer, one to call with."""
    from falplan.core.runtime import KeyScope

    for name, scope in (("admin", KeyScope.ADMIN), ("api", KeyScope.API)):
        kept = home.key(name)
        if kept is None or keys.verify(kept) is None:
            _, secret = await keys.create(scope, f"{name} key of the user who started the control plane")
            home.keep_key(name, secret)


def _timing(options: Options) -> Timing:
    from falplan.control.controller import Timing

    text = options.environ.get("FALPLAN_BACKOFF")
    return Timing(backoff=tuple(float(s) for s in text.split(","))) if text else Timing()


def _port(home: ControlHome, wanted: int) -> int:
    from falplan.stores.home import read_json

    kept = read_json(home.settings) or {}
    return wanted or int(str(kept.get("port", 0)))


def _keep_port(home: ControlHome, port: int) -> None:
    from falplan.stores.files import write_whole

    write_whole(home.settings, json.dumps({"port": port}).encode(), mode=0o600, point="port")


async def _end(home: ControlHome) -> int:
    """Stop whatever runs on this machine in the name of a control plane that is gone."""
    host = _local_host(home)
    ids = await host.strays(set())
    for runner_id in ids:
        await host.kill(runner_id)
    host.close()
    click.echo(len(ids))
    return ExitCode.DONE
