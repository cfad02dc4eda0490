"""Reads requirement lines and requirements files, as pip writes them. Installs and resolves nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

from falplan.core.errors import Position
from falplan.core.spec.codes import Code
from falplan.core.spec.words import path_fault, quoted
from falplan.stores.spec.files import FileFault, Folder
from falplan.stores.spec.findings import Findings, Stop
from falplan.stores.spec.read import read_source

_INCLUDE = re.compile(r"(?:-r|--requirement)[ =]*(\S+)")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_CREDENTIALS = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_LOCAL = re.compile(r"(\.{0,2}/|\w+:|git\+|-)")
DEEPEST = 10


@dataclass(slots=True)
class Requirements:
    """Checked requirement lines of one spec. Every line and file is read once."""

    folder: Folder
    findings: Findings
    _good: set[str] = field(default_factory=set)
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)  #: path -> the lines of what was read

    def check(self, line: str, place: Position) -> None:
        """Note a line that pip would not read, or that carries credentials."""
        if line in self._good:
            return
        if _CREDENTIALS.search(line):
            hint = "give uv the credentials of an index by its own settings on the machine"
            self.findings.add(Code.LITERAL_SECRET, "a requirement holds credentials", place, hint=hint)
            return
        try:
            if not _LOCAL.match(line):
                Requirement(line)
        except InvalidRequirement as exc:
            reason = str(exc).splitlines()[0]
            self.findings.add(Code.REQUIREMENT, f"no requirement: {quoted(line)}", place, hint=reason)
            return
        self._good.add(line)

    def file(self, path: str, place: Position) -> list[str]:
        """The lines of a requirements file below the spec's folder, those of files that it names included."""
        if path not in self.files:
            self.files[path] = tuple(self._read(path, place, 0))
        return list(self.files[path])

    def _read(self, path: str, place: Position, depth: int) -> Iterator[str]:
        try:
            inside = self.folder.inside(path)
            source = read_source(self.folder.root / Path(inside), path, self.findings)
        except FileFault as exc:
            self.findings.add(Code.FILE, str(exc), place)
            return
        except Stop:
            return
        for number, line in _lines(source.text):
            here = Position(path, number, 1)
            include = _INCLUDE.fullmatch(line)
            if include is None:
                self.check(line, here)
                yield line
                continue
            below = str(PurePosixPath(path).parent / include[1])
            if depth >= DEEPEST or path_fault(below):
                self.findings.add(Code.PATH, f"{quoted(include[1])} can't be included", here)
                continue
            yield from self._read(below, here, depth + 1)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, those that end in a backslash joined; each with the number of its first."""
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw)
        start = start if pending else number
        if line.endswith("\\"):
            pending += line[:-1]
            continue
        whole = (pending + line).strip()
        pending = ""
        if whole:
            yield start, whole
