"""State that its store would not take: kept in a file until somebody pushes it. Knows no store."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from falplan.core.state import State, StateUnreadable, parse_state, render_state
from falplan.stores.files import write_whole
from falplan.stores.state.seal import Seal

FILE = "errored.json"
KIND = "state"
"""What a seal binds the file to: it is a snapshot as it would have been saved, and `falplan state push` reads it as one."""


@dataclass(frozen=True, slots=True)
class Errored:
    """A file with state that was not saved. `state.serial` is the one that it would have been saved with."""

    path: Path
    state: State


@dataclass(frozen=True, slots=True)
class Places:
    """Where such files may be, the best place first: the project's own folder, the folder for temporary files, the home."""

    folder: Path
    environ: Mapping[str, str]

    def of(self, lineage: str) -> list[Path]:
        """Files of one lineage. Those outside the project's folder lie in a folder that is this user's alone."""
        shared = [Path(self.environ.get("TMPDIR") or _temporary()) / f"falplan-{os.getuid()}"]
        if self.environ.get("HOME"):
            shared.append(Path(self.environ["HOME"]) / ".falplan")
        return [self.folder / FILE, *(f / f"errored-{lineage}.json" for f in shared)]


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # it tries to write there, which a disk that is read-only refuses
        return "/tmp"  # noqa: S108 - to look there, and for what is written below it to be refused by name


def content_of(state: State, seal: Seal) -> bytes:
    """What is written: the state as it would have been saved, sealed. `state.serial` is that of the last snapshot."""
    saved = replace(state, serial=state.serial + 1)
    return seal.seal(render_state(saved).encode(), kind=KIND, serial=saved.serial)


def write(places: Places, lineage: str, content: bytes) -> Path | None:
    """Write it, whole and for this user alone (0600), to the first place that takes it; None if none does.

    A file that is there is somebody's last resort, too: it is never written over.
    """
    for path in places.of(lineage):
        if path.exists():
            continue
        try:
            _make_private(path.parent, ours=path.parent == places.folder)
            write_whole(path, content, mode=0o600, point="errored")
        except OSError:
            continue
        return path
    return None


def find(places: Places, state: State, seal: Seal) -> list[Errored]:
    """What was kept for this state, the newest serial first. Where there is no state yet, any of the project counts.

    Raises:
        StateUnreadable: a file is damaged, or sealed with a key that is not here.
    """
    found = [Errored(path, read(path, seal)) for path in _there(places, state.lineage)]
    ours = (
        e for e in found if e.state.lineage == state.lineage or (not state.serial and e.state.project == state.project)
    )
    return sorted(ours, key=lambda e: -e.state.serial)


def read(path: Path, seal: Seal) -> State:
    """The state in such a file.

    Raises:
        StateUnreadable: it is damaged, or sealed with a key that is not here.
    """
    try:
        content = path.read_bytes()
        return parse_state(seal.open(content, kind=KIND, serial=None).decode("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise StateUnreadable("The state that was kept can't be read", f"{path}: {exc}.") from exc


def forget(errored: Errored) -> None:
    """Remove the file: its state was pushed, or is not wanted. May be called again."""
    errored.path.unlink(missing_ok=True)


def is_saved(errored: Errored, state: State) -> bool:
    """Whether everything in it stands in the state already: it was pushed, and only its file is left.

    Or its journal has it after all, as where a write was told to have failed and had not; then the serial is still the one before.
    """
    kept = errored.state
    return kept.resources == state.resources and kept.retired == state.retired


def _there(places: Places, lineage: str) -> Iterator[Path]:
    for path in places.of(lineage):
        try:
            if path.parent != places.folder:
                _check_private(path.parent)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path
        except OSError:
            continue


def _make_private(folder: Path, *, ours: bool) -> None:
    folder.mkdir(mode=0o755 if ours else 0o700, parents=True, exist_ok=True)
    if not ours:
        _check_private(folder)


def _check_private(folder: Path) -> None:
    """Raises OSError for a folder that somebody else could have put there, as in a shared /tmp."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder of this user alone")
