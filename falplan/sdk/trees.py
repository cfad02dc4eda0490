"""Archives and folders by the digest of what is in them. Knows nothing of where they are kept."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from falplan.core.errors import FalplanError
from falplan.core.values import digest


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file on its way into an archive. `path` is relative, with forward slashes."""

    path: str
    content: bytes
    executable: bool = False


def hashes_digest(hashes: Mapping[str, str]) -> str:
    """The digest of a tree, out of path -> SHA-256 in hex, with `+x` behind it for executable files."""
    return digest(dict(hashes))


def tree_digest(folder: Path) -> str:
    """The digest of a folder's regular files: names, contents and executable bits; nothing else counts."""
    hashes = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        suffix = "+x" if path.stat().st_mode & stat.S_IXUSR else ""
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest() + suffix
    return hashes_digest(hashes)


def write_archive(files: Iterable[TreeFile], target: IO[bytes]) -> None:
    """Write a tar.gz: the same bytes for the same files on the same zlib. Files come out read-only."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for file in files:
            info = tarfile.TarInfo(file.path)
            info.size = len(file.content)
            info.mode = 0o555 if file.executable else 0o444
            tar.addfile(info, io.BytesIO(file.content))


def unpack(stream: IO[bytes], folder: Path) -> None:
    """Unpack a tar.gz of plain files and folders into a new folder.

    Raises:
        FalplanError: it is damaged, or a name in it would leave the folder.
    """
    folder.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=stream, mode="r:gz") as tar:
            for member in tar:
                if not (member.isreg() or member.isdir()):
                    raise FalplanError("The archive is refused", f"{member.name!r} is neither a file nor a folder.")
                tar.extract(member, folder, set_attrs=True, filter=_plain)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as exc:
        raise FalplanError("The archive can't be unpacked", f"{exc}. Make it again, and upload it again.") from exc


def _plain(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    safe = tarfile.data_filter(member, path)
    mode = 0o755 if member.isdir() or (member.mode or 0) & stat.S_IXUSR else 0o644
    return safe.replace(mode=mode, mtime=0, deep=False)


def make_read_only(folder: Path) -> None:
    """Take the right to write from every file and folder below, and flush them to disk."""
    for base, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(base, name)
            path.chmod(0o555 if path.stat().st_mode & stat.S_IXUSR else 0o444)
            flush(path)
        Path(base).chmod(0o555)
        flush(Path(base))


def flush(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(path: Path) -> None:
    """Remove a file or folder, read-only or not. Nothing there is no error."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for base, _, _ in os.walk(path):
        try:
            Path(base).chmod(0o700)
        except FileNotFoundError:
            continue
    shutil.rmtree(path, ignore_errors=False)
