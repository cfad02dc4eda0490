"""Starts, finds and stops the control plane on this machine. Everything it does may be repeated."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.values import Json, JsonObject
from falplan.engine.client import AdminClient, Answered, Unreachable, connect
from falplan.sdk.failpoints import fp
from falplan.stores.home import ControlHome, GatewaySettings
from falplan.stores.release import Release, this_release

START_TIMEOUT = 60.0
STOP_TIMEOUT = 120.0
REPLACE_TIMEOUT = 180.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose control plane it is. `replaces` is the id of the one that state says was here, if any."""

    lineage: str
    project: str
    replaces: str = ""

    def arguments(self) -> list[str]:
        """Those of `falplan serve`."""
        more = ["--replaces", self.replaces] if self.replaces else []
        return ["--lineage", self.lineage, "--project", self.project, *more]


def reach(home: ControlHome, patience: float = START_TIMEOUT) -> AdminClient | None:
    """A client for the control plane that holds the folder; None if none runs. Its answers are not awaited.

    One that holds the folder and takes no connection is starting or ending: it is given `patience` seconds to do either.
    What an earlier one announced is still there meanwhile, so only a connection tells.
    """
    give_up = clock.monotonic() + patience
    client = None
    while home.is_alive():
        client = _announced(home)
        if (client and client.listens()) or clock.monotonic() > give_up:
            return client
        time.sleep(0.05)
    return None


def is_ending(home: ControlHome, client: AdminClient, within: float = 1.0) -> bool:
    """Whether a control plane that did not answer is ending: one that was killed takes connections for some ms and resets them.

    A hung one goes on taking them.
    """
    give_up = clock.monotonic() + within
    while home.is_alive() and client.listens():
        if clock.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def _announced(home: ControlHome) -> AdminClient | None:
    at, key = home.endpoint(), home.key("admin")
    if at is None or key is None:
        return None
    settings = home.gateway_settings()
    return connect(at.url, key, home.trust, name=settings.hostname if settings.cert else "")


def ensure(
    home: ControlHome, settings: GatewaySettings, whose: Whose, environ: Mapping[str, str], progress: Say
) -> AdminClient:
    """The running control plane, of this falplan and with these settings: started, restarted or upgraded as needed.

    Raises:
        FalplanError: it did not start, or its successor did not; the detail holds the end of its log.
    """
    home.keep_gateway_settings(settings)
    client = _answering(home)
    if client is None:
        return start(home, whose, environ, progress)
    status: Any = client.get("/status")
    match needed(status, settings, this_release()):
        case Need.MOVE:
            progress(f"moving from {client.url}")
            _end_without_runners(home, client, progress)
            return start(home, whose, environ, progress)
        case Need.REPLACE:
            return _replace(home, client, this_release(), whose, environ, progress)
    return client


class Need(Enum):
    """What a control plane that runs needs, to be as it is wanted."""

    NOTHING = auto()
    MOVE = auto()  #: it listens elsewhere: it is ended, and started again
    REPLACE = auto()  #: another one takes over beside it


def needed(status: Any, settings: GatewaySettings, ours: Release) -> Need:
    """What a control plane of this status needs to have these settings, and not to be older than `ours`."""
    runs, listens = Release.parse(status["release"]), status["settings"]
    if (settings.port not in (0, listens["port"])) or settings.listen != listens["listen"]:
        return Need.MOVE
    differs = (settings.hostname, settings.cert, settings.key) != (listens["hostname"], listens["cert"], listens["key"])
    return Need.REPLACE if differs or (runs != ours and not ours.is_older_than(runs)) else Need.NOTHING


def _replace(
    home: ControlHome,
    client: AdminClient,
    ours: Release,
    whose: Whose,
    environ: Mapping[str, str],
    progress: Say,
) -> AdminClient:
    """Let the control plane start its successor beside itself, and hand everything over to it. Runners go on."""
    before: Any = client.get("/status")
    progress(f"replacing falplan {before['release']} by {ours}, side by side")
    argv = [sys.executable, "-m", "falplan", "serve", "--home", str(home.folder), *whose.arguments()]
    # The argv is for control planes older than `python`, which they do not know.
    body: JsonObject = {"python": sys.executable, "project": whose.project, "argv": list[Json](argv)}
    client.send("POST", "/handover", body, operation=clock.new_uuid())
    give_up = clock.monotonic() + REPLACE_TIMEOUT
    while clock.monotonic() < give_up:
        found = reach(home, patience=5)
        try:
            status: Any = found.get("/status", timeout=5) if found else None
        except (Unreachable, Answered):
            status = None
        if status and status["successors"]["tried"] > before["successors"]["tried"]:
            because = (
                f"{status['successors']['failed']}\nThe old one serves on. The end of {home.log}:\n{_tail(home.log)}"
            )
            raise FalplanError("The control plane could not be replaced", because)
        if found and status and status["instance"] != before["instance"]:
            return found
        if found is None and not home.is_alive():
            progress("both have ended: starting it again")
            return start(home, whose, environ, progress)
        time.sleep(0.1)
    raise FalplanError("The control plane was not replaced", f"Not within {REPLACE_TIMEOUT:g} s. Its log: {home.log}")


def start(home: ControlHome, whose: Whose, environ: Mapping[str, str], progress: Say) -> AdminClient:
    """The running control plane, started detached if there is none.

    Raises:
        FalplanError: it ended before it answered; the detail holds the end of its log.
    """
    client = _answering(home)
    if client:
        return client
    home.make()
    process = None
    if not home.is_alive():
        progress("starting the control plane")
        process = _spawn(home, whose, environ)
        fp("gateway.start.after_spawn")
    give_up = clock.monotonic() + START_TIMEOUT
    while clock.monotonic() < give_up:
        client = _answering(home)
        if client:
            return client
        if process and process.poll() is not None and not home.is_alive():
            break
        time.sleep(0.05)
    raise FalplanError(
        "The control plane did not start",
        f"The end of {home.log}:\n{_tail(home.log)}\nRun `falplan serve` to see it start.",
    )


def _spawn(home: ControlHome, whose: Whose, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    descriptor = os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "falplan", "serve", "--home", str(home.folder), *whose.arguments()],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env=dict(environ),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def _answering(home: ControlHome) -> AdminClient | None:
    client = reach(home, patience=0)
    try:
        if client:
            client.get("/status", timeout=5)
        return client
    except (Unreachable, Answered):
        return None


def _end_without_runners(home: ControlHome, client: AdminClient, progress: Say) -> None:
    """End a control plane. Its runners go on; requests in flight are finished first."""
    try:
        client.send("POST", "/shutdown", {"stop_runners": False}, operation=clock.new_uuid())
    except (Unreachable, Answered):
        progress("the control plane does not answer")
    _wait_until_dead(home)


def end_elsewhere(client: AdminClient, progress: Say) -> None:
    """End a control plane that lives elsewhere, with its runners and its data. One that is gone is no error."""
    try:
        client.send("POST", "/shutdown", {"stop_runners": True, "remove": True}, operation=clock.new_uuid())
    except Unreachable:
        return
    give_up = clock.monotonic() + STOP_TIMEOUT
    while client.listens():
        if clock.monotonic() > give_up:
            raise FalplanError(
                "The control plane does not stop", f"{client.url} still answers after {STOP_TIMEOUT:g} s."
            )
        time.sleep(0.1)
    progress("the control plane has ended")


def stop(home: ControlHome, progress: Say) -> None:
    """End the control plane and its runners. A hung one is killed; its runners are then the caller's to reap.

    Raises:
        FalplanError: it could not be ended.
    """
    client = reach(home)
    if client is None and not home.is_alive():
        return
    told = False
    if client and answers(home):
        try:
            client.send("POST", "/shutdown", {"stop_runners": True}, operation=clock.new_uuid())
            told = True
        except (Unreachable, Answered):
            progress("the control plane does not answer")
    if not told:
        kill(home, progress)
    _wait_until_dead(home)


def answers(home: ControlHome, within: float = 10.0) -> bool:
    """Whether the control plane that holds the folder answers; one that hangs does not."""
    client = reach(home, patience=within)
    try:
        return client is not None and client.get("/status", timeout=within) is not None
    except Unreachable:
        return False
    except Answered:
        return True


def kill(home: ControlHome, progress: Say) -> None:
    """SIGKILL to whatever holds the folder's lock, and to nothing else: the lock's open file tells, never a number alone."""
    for pid in holders(home):
        progress(f"killing the control plane (pid {pid}), which does not answer")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def holders(home: ControlHome) -> list[int]:
    """Processes of this user that have the folder's lock open. Empty where the system does not tell (no /proc)."""
    try:
        wanted = (home.folder / "lock").stat()
    except OSError:
        return []
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for link in (process / "fd").iterdir():
                at = link.stat()
                if (at.st_dev, at.st_ino) == (wanted.st_dev, wanted.st_ino) and int(process.name) != os.getpid():
                    found.append(int(process.name))
                    break
    return found


def reap(home: ControlHome, environ: Mapping[str, str]) -> None:
    """End runners that a dead control plane left behind, whatever on this machine carries this folder's mark; give up its claim.

    The folder may be gone already: it is made again for as long as that takes.
    """
    argv = [sys.executable, "-m", "falplan", "serve", "--home", str(home.folder), "--end"]
    done = subprocess.run(argv, capture_output=True, text=True, env=dict(environ), cwd="/", check=False)
    if done.returncode != 0:
        raise FalplanError("Runners could not be stopped", done.stderr.strip()[-2000:])


def _wait_until_dead(home: ControlHome) -> None:
    give_up = clock.monotonic() + STOP_TIMEOUT
    while home.is_alive():
        if clock.monotonic() > give_up:
            at = home.endpoint()
            raise FalplanError(
                "The control plane does not stop",
                f"It holds {home.folder / 'lock'} (pid {at.pid if at else 'unknown'}) and did not end within {STOP_TIMEOUT:g} s. "
                f"End that process, then run the command again. Its log: {home.log}",
            )
        time.sleep(0.05)


def _tail(path: Path, lines: int = 15) -> str:
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"
