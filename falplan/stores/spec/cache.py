"""Keeps what a spec was resolved to, and gives it back while nothing has changed that it was made from. Nobody can tell but by the clock.

An entry is good for the text of the spec's and the variables' files, the folder, the providers, and this falplan with the libraries that
read YAML and templates. Files of apps are looked at each time, as without a cache: which there are, and their digests. A class's source
and requirements files must be as they were.

Nothing is kept of a spec that is invalid, so that errors are always found anew, nor of one that a command line or the environment gave a
value to: such values may be meant for nobody else, and stand in no file yet. All else in an entry stands in the spec in clear.

Entries lie in `$XDG_CACHE_HOME/falplan/` (0700), each in a file of its own (0600) with a checksum. They are JSON: see `packed`. Whatever
is wrong with one, or with the place, means that there is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from falplan.core.errors import Position
from falplan.core.spec.resolved import Bundle, ResolvedSpec
from falplan.core.values import Json, canonical
from falplan.stores.release import this_release
from falplan.stores.spec.bundles import Asked, Bundles, Glob
from falplan.stores.spec.files import Folder
from falplan.stores.spec.findings import Findings, Stop
from falplan.stores.spec.gather import find_files
from falplan.stores.spec.imports import Imports
from falplan.stores.spec.packed import pack, unpack
from falplan.stores.spec.read import read_source
from falplan.stores.spec.requirements import Requirements

if TYPE_CHECKING:
    from falplan.stores.spec.load import Loaded

FORMAT = 2
OFF = "FALPLAN_NO_CACHE"
MOST = 16
"""Entries that are kept, those used last."""
MOST_BYTES = 256 * 2**20
LARGEST = 64 * 2**20
LIBRARIES = ("pyyaml", "jinja2", "pydantic", "pydantic-core", "packaging")
NOWHERE = Position("", 1, 1)


@dataclass(frozen=True, slots=True)
class SpecCache:
    """The entries of one folder, which need not exist."""

    folder: Path

    def read(self, key: str) -> bytes | None:
        """What was kept under the key; None if nothing was, or it is not whole, or not this user's alone."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            try:
                if not _is_ours(os.fstat(descriptor)) or not self._is_private():
                    return None
                checksum, _, content = file.read(LARGEST).partition(b"\n")
                os.utime(descriptor)
            except OSError:
                return None
        return content if checksum == _checksum(key, content) else None

    def write(self, key: str, content: bytes) -> None:
        """Keep it, and drop what was not used for longest. Never fails; not made durable, for it can be made again."""
        if len(content) >= LARGEST - 100:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_private():
                return
            descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=self.folder)  # 0600
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_checksum(key, content) + b"\n" + content)
                Path(temporary).replace(self._path(key))
            except OSError:
                Path(temporary).unlink(missing_ok=True)
            self._tidy()
        except OSError:
            return

    def _path(self, key: str) -> Path:
        return self.folder / f"spec-{key}.json"

    def _is_private(self) -> bool:
        """Whether only this user can put anything into the folder."""
        status = self.folder.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022

    def _tidy(self) -> None:
        found = []
        for path in self.folder.iterdir():
            if path.name.startswith(("spec-", ".new-")):
                status = path.lstat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = 0
        for number, (_, size, path) in enumerate(sorted(found, reverse=True), 1):
            total += size
            if number > MOST or total > MOST_BYTES:
                path.unlink(missing_ok=True)


def cache_of(environ: Mapping[str, str]) -> SpecCache | None:
    """The user's cache; None for a user without a home, and where `FALPLAN_NO_CACHE` says so."""
    if environ.get(OFF):
        return None
    chosen = Path(environ.get("XDG_CACHE_HOME", ""))
    if chosen.is_absolute():  # the base directory specification has relative ones ignored
        return SpecCache(chosen / "falplan")
    home = Path(environ.get("HOME", ""))
    return SpecCache(home / ".cache" / "falplan") if home.is_absolute() else None


def load_cached(
    folder: Path,
    file: Path | None,
    *,
    variables: Mapping[str, str],
    variable_files: Sequence[Path],
    environ: Mapping[str, str],
    providers: Collection[str],
) -> ResolvedSpec:
    """As `load_spec`, from the user's cache if it was resolved before, and kept there if it was not.

    Raises:
        SpecInvalid: as `load_spec`.
    """
    kept = cache_of(environ) if not variables else None
    if kept is not None:
        key = _key_now(folder, file, variable_files, providers)
        packed = kept.read(key) if key else None
        found = _restored(packed, environ) if packed else None
        if found is not None:
            return found
    from falplan.stores.spec.load import load_whole

    loaded = load_whole(folder, file, variables, variable_files, environ, providers)
    if kept is not None and not any(name in environ for name in loaded.variables):
        entry = _entry(loaded)
        if entry is not None:
            kept.write(_key(loaded.spec.folder, _texts(loaded, variable_files), providers), entry)
    return loaded.spec


def _key_now(folder: Path, file: Path | None, variable_files: Sequence[Path], providers: Collection[str]) -> str:
    """The key of what is there now; empty if it can't be read, which only a load explains."""
    findings = Findings()
    try:
        root, files = find_files(folder, file, findings)
        sources = [
            read_source(p, name, findings) for p, name in [*((p, p.name) for p in files), *_named(variable_files)]
        ]
    except Stop:
        return ""
    return _key(str(root), [(s.name, s.text) for s in sources], providers)


def _named(variable_files: Sequence[Path]) -> list[tuple[Path, str]]:
    return [(path, str(path)) for path in variable_files]


def _texts(loaded: Loaded, variable_files: Sequence[Path]) -> list[tuple[str, str]]:
    """What was really read, which may be older than what is there now."""
    names = [*loaded.spec.sources, *(name for _, name in _named(variable_files))]
    return [(name, loaded.findings.sources[name].text) for name in names]


def _key(root: str, texts: Sequence[tuple[str, str]], providers: Collection[str]) -> str:
    digests: list[Json] = [[name, _digest(text)] for name, text in texts]
    return hashlib.sha256(canonical([programs(), root, digests, [*sorted(providers)]])).hexdigest()


@cache
def programs() -> list[Json]:
    """Whatever reads a spec."""
    found: list[Json] = [FORMAT, str(this_release()), sys.version]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(name)
    return found


def _entry(loaded: Loaded) -> bytes | None:
    """What is kept of a load: the spec, and what to look at before it is believed. None for what has no place in an entry."""
    made, reads = [], {}
    if loaded.apps is not None:
        made = [(asked, bundle) for asked, bundle in loaded.apps.bundles.made.items() if bundle is not None]
        reads = {path: _digest(loaded.findings.sources[path].text) for path in loaded.apps.entries}
    head = {
        "root": loaded.spec.folder,
        "sources": loaded.spec.sources,
        "variables": loaded.variables,
        "bundles": [[asked.entry, _globs(asked.globs), asked.ignore] for asked, _ in made],
        "reads": reads,
        "requirements": loaded.apps.requirements.files if loaded.apps else {},
    }
    try:
        return json.dumps(head, separators=(",", ":")).encode() + b"\n" + pack(loaded.spec, [b for _, b in made])
    except (TypeError, KeyError, ValueError):
        return None


def _globs(globs: Sequence[Glob] | None) -> Json:
    if globs is None:
        return None
    return [[g.pattern, g.base, g.position.file, g.position.line, g.position.column] for g in globs]


def _restored(entry: bytes, environ: Mapping[str, str]) -> ResolvedSpec | None:
    """The spec of an entry, with its apps' files as they are now; None if anything else has changed."""
    head, _, packed = entry.partition(b"\n")
    try:
        body = json.loads(head)
        if any(name in environ for name in body["variables"]):
            return None
        bundles = _bundles_now(body)
        return unpack(packed, bundles) if bundles is not None else None
    except (ValueError, TypeError, KeyError, LookupError, ArithmeticError, AttributeError, RecursionError):
        return None


def _bundles_now(body: Any) -> list[Bundle] | None:
    root, findings = Path(body["root"]), Findings()
    folder = Folder(root)
    made = Bundles(folder, Imports(root, findings), findings, frozenset(body["sources"]))
    found = [made.of(_asked(*asked), NOWHERE) for asked in body["bundles"]]
    bundles = [bundle for bundle in found if bundle is not None]
    if any(_digest(findings.sources[path].text) != digest for path, digest in body["reads"].items()):
        return None
    requirements = Requirements(folder, findings)
    if any(requirements.file(path, NOWHERE) != list(lines) for path, lines in body["requirements"].items()):
        return None
    return None if findings.sorted() or len(bundles) < len(found) else bundles


def _asked(entry: str, globs: Any, ignore: Any) -> Asked:
    patterns = None
    if globs is not None:
        patterns = tuple(Glob(p, Position(file, line, column), base) for p, base, file, line, column in globs)
    return Asked(entry, patterns, tuple(ignore))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_ours(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + content).hexdigest().encode()
