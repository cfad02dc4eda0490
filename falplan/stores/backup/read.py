"""Reads a backup with distrust: nothing of it is used before all of it was checked."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from falplan.core.backups import MANIFEST, Held, Manifest, is_safe_name, parse_manifest
from falplan.core.errors import Refused

PIECE = 1 << 20
LARGEST_MANIFEST = 64 << 20
Take = Callable[[str, IO[bytes]], Held]


def check_backup(path: Path) -> Manifest:
    """What a backup holds, once every member was read and compared with its manifest. Writes nothing.

    Raises:
        Refused: it is no backup, not whole, changed, or of a newer falplan.
    """
    return _read(path, lambda name, content: _copied(content, None))


def unpack_backup(path: Path, folder: Path) -> Manifest:
    """Write a backup's files, private, below an empty folder, durably. They are checked again as they are written.

    Raises:
        Refused: as `check_backup`; what was written is of no use.
        OSError: the disk is full or failing.
    """

    def take(name: str, content: IO[bytes]) -> Held:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            held = _copied(content, file)
            file.flush()
            os.fsync(file.fileno())
        return held

    return _read(path, take, folder)


def _copied(content: IO[bytes], target: IO[bytes] | None) -> Held:
    seal, size = hashlib.sha256(), 0
    while piece := content.read(PIECE):
        seal.update(piece)
        size += len(piece)
        if target:
            target.write(piece)
    return Held(size, seal.hexdigest())


def _read(path: Path, take: Take, folder: Path = Path("/")) -> Manifest:
    try:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) as plain:
            with tarfile.open(fileobj=plain, mode="r|") as archive:
                manifest, found = _members(archive, take, folder, str(path))
            while plain.read(PIECE):  # to the end: gzip's own sum stands there
                pass
    except FileNotFoundError:
        raise Refused("There is no such backup", f"{path} does not exist.") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeError) as exc:
        raise Refused("The backup is damaged", f"{path}: {exc}. Nothing was touched. Use another one.") from exc
    _compare(manifest, found, str(path))
    return manifest


def _members(archive: tarfile.TarFile, take: Take, folder: Path, source: str) -> tuple[Manifest, dict[str, Held]]:
    found: dict[str, Held] = {}
    for member in archive:
        _refuse_unsafe(member, folder, source)
        content = archive.extractfile(member)
        assert content is not None  # noqa: S101 - it is a plain file
        if member.name == MANIFEST:
            return _manifest(content.read(LARGEST_MANIFEST), source, last=archive.next() is None), found
        if member.name in found:
            raise Refused("The backup is damaged", f"{source} holds {member.name!r} twice. Nothing was touched.")
        found[member.name] = take(member.name, content)
    raise Refused(
        "Not a backup of falplan", f"{source} has no {MANIFEST} at its end: it is not whole, or something else."
    )


def _refuse_unsafe(member: tarfile.TarInfo, folder: Path, source: str) -> None:
    """Plain files inside the folder alone: no links, devices or folders, nothing absolute, no `..`."""
    safe = member.isreg() and not member.issparse() and is_safe_name(member.name)
    if safe and hasattr(tarfile, "data_filter"):  # Python 3.11.4 and newer: a second opinion
        try:
            tarfile.data_filter(member, str(folder))
        except tarfile.FilterError:
            safe = False
    if not safe:
        detail = f"{source} holds {member.name!r}, which a backup never does. Nothing was touched."
        raise Refused("The backup is not safe to unpack", detail)


def _manifest(content: bytes, source: str, *, last: bool) -> Manifest:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise Refused("The backup is damaged", f"{source}: its {MANIFEST} is not JSON. Nothing was touched.") from exc
    if not isinstance(body, dict):
        raise Refused("Not a backup of falplan", f"{source}: its {MANIFEST} is no object.")
    if not last:
        raise Refused("The backup is damaged", f"{source} goes on after its {MANIFEST}. Nothing was touched.")
    return parse_manifest(body, source)


def _compare(manifest: Manifest, found: dict[str, Held], source: str) -> None:
    if wrong := sorted(n for n in {*found, *manifest.files} if found.get(n) != manifest.files.get(n)):
        named = ", ".join(repr(n) for n in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        detail = f"{source}: {named}{more} is not what its {MANIFEST} says. Nothing was touched. Use another backup."
        raise Refused("The backup was changed or is damaged", detail)
