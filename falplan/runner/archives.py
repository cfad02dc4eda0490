"""Unpacks a tar.gz as it comes, and hashes what it writes. Needs Python 3.9 and its standard library alone."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import zlib

TYPE_CHECKING = False  # importing typing costs time at each start
if TYPE_CHECKING:
    from typing import Protocol

    class Source(Protocol):
        """Bytes one after the other: what `read` returns may be shorter than what was asked for, and is empty at the end."""

        def read(self, size: int, /) -> bytes: ...


if TYPE_CHECKING or __package__:
    from falplan.runner.placing import PIECE, Damaged
else:  # on a machine its neighbours came with it
    from placing import PIECE, Damaged

AT_ONCE = 1 << 20  # bytes that are inflated at a time: an archive of zeros grows a thousandfold
GZIP = 16 + zlib.MAX_WBITS


class Unzipped:
    """What a gzip file holds, read forward only, and for tarfile: it needs `tell`, `read`, and `seek` by one byte backward at most."""

    def __init__(self, stream: Source) -> None:
        self.stream, self.zlib = stream, zlib.decompressobj(GZIP)
        # What is inflated, where in it the next byte stands, and how many bytes came before it.
        self.piece, self.at, self.before = b"", 0, 0

    def tell(self) -> int:
        return self.before + self.at

    def some(self, size: int) -> memoryview:
        """At least one byte of the next `size`, uncopied; none at the end."""
        if self.at >= len(self.piece):
            self._next()
        found = memoryview(self.piece)[self.at : self.at + size]
        self.at += len(found)
        return found

    def _next(self) -> None:
        """Keeps the last byte of the piece before."""
        piece = b""
        while not piece and not self.zlib.eof:
            packed = self.zlib.unconsumed_tail or self.stream.read(PIECE)
            if not packed:
                raise EOFError("The archive ends too early")
            piece = self.zlib.decompress(packed, AT_ONCE)
        if piece:
            kept = self.piece[-1:]
            self.before += len(self.piece) - len(kept)
            self.piece, self.at = kept + piece, len(kept)

    def read(self, size: int) -> bytes:
        found = bytes(self.some(size))
        while len(found) < size:
            more = self.some(size - len(found))
            if not more:
                break
            found += more
        return found

    def seek(self, to: int) -> int:
        if to < self.before:
            raise tarfile.ReadError("an archive is read forward only")
        if to < self.tell():
            self.at = to - self.before
        while self.tell() < to and self.some(to - self.tell()):
            pass
        return self.tell()


def unpack(stream: Source, folder: str) -> dict[str, str]:
    """Unpack a tar.gz of plain files and folders into a new folder. Reads forward only, as far as the archive's end.

    Returns what `placing.files_below` would find there, without reading it again.

    Raises:
        Damaged: it is, or a name in it would leave the folder.
    """
    os.makedirs(folder)
    hashes: dict[str, str] = {}
    content = Unzipped(stream)
    try:
        with tarfile.open(fileobj=content, mode="r:") as tar:  # type: ignore[call-overload]  # it calls these three alone
            for member in tar:
                _extract(content, member, folder, hashes)
        while content.some(AT_ONCE):
            pass  # zeros behind the last member, and the checksum
    except (tarfile.TarError, EOFError, zlib.error) as exc:
        raise Damaged(f"{exc}.") from exc
    return hashes


def _extract(content: Unzipped, member: tarfile.TarInfo, folder: str, hashes: dict[str, str]) -> None:
    """One member. Not by tarfile's own filters, which Python 3.9 does not have."""
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise Damaged(f"{member.name!r} is neither a file nor a folder.")
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or "\0" in member.name:
        raise Damaged(f"{member.name!r} would leave the folder.")
    name = "/".join(p for p in parts if p not in ("", "."))
    path = os.path.join(folder, name)
    if member.isdir():
        os.makedirs(path, mode=0o755, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    runs = bool(member.mode & stat.S_IXUSR)
    content.seek(member.offset_data)
    hashes[name] = _write(content, path, member.size) + ("+x" if runs else "")
    os.chmod(path, 0o755 if runs else 0o644)
    os.utime(path, (0, 0))


def _write(content: Unzipped, path: str, left: int) -> str:
    """SHA-256 of what was written, in hex."""
    hashed = hashlib.sha256()
    with open(path, "wb") as target:
        while left:
            piece = content.some(left)
            if not piece:
                raise EOFError("The archive ends too early")
            hashed.update(piece)
            target.write(piece)
            left -= len(piece)
    return hashed.hexdigest()
