"""Finds and digests the files of a folder without ever leaving it. Knows nothing of apps."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from falplan.core.spec.resolved import BundleFile
from falplan.core.spec.words import quoted

FILES = 10_000
VISITED = 100_000
FILE_BYTES = 512 * 2**20
TOTAL_BYTES = 2 * 2**30
CHUNK = 2**20
ALWAYS_LEFT_OUT = frozenset((".git", ".falplan", "__pycache__", ".DS_Store"))
IGNORE_FILES = (".gitignore", ".falplanignore")


class FileFault(Exception):
    """A file can't travel. `limit` tells one that breaks a limit; `path` is relative to the root."""

    def __init__(self, path: str, why: str, *, limit: bool = False) -> None:
        super().__init__(f"{quoted(path)} {why}")
        self.path = path
        self.limit = limit


def is_file(path: Path) -> bool:
    """Whether a regular file, or a link to one, can be seen there. Never raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path | os.DirEntry[str]) -> bool:
    """Whether a folder, or a link to one, can be seen there. Never raises."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


@dataclass(slots=True)
class Folder:
    """A folder whose files are digested at most once. `root` is absolute and has no symlinks in it."""

    root: Path
    _digests: dict[str, BundleFile] = field(default_factory=dict)

    def digest(self, path: str) -> BundleFile:
        """A regular file of the folder, digested. A symlink inside the folder counts as what it points at.

        Raises:
            FileFault: no regular file, beyond the limits, unreadable, or outside the folder.
        """
        known = self._digests.get(path)
        if known is None:
            known = self._digests[path] = self._digest(path)
        return known

    def _digest(self, path: str) -> BundleFile:
        _check_text(path)
        try:
            with os.fdopen(self._open(path), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise FileFault(path, "is no regular file")
                if status.st_size > FILE_BYTES:
                    raise FileFault(path, f"is larger than {FILE_BYTES // 2**20} MiB", limit=True)
                sha256, size = _hash(file.fileno(), path)
        except OSError as exc:
            raise FileFault(path, f"can't be read: {os.strerror(exc.errno or 0).lower()}") from exc
        return BundleFile(path, sha256, size, bool(status.st_mode & stat.S_IXUSR))

    def _open(self, path: str) -> int:
        """Open component by component without following links, so that a swap while loading leads nowhere."""
        parts = self.inside(path).split("/")
        at = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = below
            return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        finally:
            os.close(at)

    def inside(self, path: str) -> str:
        """The path with its links resolved, relative to the root.

        Raises:
            FileFault: the path leads out of the folder, nowhere, or round in a circle.
        """
        full = self.root / path
        try:
            real = full.resolve(strict=True)
        except RuntimeError as exc:
            raise FileFault(path, "is a link that leads round in a circle") from exc
        except OSError as exc:
            if full.is_symlink():
                raise FileFault(path, f"is a link to {quoted(Path(full.readlink()).name)}, which is not there") from exc
            raise FileFault(path, "is not there") from exc
        if real != self.root and self.root not in real.parents:
            raise FileFault(path, f"is a link to {quoted(real.name)}, which is outside the spec's folder")
        return real.relative_to(self.root).as_posix()

    def walk(self, below: str = "", *, ignore: bool = False) -> Iterator[str]:
        """Paths of all files below a folder of the root, sorted. `ignore` leaves out what ignore files name.

        Raises:
            FileFault: too many entries, a link that leaves the folder, or a file name that is no text.
        """
        counter = [0]
        start = self.root / below if below else self.root
        yield from self._walk(start, below, ignore, (), (), counter)

    def _walk(
        self,
        folder: Path,
        prefix: str,
        ignore: bool,
        specs: tuple[tuple[str, GitIgnoreSpec], ...],
        above: tuple[Path, ...],
        counter: list[int],
    ) -> Iterator[str]:
        real = self.root / self.inside(prefix) if prefix else self.root
        if real in above:
            raise FileFault(prefix, "is a link that leads round in a circle")
        if ignore:
            specs = specs + _ignore_specs(folder, prefix)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as exc:
            raise FileFault(prefix or ".", f"can't be read: {os.strerror(exc.errno or 0).lower()}") from exc
        for entry in entries:
            counter[0] += 1
            if counter[0] > VISITED:
                raise FileFault(prefix or ".", f"holds more than {VISITED:,} entries", limit=True)
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            below = is_folder(entry)
            if entry.name in ALWAYS_LEFT_OUT or _ignored(path, below, specs):
                continue
            if below:
                yield from self._walk(Path(entry.path), path, ignore, specs, (*above, real), counter)
            else:
                yield path

    def matching(self, pattern: str) -> list[str]:
        """Files that a glob names; a folder stands for all below it. `*` stays within a folder, `**` does not.

        Raises:
            FileFault: as `walk`.
        """
        pattern = pattern.removeprefix("./").rstrip("/") or "."
        if pattern == ".":
            return list(self.walk())
        fixed = _fixed_part(pattern)
        if fixed == pattern:
            full = self.root / pattern
            if not os.path.lexists(full):
                return []
            return list(self.walk(pattern)) if is_folder(full) else [pattern]
        if fixed and not is_folder(self.root / fixed):
            return []
        spec = GitIgnoreSpec.from_lines(["/" + pattern])
        return [path for path in self.walk(fixed) if spec.match_file(path)]


def _fixed_part(pattern: str) -> str:
    parts = pattern.split("/")
    fixed: list[str] = []
    for part in parts:
        if any(char in part for char in "*?["):
            break
        fixed.append(part)
    return "/".join(fixed)


def _ignore_specs(folder: Path, prefix: str) -> tuple[tuple[str, GitIgnoreSpec], ...]:
    found: list[tuple[str, GitIgnoreSpec]] = []
    for name in IGNORE_FILES:
        try:
            status = (folder / name).lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size < CHUNK:
                lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
                found.append((prefix, GitIgnoreSpec.from_lines(lines)))
        except (OSError, ValueError):
            continue
    return tuple(found)


def _ignored(path: str, folder: bool, specs: Sequence[tuple[str, GitIgnoreSpec]]) -> bool:
    """The innermost ignore file that says anything of the path decides."""
    verdict = False
    for prefix, spec in specs:
        below = path[len(prefix) + 1 :] if prefix else path
        result = spec.check_file(below + "/" if folder else below)
        if result.include is not None:
            verdict = bool(result.include)
    return verdict


def _check_text(path: str) -> None:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise FileFault(path.encode("utf-8", "backslashreplace").decode(), "has a name that is not UTF-8") from exc


def _hash(descriptor: int, path: str) -> tuple[str, int]:
    sha256 = hashlib.sha256()
    size = 0
    while chunk := os.read(descriptor, CHUNK):
        size += len(chunk)
        if size > FILE_BYTES:
            raise FileFault(path, f"grows beyond {FILE_BYTES // 2**20} MiB while it is read", limit=True)
        sha256.update(chunk)
    return sha256.hexdigest(), size
