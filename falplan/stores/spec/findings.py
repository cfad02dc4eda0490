"""Collects what is wrong with a spec, with the line that shows it. Decides nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from falplan.core.errors import Diagnostic, Position, Related, Severity, SpecInvalid
from falplan.core.spec.codes import Code
from falplan.core.spec.secrets import looks_secret
from falplan.core.spec.tree import Map, Node, Scalar, at

_BREAK = re.compile(r"\r\n|\r|\n")
MOST = 10_000


@dataclass(slots=True)
class Source:
    """A file that was read. `name` is how messages name it."""

    name: str
    text: str
    _lines: list[str] | None = field(default=None, repr=False)

    def line(self, number: int) -> str:
        """The line with that number, from 1; empty beyond the end. Cut at 2,000 characters."""
        if self._lines is None:
            self._lines = _BREAK.split(self.text)
        return self._lines[number - 1][:2000] if 0 < number <= len(self._lines) else ""


class Stop(Exception):
    """The rest of this file can't be read; what is wrong is among the findings."""


@dataclass(slots=True)
class Findings:
    """Everything found so far. The same finding counts once."""

    sources: dict[str, Source] = field(default_factory=dict)
    _found: dict[tuple[object, ...], Diagnostic] = field(default_factory=dict)

    def add(
        self,
        code: Code,
        message: str,
        place: Node | Position | None = None,
        *,
        hint: str = "",
        file: str = "",
        length: int = 0,
        related: Sequence[Related] = (),
        severity: Severity = Severity.ERROR,
    ) -> None:
        """Note one finding at a node or position; without one, `file` names the file."""
        where = place if isinstance(place, Position) or place is None else at(place.start)
        key = (code, message, where, file)
        if key in self._found or len(self._found) >= MOST:
            return
        source = self.sources[where.file].line(where.line) if where and where.file in self.sources else ""
        if code is Code.LITERAL_SECRET or looks_secret("", source):
            source = ""  # the line would show it
        span = length or _span(place, source, where)
        name = where.file if where else file
        self._found[key] = Diagnostic(code.value, message, name, where, severity, source, span, hint, tuple(related))

    def stop(
        self,
        code: Code,
        message: str,
        place: Node | Position | None = None,
        *,
        hint: str = "",
        file: str = "",
        length: int = 0,
    ) -> Stop:
        """Note a finding after which nothing more can be read, and give the exception to raise."""
        self.add(code, message, place, hint=hint, file=file, length=length)
        return Stop(message)

    def warn(self, code: Code, message: str, place: Node | Position | None, *, hint: str = "") -> None:
        """Note something that stops nothing."""
        self.add(code, message, place, hint=hint, severity=Severity.WARNING)

    @property
    def failed(self) -> bool:
        """Whether any of the findings is an error."""
        return any(d.severity is Severity.ERROR for d in self._found.values())

    def sorted(self) -> tuple[Diagnostic, ...]:
        """All findings by position; those without one first."""
        return tuple(sorted(self._found.values(), key=_order))

    def raise_if_failed(self) -> None:
        """Raise SpecInvalid with every finding if one of them is an error."""
        if self.failed:
            raise SpecInvalid(self.sorted())


def findings_in(folder: Path, sources: Iterable[str]) -> Findings:
    """For what is only found once a spec was loaded: its files are read again, to show their lines. One that is gone shows none."""
    found = {}
    for name in sources:
        with suppress(OSError, UnicodeError):
            found[name] = Source(name, (folder / name).read_text(encoding="utf-8"))
    return Findings(found)


def _order(diagnostic: Diagnostic) -> tuple[str, int, int, str, str]:
    where = diagnostic.position
    line, column = (where.line, where.column) if where else (0, 0)
    return diagnostic.file, line, column, diagnostic.code, diagnostic.message


def _span(place: Node | Position | None, source: str, where: Position | None) -> int:
    if where is None:
        return 1
    rest = max(1, len(source.rstrip()) - where.column + 1)
    if isinstance(place, Scalar) and place.start.line == place.end.line:
        return max(1, min(rest, place.end.column - place.start.column))
    return 1


def key_of(parent: Mapping[str, Node], key: str) -> Scalar | None:
    """The key as it is written in the mapping."""
    return parent.keys_at.get(key) if isinstance(parent, Map) else None
