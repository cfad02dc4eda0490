"""Names and how a misspelt one is met. Knows nothing of where they stand."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
NAME_PATTERN = "^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
NAME_LIMIT = 63
NAME_RULE = "lower-case letters, digits and single hyphens, a letter first, at most 63"
TYPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def is_name(text: str) -> bool:
    """Whether the text may name a project, owner, app, environment or region."""
    return len(text) <= NAME_LIMIT and NAME.fullmatch(text) is not None


SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox")
VARIABLE = re.compile(r"\$(?:[A-Z_][A-Z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})")
OPERATORS = ("&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1")


def shell_syntax(argv: Sequence[str]) -> str:
    """The first thing in a command that only a shell would understand; empty if there is none, or a shell is what runs."""
    if not argv or any(word.rpartition("/")[2] in SHELLS for word in argv):
        return ""
    for word in argv:
        found = VARIABLE.search(word)
        if found or word in OPERATORS:
            return found[0] if found else word
    return ""


def path_fault(word: str) -> str:
    """Why the text is no path below a folder, or an empty string."""
    if not word:
        return "is empty"
    if "\0" in word or not word.isprintable():
        return "holds a control character"
    if word.startswith("/") or "\\" in word or re.match(r"[A-Za-z]:", word):
        return "is no relative path with forward slashes"
    if word.startswith("~"):
        return "starts at a home folder"
    return "leaves the folder" if ".." in word.split("/") else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like this one, or an empty string."""
    if len(word) > 100:
        return ""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return close[0] if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?`, or the known words if none is near, or nothing if there are none."""
    names = sorted(known)
    close = nearest(word, names)
    if close:
        return f'did you mean "{close}"?'
    if not names:
        return ""
    return "known: " + ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def quoted(text: str, limit: int = 60) -> str:
    """The text between quotes with control characters escaped, cut after `limit` characters."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return '"' + escaped(cut) + '"'


def escaped(text: str) -> str:
    """The text with everything that a terminal would act on written as `\\x1b` or `\\u202e`."""
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
