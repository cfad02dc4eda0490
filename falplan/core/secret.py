"""A secret's value while it is in memory, which shows itself nowhere. Reads nothing."""

from __future__ import annotations

import hmac
from typing import NoReturn

HIDDEN = "(secret)"
LONGEST = 131_072
"""Bytes that Linux allows for one environment variable, its name, the equals sign and the final NUL included."""


class SecretValue:
    """Bytes that nothing prints, formats, pickles, copies or turns into JSON. `reveal` is the one way to them."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The value itself, for what delivers it."""
        return self._value

    def __repr__(self) -> str:
        return HIDDEN

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretValue):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a hash of a short value would tell it

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is never pickled or copied")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret is never pickled or copied")


def misfit(name: str, value: SecretValue) -> str:
    """Why the value can't be an environment variable; empty if it can. Tells nothing of it but its length."""
    content = value.reveal()
    if b"\0" in content:
        return "it holds a NUL byte, which no environment variable can hold"
    room = LONGEST - len(name) - 2
    if len(content) > room:
        return f"it has {len(content):,} bytes; an environment variable of this name can hold {room:,}"
    return ""
