"""`falplan serve`: runs the control plane until it is told to stop, or a successor takes over."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from falplan.cli.context import Options
from falplan.cli.garbage import collect_as_usual
from falplan.cli.project import open_here
from falplan.core.errors import ExitCode

if TYPE_CHECKING:
    from falplan.cli.claiming import Claiming
    from falplan.cli.plane import Plane
    from falplan.cli.successor import Predecessor
    from falplan.control.changes import HandOver
    from falplan.control.parts import Timing
    from falplan.stores.home import ControlHome, GatewaySettings, Ownership

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
@click.option("--listen", "address", default="", help="Listen at this address; 127.0.0.1 by default.")
@click.option("--hostname", default="", help="The name that callers use.")
@click.option("--replaces", default="", help="The id of the control plane whose place this one takes.")
@click.option("--end", is_flag=True, help="Serve nothing: stop the runners of a control plane that is gone.")
@click.option("--restore", type=click.Path(path_type=Path), hidden=True, help="Serve nothing: restore this backup.")
@click.option("--at", default="", hidden=True, help="The time that --restore names the old data by.")
@click.option("--asleep", is_flag=True, hidden=True, help="Serve nothing: say what the database tells.")
@click.option(
    "--handover", default="", hidden=True, help="Descriptors that the control plane before this one passed on."
)
@click.pass_obj
def command(
    options: Options,
    folder: Path | None,
    lineage: str,
    project: str,
    port: int,
    address: str,
    hostname: str,
    replaces: str,
    end: bool,
    restore: Path | None,
    at: str,
    asleep: bool,
    handover: str,
) -> int:
    """Run the control plane in the foreground: gateway, queue and controller. `falplan apply` starts it by itself."""
    from falplan.cli.successor import Predecessor

    home, lineage = _home(options, folder, lineage)
    if asleep:
        return _tell(home)
    _prepare_process(home)
    before = Predecessor.parse(handover) if handover else None
    with home.owned(before.lock if before else None) as ownership:
        if restore is not None:
            return _restore(home, lineage, restore, at)
        if end:
            return asyncio.run(_end(home, lineage))
        settings = home.gateway_settings()
        settings = replace(
            settings,
            port=port or settings.port,
            listen=address or settings.listen,
            hostname=hostname or settings.hostname,
        )
        return _run(home, lineage, settings, options, ownership, before, project=project, replaces=replaces)


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


def _prepare_process(home: ControlHome) -> None:
    """Nothing that others could read: no core dumps, private files; as many sockets as the system lets us have."""
    from falplan.control.logfile import log_to_stderr_or

    collect_as_usual()
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    log_to_stderr_or(home.log)


def _run(
    home: ControlHome,
    lineage: str,
    settings: GatewaySettings,
    options: Options,
    ownership: Ownership,
    before: Predecessor | None,
    *,
    project: str,
    replaces: str,
) -> int:
    import uvloop

    # All of it: once the other one gives way, nothing may fail for lack of a module. Nor later on: `pip install -U` replaces
    # the files below a control plane that runs.
    from falplan.cli import claiming, plane, successor  # noqa: F401
    from falplan.cli.listening import listen
    from falplan.control.ledger import Process
    from falplan.stores.backup import write  # noqa: F401
    from falplan.stores.runtime import copies  # noqa: F401

    listening = None
    if before is not None:
        # One that starts by itself opens its database next, and finds out whether it needs them: they take as long as the rest.
        from falplan.stores.runtime import migrations  # noqa: F401

        before.say("loaded")
        if not before.wait_for_go():
            ownership.passed_on = True  # it goes on itself: what it announced stays
            return ExitCode.FAILED
        listening = socket.socket(fileno=before.listening)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # The one before is this one's parent; should it end meanwhile, there is nobody to be told apart from.
        succeeds = Process.of(os.getppid()) if before is not None else None
        claim = claiming.Claiming(project, replaces, succeeds)
        serving = _Serving(home, lineage, settings, _timing(options), ownership, listening or listen(settings), claim)
        return runner.run(serving.run(before))


class _Serving:
    """Control planes of one folder in this process, one after the other: a new one is made when a successor fails."""

    def __init__(
        self,
        home: ControlHome,
        lineage: str,
        settings: GatewaySettings,
        timing: Timing,
        ownership: Ownership,
        listening: socket.socket,
        claiming: Claiming,
    ) -> None:
        self.home, self.lineage, self.settings, self.timing = home, lineage, settings, timing
        self.ownership, self.listening, self.claiming = ownership, listening, claiming
        self.lingering: list[asyncio.Task[None]] = []

    async def run(self, before: Predecessor | None) -> int:
        from falplan.cli.plane import Plane, Stop

        plane = await Plane.open(self.home, self.lineage, self.settings, self.timing)
        plane.claiming = self.claiming
        await plane.start(self.listening, self.ownership, before.took_over if before else None)
        if sys.stderr.isatty():
            click.echo(f"Serving {plane.operations.url}; Ctrl-C stops it. Runners go on without it.", err=True)
        self._listen_to_signals(plane)
        while True:
            ending = await plane.told()
            if isinstance(ending, Stop):
                await plane.stop(ending)
                if ending.remove:
                    self.home.remove()
                return ExitCode.DONE
            successor = await self._hand_over(plane, ending)
            if successor is None:
                return ExitCode.DONE
            plane = successor
            self._listen_to_signals(plane)

    async def _hand_over(self, plane: Plane, wanted: HandOver) -> Plane | None:
        """Let another process take over. None: it has. Otherwise the plane that serves on, which may be the same."""
        from falplan.cli.plane import Plane
        from falplan.cli.successor import HandoverFailed, Successor
        from falplan.stores.runtime.copies import restore_before

        log.info("handing over to %s", wanted.python)
        argv = (wanted.python, "-m", "falplan", "serve", "--home", str(self.home.folder), "--lineage", self.lineage)
        try:
            it = await Successor.start(
                (*argv, "--project", wanted.project), self.listening, self.ownership.descriptor, self.home.log
            )
        except HandoverFailed as exc:
            log.error("%s: %s", exc.summary, exc.because)
            plane.not_replaced(exc.because, plane.tried + 1)
            return plane
        move = await plane.give_way()
        try:
            await it.take_over()
        except HandoverFailed as exc:
            log.error("%s: %s", exc.summary, exc.because)
            restore_before(self.home.database)  # what it made of the database; nobody was answered from that
            again = await Plane.open(self.home, self.lineage, self.settings, self.timing)
            again.not_replaced(exc.because, plane.tried + 1)
            again.claiming = self.claiming
            await again.start(self.listening, self.ownership)
            move.arrived()
            self.lingering.append(asyncio.get_running_loop().create_task(plane.linger(move)))
            return again
        self.ownership.pass_on()
        self.listening.close()  # whoever follows a successor that died listens on this port, too
        move.arrived()
        log.info("a successor serves; finishing what is in flight")
        await plane.linger(move)
        return None

    def _listen_to_signals(self, plane: Plane) -> None:
        from falplan.cli.plane import Stop

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, plane.tell, Stop())


def _timing(options: Options) -> Timing:
    from falplan.control.parts import Timing

    text = options.environ.get("FALPLAN_BACKOFF")
    return Timing(backoff=tuple(float(s) for s in text.split(","))) if text else Timing()


def _tell(home: ControlHome) -> int:
    """Print what the database of a control plane that is stopped tells, for whoever installed it here. Ids come by standard input."""
    from falplan.stores.runtime.asleep import known_operations_in, secrets_in, unfinished_in

    known = known_operations_in(home.database, json.loads(sys.stdin.read() or "[]"))
    told = {"unfinished": unfinished_in(home.database), "secrets": secrets_in(home.database), "operations": known}
    click.echo(json.dumps(told))
    return ExitCode.DONE


def _restore(home: ControlHome, lineage: str, source: Path, at: str) -> int:
    """Restore a backup that `falplan restore` brought here. Prints what it held."""
    from falplan.core.backups import manifest_to_json
    from falplan.stores.backup.restore import restore_backup

    manifest, aside = restore_backup(home, source, lineage, at=at)
    click.echo(json.dumps({"manifest": manifest_to_json(manifest), "aside": str(aside or "")}))
    return ExitCode.DONE


async def _end(home: ControlHome, lineage: str) -> int:
    """Stop whatever runs on this machine in the name of a control plane that is gone, and give up its claim."""
    from falplan.control.ledger import release_claim
    from falplan.control.machines import machines_of

    host = machines_of(home)
    ids = await host.strays(set())
    for runner_id in ids:
        await host.kill(runner_id)
    release_claim(host.here.shell, host.here.root, lineage=lineage, home=str(home.folder.resolve()))
    host.close()
    click.echo(len(ids))
    return ExitCode.DONE
