"""Backups of a project's control plane: made while it runs or while it is stopped, restored while it is stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from falplan import clock
from falplan.core.backups import Manifest, parse_manifest
from falplan.core.errors import FalplanError, Locked, Refused
from falplan.core.plan import Presence
from falplan.core.state import State
from falplan.core.values import JsonObject
from falplan.engine.client import Answered
from falplan.engine.dead import without_dead
from falplan.engine.project import Project
from falplan.engine.provided import pinned
from falplan.engine.reaching import Where, there_by_spec, there_of
from falplan.engine.ways import machine_of
from falplan.sdk.failpoints import fp
from falplan.stores.backup.read import check_backup
from falplan.stores.backup.restore import restore_backup
from falplan.stores.backup.write import write_backup
from falplan.stores.files import sync_folder
from falplan.stores.home import ControlHome


def default_name(project: Project) -> str:
    """The name of a backup that was given none: the project and the time, in UTC."""
    return f"{project.spec.project}-{_time()}.tar.gz"


def make_backup(project: Project, target: Path) -> Manifest:
    """Write a backup of the project's control plane to a file: whole, checked, private from its first byte. Replaces an earlier one.

    Raises:
        FalplanError: nothing was applied, the control plane can't be reached, or the disk is full; an earlier file is untouched.
    """
    state = project.applied()
    reached = project.reach(state)
    if reached.client is not None:
        return _whole(target, lambda file: _downloaded(reached.client.download, file))  # type: ignore[union-attr]
    if reached.presence is not Presence.STOPPED:
        raise FalplanError("There is nothing to back up", reached.because)
    if reached.where is Where.HOST:
        detail = f"{reached.because}: `falplan apply` starts it. Its data lie there, in ~/.local/state/falplan/{state.lineage}."
        raise FalplanError("The control plane is stopped", detail)
    with project.home(state.lineage).owned():
        return _whole(target, lambda file: write_backup(project.home(state.lineage), file))


def _downloaded(download: Callable[[str, IO[bytes]], None], file: IO[bytes]) -> None:
    try:
        download("/backup", file)
    except Answered as exc:
        if exc.status != 404:
            raise
        detail = "It is of an older falplan. `falplan apply` upgrades it."
        raise FalplanError("The control plane makes no backups", detail) from exc


def _whole(target: Path, write: Callable[[IO[bytes]], object]) -> Manifest:
    temporary = target.with_name(f".{target.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                fp("backup.file.before_fsync")
                os.fsync(file.fileno())
            manifest = check_backup(temporary)  # nobody learns on the day of need that it can't be read
            fp("backup.file.before_rename")
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fp("backup.file.after_rename")
        sync_folder(target.parent)
    except OSError as exc:
        detail = f"{target}: {exc.strerror or exc}. Make room, or name another file."
        raise FalplanError("The backup could not be written", detail) from exc
    return manifest


def restore(project: Project, source: Path, dead: str = "") -> tuple[Manifest, Path | None]:
    """Put a backup in the place of the data of the project's stopped control plane. Returns what it held, and where the old data lies.

    `dead` is the id of one on another machine that is gone for good: its backup lives on here.

    Raises:
        Locked: a control plane runs. Refused: the backup can't be used here. Nothing was touched by either.
        FalplanError: the disk is full or failing; run it again.
    """
    state = project.store.read(project.spec.project)
    if state is None:
        raise Refused(
            "There is no state that the backup could belong to",
            f"{project.store.where} does not exist. Put the state of the project back first, then restore.",
        )
    known = without_dead(project, state, dead)
    if project.where(known) is Where.HOST:
        with project.store.locked("restore"):
            return _restore_there(project, known, source)
    if project.where(known) is not Where.HERE:
        detail = "The control plane lives elsewhere. Restore on the machine, and as the user, where it runs; or see --gateway-is-dead."
        raise Refused("The backup can't be restored from here", detail)
    home = project.home(state.lineage)
    with project.store.locked("restore"):
        _refuse_running(home)
        with home.owned():
            return restore_backup(home, source, state.lineage, at=_time())


def _restore_there(project: Project, state: State, source: Path) -> tuple[Manifest, Path | None]:
    """The same on the host that the control plane is to live on, where falplan is installed first if need be."""
    check_backup(source)  # before it travels
    host = str(project.spec.gateway.get("host") or "")
    there = there_of(project.spec, state, project.ways) or there_by_spec(project.spec, state, host, project.ways)
    if there is None or project.install is None:
        raise Refused(
            "The backup can't be restored from here", f"Nothing leads to {host or 'the host of the control plane'}."
        )
    seen: JsonObject = there.ask("claim", project=project.spec.project)
    if seen["alive"]:
        end = f"`systemctl stop` {seen['unit']}" if seen["kept"] else "its process"
        raise Locked(
            "The control plane runs",
            f"It would go on with data that are gone. End it on {there.at} ({end}), then restore.",
        )
    python = there.interpreter(seen)
    if python is None:
        machine = machine_of(project.spec, there.at, pinned(state))
        python = project.install(there.shell, str(seen["root"]), str(seen["platform"]), _silent, pushes=machine.pushes)
    manifest, aside = there.restore(seen, python, source, _time())
    return parse_manifest(manifest, str(source)), Path(aside) if aside else None


def _silent(line: str) -> None:
    """Nobody wants to see progress."""


def _refuse_running(home: ControlHome) -> None:
    if not home.is_alive():
        return
    at = home.endpoint()
    end = f"kill {at.pid}" if at else "its process"
    raise Locked(
        "The control plane runs",
        f"It would go on with data that are gone. End it ({end}), then restore: its runners go on meanwhile.",
    )


def _time() -> str:
    return clock.timestamp(clock.now())[:19].replace("-", "").replace(":", "").replace("T", "-")
