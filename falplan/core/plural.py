"""Numbers of things, in words."""

from __future__ import annotations


def count(number: int, word: str) -> str:
    """`1 runner`, `2 runners`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
