"""Records as lines of text: JSON stays readable, everything else is written as base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from falplan.core.state import StateUnreadable


def to_line(record: bytes) -> bytes:
    """One line, newline included."""
    if record.startswith(b"{") and b"\n" not in record:
        return record + b"\n"
    return b"=" + base64.b64encode(record) + b"\n"


def to_lines(records: Iterable[bytes]) -> bytes:
    return b"".join(to_line(r) for r in records)


def from_line(line: bytes) -> bytes:
    """The record of a line without its newline. A line that is no record comes back as it is: whoever parses it says so."""
    if not line.startswith(b"="):
        return line
    try:
        return base64.b64decode(line[1:], validate=True)
    except (binascii.Error, ValueError):
        return line


def from_lines(content: bytes, where: str) -> list[bytes]:
    """The records of an object that was written whole.

    Raises:
        StateUnreadable: it is not whole.
    """
    if not content.endswith(b"\n"):
        raise StateUnreadable("The journal is damaged", f"{where} ends in the middle of a line.")
    return [from_line(line) for line in content[:-1].split(b"\n")]
