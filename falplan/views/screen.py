"""What text is written for: how wide, which characters, whether in colour. Knows nothing of plans."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import click

UNKNOWN_WIDTH = 80
NARROWEST = 20
PILED = 4
"""Characters per column that are believed, since some take no room of their own."""
SYMBOLS = {"…": "...", "⚠": "!", "├": "|", "│": "|", "└": "`", "─": "-"}
"""Characters of falplan's own, and what stands for them where the output's encoding lacks them."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line in one style: a colour of click's, `bold`, or none. Its text is escaped already."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line before it is fitted: `indent` columns, a mark such as `+`, then its spans."""

    indent: int
    spans: tuple[Span, ...] = ()
    mark: str = ""

    @property
    def text(self) -> str:
        """What stands behind the mark, without styles."""
        return self.spans[0].text if len(self.spans) == 1 else "".join(s.text for s in self.spans)


COLORS = {
    "+": "green",
    "~": "yellow",
    "-": "red",
    "-/+": "red",
    "+/-": "red",
    "<=": "cyan",
    ".": "magenta",
}
"""Mark -> colour. A replacement is red, since something is destroyed."""


@dataclass(frozen=True, slots=True)
class Screen:
    """Where text goes. `columns` None: no limit, as in a file; 0 or less: not known. `encoding` is Python's name of the output's.

    A value that takes more columns than `longest` is shown without its middle; None: three lines, or whole where lines have no limit.
    """

    columns: int | None = UNKNOWN_WIDTH
    color: bool = False
    encoding: str = "utf-8"
    longest: int | None = None

    @property
    def width(self) -> int | None:
        """Columns that a line may take; None without a limit."""
        if self.columns is None:
            return None
        return max(self.columns, NARROWEST) if self.columns > 0 else UNKNOWN_WIDTH

    def shortened(self, text: str) -> str:
        """Escaped text of a value as it is shown: without its middle if it is too long."""
        room = self.room
        if room is None or (len(text) <= room and text.isascii()):
            return text
        return elide(text, room, self.own("…"))

    @property
    def room(self) -> int | None:
        """Columns that one value may take; None without a limit."""
        return self.longest or (self.width * 3 if self.width else None)

    def own(self, text: str) -> str:
        """falplan's own text, with symbols that the output can carry."""
        if text.isascii() or self._carries("".join(SYMBOLS)):
            return text
        return "".join(SYMBOLS.get(c, c) for c in text)

    def escape(self, text: str) -> str:
        """Somebody else's text: nothing in it drives the terminal, and the output can carry all of it."""
        text = escape(text)
        if text.isascii() or self._carries(text):
            return text
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)

    def _carries(self, text: str) -> bool:
        return self.encoding.lower().replace("_", "-") in ("utf-8", "utf8") or _encodes(text, self.encoding)

    def render(self, lines: Iterable[Line]) -> Iterator[str]:
        """Lines as they are printed: fitted to the width, painted, without spaces at their ends."""
        limit = self.width
        for line in lines:
            if limit is None or _takes(line) <= limit:
                yield self._paint(line)
            else:
                yield from map(self._paint, _fit(line, limit))

    def paint(self, text: str, style: str) -> str:
        """Text in a style, if colours are wanted."""
        if not self.color or not style:
            return text
        return click.style(text, bold=True) if style == "bold" else click.style(text, fg=style)

    def _paint(self, line: Line) -> str:
        mark = f"{self.paint(line.mark, COLORS.get(line.mark, ''))} " if line.mark else ""
        body = "".join(self.paint(s.text, s.style) for s in line.spans) if self.color else line.text
        return (" " * line.indent + mark + body).rstrip(" ")


def _takes(line: Line) -> int:
    """The columns that a line takes as it is."""
    return line.indent + (len(line.mark) + 1 if line.mark else 0) + width(line.text)


def _fit(line: Line, limit: int) -> Iterator[Line]:
    """A line that is too wide, in several; what is deep inside is moved out so that there is room for it."""
    indent = min(line.indent, limit // 2 - 4)
    taken = indent + (len(line.mark) + 1 if line.mark else 0)
    rest = min(taken + 4, limit // 2)
    for number, spans in enumerate(_wrapped(line.spans, limit - taken, limit - rest)):
        yield Line(rest, spans) if number else Line(indent, spans, line.mark)


def _wrapped(spans: Iterable[Span], first: int, then: int) -> Iterator[tuple[Span, ...]]:
    """Spans in rows of at most so many columns, broken between words, and within a word only if it has no room of its own."""
    row: list[Span] = []
    room = first
    for span in spans:
        for word in _words(span.text):
            needed = width(word.rstrip(" "))
            if needed > room and row:
                yield tuple(row)
                row, room = [], then
                word = word.lstrip(" ")
            while width(word.rstrip(" ")) > room:
                head = take(word, room)
                yield (*row, Span(head, span.style))
                row, room, word = [], then, word[len(head) :]
            if word:
                row.append(Span(word, span.style))
                room -= width(word)
    if row:
        yield tuple(row)


def _words(text: str) -> Iterator[str]:
    """The words of a text, each with the spaces behind it; together they are the text."""
    start = 0
    for i in range(1, len(text)):
        if text[i] != " " and text[i - 1] == " ":
            yield text[start:i]
            start = i
    if text:
        yield text[start:]


def escape(text: str) -> str:
    """Control characters as escapes, so that nothing in a spec or log drives the terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def width(text: str) -> int:
    """Columns of a terminal that the text takes: two for wide characters, none for those that combine."""
    return len(text) if text.isascii() else sum(map(_columns, text))


@lru_cache(maxsize=4096)
def _columns(c: str) -> int:
    if c == "\ufe0f":  # makes the character before it an emoji, and so wider
        return 1
    if unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


@lru_cache(maxsize=64)
def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def take(text: str, columns: int) -> str:
    """The longest beginning of a text that fits so many columns; at least one character, or nothing would ever end."""
    used = 0
    for i, c in enumerate(text):
        used += _columns(c)
        if i and (used > columns or i >= PILED * columns):
            return text[:i]
    return text


def elide(text: str, columns: int, mark: str = "…") -> str:
    """A text without its middle, if it takes more columns than these, or piles up characters that take none."""
    if len(text) <= PILED * columns and width(text) <= columns:
        return text
    keep = max(columns - width(mark), 2)
    head = take(text, keep - keep // 2)
    tail = take(text[::-1], keep // 2)[::-1]
    return f"{head}{mark}{tail if width(tail) <= keep // 2 else ''}"
