"""How long something has been, as it is told in one unit."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """`3 d`, `7 h`, `12 min`, `42 s`: rounded, in the largest unit of which there is one."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
