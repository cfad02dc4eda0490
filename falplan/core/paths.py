"""One spelling for each request path, or a refusal. Knows no routes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HIDDEN = re.compile(r"%(?:2e|2f|5c|00)", re.IGNORECASE)  # what a second decoding would turn into structure
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_PLAIN = "-._~!$&'()*+,;=:@"
_USUAL = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")  # spelt in one way only


class BadPath(ValueError):
    """The request target is ambiguous or malformed; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A request's path in its one spelling, beginning with '/', and its query as it came, without '?'."""

    path: str
    query: str


def canonical_target(target: str, host: str) -> Target:
    """The one spelling of a raw request target; `host` is the Host header.

    Decisions and the runner get the same string, so nothing can mean one thing here and another thing there. A
    canonical path stays as it is.

    Raises:
        BadPath: dot or empty segments, encoded slashes, backslashes or control characters (also encoded twice), broken
            escapes, text that is not UTF-8, a fragment, or an absolute form of another authority.
    """
    if not _PRINTABLE.fullmatch(target):
        raise BadPath("the path holds characters that must be percent-encoded")
    if "#" in target:
        raise BadPath("the path holds a fragment")
    if absolute := _ABSOLUTE.fullmatch(target):
        if absolute[1].lower() != host.lower():
            raise BadPath("the target names another authority than Host")
        target = absolute[2] or "/"
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        raise BadPath("the path does not begin with /")
    return Target(canonical_path(path), query)


def canonical_path(path: str) -> str:
    """The one spelling of a path that begins with '/'. One trailing slash is kept.

    Raises:
        BadPath: as for `canonical_target`.
    """
    segments = path[1:].split("/")
    last = len(segments) - 1
    for index, segment in enumerate(segments):
        if not segment and index != last:
            raise BadPath("the path holds an empty segment")
    return "/" + "/".join(_canonical_segment(s) for s in segments)


def _canonical_segment(segment: str) -> str:
    if _USUAL.fullmatch(segment):
        return segment
    if _BROKEN_ESCAPE.search(segment):
        raise BadPath("the path holds a broken percent-escape")
    raw = unquote_to_bytes(segment)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadPath("the path is not UTF-8") from None
    if text.partition(";")[0] in (".", ".."):
        raise BadPath("the path holds a dot segment")
    if any(c in "/\\" or ord(c) < 0x20 or ord(c) == 0x7F for c in text) or _HIDDEN.search(text):
        raise BadPath("the path holds an encoded slash, backslash, dot or control character")
    return quote(raw, safe=_PLAIN)
