"""Which files travel with an app, digested. Knows the rules of fal apps and of commands, nothing of settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from falplan.core.errors import Position
from falplan.core.spec.codes import Code
from falplan.core.spec.resolved import Bundle, BundleFile
from falplan.core.spec.words import path_fault, quoted
from falplan.stores.spec.files import FILES, IGNORE_FILES, TOTAL_BYTES, FileFault, Folder
from falplan.stores.spec.findings import Findings
from falplan.stores.spec.imports import Imports

DEFAULT_IGNORE = (r"\.pyc$", r"__pycache__/", r"\.git/", r"\.DS_Store$")


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern, relative to `base` (a folder of the root, empty for the root itself), and the place that says so."""

    pattern: str
    position: Position
    base: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a bundle: of a class with its `entry` file, or of a command, whose entry is empty."""

    entry: str
    globs: tuple[Glob, ...] | None
    ignore: tuple[str, ...] = ()


@dataclass(slots=True)
class Bundles:
    """Makes bundles of one root. Equal requests are answered from memory; `left_out` are the spec's own files."""

    folder: Folder
    imports: Imports
    findings: Findings
    left_out: frozenset[str] = frozenset()
    made: dict[Asked, Bundle | None] = field(default_factory=dict)

    def of_class(self, entry: str, globs: Sequence[Glob], ignore: Sequence[str], place: Position) -> Bundle | None:
        """The entry file, its local imports, and its app_files. None after noting what can't travel."""
        return self.of(Asked(entry, tuple(globs), tuple(ignore)), place)

    def of_command(self, globs: Sequence[Glob] | None, place: Position) -> Bundle | None:
        """The files that `files` names, or the whole folder less what ignore files name and the spec itself."""
        return self.of(Asked("", tuple(globs) if globs is not None else None), place)

    def of(self, asked: Asked, place: Position) -> Bundle | None:
        """The bundle of a request; `place` is where what can't travel is noted."""
        if asked not in self.made:
            self.made[asked] = self._bundle(self._paths(asked, place), place)
        return self.made[asked]

    def _paths(self, asked: Asked, place: Position) -> set[str]:
        if asked.globs is None:
            return self._everything(place)
        found = {path for glob in asked.globs for path in self._matching(glob)}
        if not asked.entry:
            return found
        patterns = _compile(asked.ignore or DEFAULT_IGNORE)
        kept = {path for path in found if not any(p.search(path) for p in patterns)}
        return kept | set(self.imports.closure(asked.entry))

    def _everything(self, place: Position) -> set[str]:
        try:
            found = set(self.folder.walk(ignore=True))
        except FileFault as exc:
            self._note(exc, place)
            return set()
        return {path for path in found - self.left_out if PurePosixPath(path).name not in IGNORE_FILES}

    def _matching(self, glob: Glob) -> list[str]:
        why = path_fault(glob.pattern)
        if why:
            self.findings.add(Code.PATH, f"{quoted(glob.pattern)} {why}", glob.position)
            return []
        whole = f"{glob.base}/{glob.pattern}" if glob.base else glob.pattern
        try:
            found = self.folder.matching(whole)
        except FileFault as exc:
            self._note(exc, glob.position)
            return []
        if not found:
            self.findings.add(Code.NO_MATCH, f"{quoted(glob.pattern)} matches nothing", glob.position)
        return found

    def _bundle(self, paths: Iterable[str], place: Position) -> Bundle | None:
        ordered = sorted(paths)
        if len(ordered) > FILES:
            message = f"{len(ordered):,} files; an app may carry {FILES:,}"
            self.findings.add(Code.BUNDLE_LIMIT, message, place, hint="name what is not needed in .falplanignore")
            return None
        files: list[BundleFile] = []
        total = 0
        for path in ordered:
            try:
                files.append(self.folder.digest(path))
            except FileFault as exc:
                self._note(exc, place)
                return None
            total += files[-1].size
            if total > TOTAL_BYTES:
                self.findings.add(Code.BUNDLE_LIMIT, f"more than {TOTAL_BYTES // 2**30} GiB of files", place)
                return None
        return Bundle(str(self.folder.root), tuple(files))

    def _note(self, fault: FileFault, place: Position) -> None:
        code = Code.BUNDLE_LIMIT if fault.limit else Code.FILE
        self.findings.add(code, str(fault), place, hint="name what is not needed in .falplanignore")


def _compile(patterns: Iterable[str]) -> list[re.Pattern[str]]:
    """fal's ignore patterns are regular expressions; one that is none is taken as plain text."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error:
            compiled.append(re.compile(re.escape(pattern)))
    return compiled
