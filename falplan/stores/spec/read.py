"""Reads a spec's bytes and makes sure that they are text. Knows nothing of YAML."""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
from pathlib import Path

from falplan.core.errors import Position
from falplan.core.spec.codes import Code
from falplan.stores.spec.findings import Findings, Source

LIMIT = 16 * 2**20
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_BREAK = re.compile(r"\r\n|\r|\n")


def read_source(path: Path, name: str, findings: Findings, *, controls: bool = False) -> Source:
    """The text of a regular file of at most 16 MiB in UTF-8. Never blocks on a FIFO or device.

    `controls` lets control characters pass, as Python source may hold form feeds.

    Raises:
        Stop: after noting why the file can't be used.
    """
    raw = _bytes(path, name, findings)
    source = decode(raw, name, findings, controls=controls)
    findings.sources[name] = source
    return source


def _bytes(path: Path, name: str, findings: Findings) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise _os_fault(exc, name, findings) from exc
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise findings.stop(Code.NOT_REGULAR, "not a regular file", file=name)
        try:
            raw = file.read(LIMIT + 1)
        except OSError as exc:
            raise _os_fault(exc, name, findings) from exc
    if len(raw) > LIMIT:
        size = max(status.st_size, len(raw))
        raise findings.stop(
            Code.TOO_LARGE,
            f"larger than 16 MiB: {size:,} bytes",
            file=name,
            hint="split it into several files",
        )
    return raw


def _os_fault(exc: OSError, name: str, findings: Findings) -> Exception:
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return findings.stop(Code.NO_FILE, "no such file", file=name)
    if exc.errno in (errno.EACCES, errno.EPERM):
        return findings.stop(
            Code.UNREADABLE, "permission denied", file=name, hint="give this user the right to read it"
        )
    if exc.errno in (errno.ENXIO, errno.EISDIR, errno.EOPNOTSUPP):
        return findings.stop(Code.NOT_REGULAR, "not a regular file", file=name)
    return findings.stop(Code.UNREADABLE, f"can't be read: {os.strerror(exc.errno or 0)}", file=name)


def decode(raw: bytes, name: str, findings: Findings, *, controls: bool = False) -> Source:
    """The bytes as text; a UTF-8 byte order mark is dropped."""
    start = Position(name, 1, 1)
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or raw[:2] in (b"\0v", b"v\0"):
        raise findings.stop(Code.ENCODING, "the file is UTF-16; use UTF-8", start)
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        before = raw[: exc.start].decode("utf-8")
        message = f"not UTF-8: byte 0x{raw[exc.start]:02x}"
        raise findings.stop(
            Code.ENCODING, message, place_of(before, len(before), name), hint="save the file as UTF-8"
        ) from exc
    source = Source(name, text)
    findings.sources[name] = source
    bad = None if controls else _FORBIDDEN.search(text)
    if bad:
        code = f"U+{ord(bad[0]):04X}"
        message = f"character {code} is not allowed in a spec"
        raise findings.stop(
            Code.CHARACTER,
            message,
            place_of(text, bad.start(), name),
            hint="remove it, or write it as an escape in quotes",
        )
    return source


def place_of(text: str, index: int, name: str) -> Position:
    """Line and column of a character. A carriage return with a line feed is one break."""
    breaks = list(_BREAK.finditer(text, 0, index))
    last = breaks[-1].end() if breaks else 0
    return Position(name, len(breaks) + 1, index - last + 1)
