"""A word that stands nowhere else, and the shapes that it may be found in: what holds it must be in no output and in no file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

WORD = "cAnArYwOrD7"
"""In every value that is long enough to be looked for, with a number behind it."""


def word(number: int) -> str:
    return f"{WORD}{number:03d}"


def at_alignments(content: bytes) -> Iterator[bytes]:
    """What of the Base64 of anything with this inside does not depend on what is around it."""
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + content)
        first, last = -(-8 * shift // 6), 8 * (shift + len(content)) // 6
        yield encoded[first:last]


def shapes_of_word() -> dict[str, bytes]:
    plain = WORD.encode()
    found = {
        "as it is": plain,
        "backwards": plain[::-1],
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
    }
    found |= {f"base64 {n}": part for n, part in enumerate(at_alignments(plain))}
    found |= {f"base64 backwards {n}": part[::-1] for n, part in enumerate(at_alignments(plain))}
    found |= {"utf-16": WORD.encode("utf-16-le"), "url": "".join(f"%{c:02x}" for c in plain).encode()}
    found |= {
        "json": "".join(f"\\u{c:04x}" for c in plain).encode(),
        "octal": "".join(f"\\{c:03o}" for c in plain).encode(),
    }
    return found


SHAPES = shapes_of_word()


def leaked(content: bytes) -> list[str]:
    """Which shape of the word stands there; also where lines are broken, coloured or indented in the midst of it."""
    joined = re.sub(rb"\x1b\[[0-9;]*m|[\s|>]+", b"", content)
    return [name for name, shape in SHAPES.items() if shape in content or shape in joined]
