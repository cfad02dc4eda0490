"""Starts, finds and stops the control plane on this machine. Everything it does may be repeated."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from falplan import clock
from falplan.core.errors import FalplanError
from falplan.core.values import JsonObject
from falplan.engine.client import AdminClient, Answered, Unreachable, connect
from falplan.sdk.failpoints import fp
from falplan.stores.home import ControlHome

START_TIMEOUT = 60.0
STOP_TIMEOUT = 120.0


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


def _announced(home: ControlHome) -> AdminClient | None:
    at, key = home.endpoint(), home.key("admin")
    return connect(at.url, key, home.tls / "ca.pem") if at and key else None


def start(
    home: ControlHome, arguments: list[str], environ: Mapping[str, str], progress: Callable[[str], None]
) -> AdminClient:
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
        process = _spawn(home, arguments, environ)
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


def _spawn(home: ControlHome, arguments: list[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    descriptor = os.open(home.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "falplan", "serve", "--home", str(home.folder), *arguments],
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


def leave_port(home: ControlHome, port: int, progress: Callable[[str], None]) -> None:
    """End a control plane that listens on another port than this one. Its runners go on; requests in flight are finished first."""
    client = reach(home)
    if client is None or client.url.endswith(f":{port}"):
        return
    progress(f"moving from {client.url} to port {port}")
    try:
        client.send("POST", "/shutdown", {"stop_runners": False})
    except (Unreachable, Answered):
        progress("the control plane does not answer")
    _wait_until_dead(home)


def stop(home: ControlHome, progress: Callable[[str], None]) -> None:
    """End the control plane and its runners. A hung one is killed; its runners are then the caller's to reap.

    Raises:
        FalplanError: it could not be ended.
    """
    client = reach(home)
    if client:
        try:
            client.send("POST", "/shutdown", {"stop_runners": True})
        except (Unreachable, Answered):
            progress("the control plane does not answer")
    _wait_until_dead(home)


def reap(home: ControlHome, environ: Mapping[str, str]) -> None:
    """End runners that a dead control plane left behind: whatever on this machine carries this folder's mark."""
    if not home.folder.exists():
        return
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


def status_of(client: AdminClient) -> JsonObject:
    """Version, id and age of a control plane."""
    answer: JsonObject = client.get("/status")
    return answer
