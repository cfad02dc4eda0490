"""Archives and folders by the digest of what is in them. Knows nothing of where they are kept."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from falplan.core.errors import FalplanError
from falplan.core.values import digest
from falplan.runner import placing


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
    return hashes_digest(placing.files_below(str(folder)))


def damaged(because: str) -> FalplanError:
    """What a person reads of an archive that can't be used."""
    return FalplanError("The archive can't be used", f"{because} Make it again, and upload it again.")


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
