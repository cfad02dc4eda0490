"""An exception at every failpoint, with secrets in scope and whole tracebacks asked for: no value of theirs is told or written anywhere.

Each case goes on as after a kill: one apply converges.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.canaries import leaked, word

from .cases import Case, passes, phases_of_points, strike_at_point
from .sandbox import Broken, Ran, Sandbox

BOUNDED = 6
REQUESTS = ("request.", "queue.")
"""Points on the way of a request, where no secret is in scope; an exception there, which no disk can cause, ends the request's task."""


@dataclass
class Watched(Sandbox):
    """A sandbox whose secrets hold a word to look for, and that remembers what was said."""

    said: list[Ran] = field(default_factory=list)

    def environ(self, **more: str) -> dict[str, str]:
        return Sandbox.environ(self, **{"PLANTED": f"{self.planted}-{word(1)}", **more})

    def run(self, *args: str, **more: str) -> Ran:
        ran = Sandbox.run(self, *args, **more)
        self.said.append(ran)
        return ran

    def set_secret(self, name: str, value: bytes, environment: str = "main", **more: str) -> Ran:
        ran = Sandbox.set_secret(self, name, value + word(2).encode(), environment, **more)
        self.said.append(ran)
        return ran

    def check_silent(self) -> None:
        """Neither an output nor a file below the folder holds the word, in any shape.

        Raises:
            Broken: says where.
        """
        texts = {f"output {number}": (ran.out + ran.err).encode() for number, ran in enumerate(self.said)}
        found = {where: shapes for where, content in texts.items() if (shapes := leaked(content))}
        for path in self.folder.rglob("*"):
            if shapes := leaked(_content(path)):
                found[str(path)] = shapes
        if found:
            raise Broken(f"told: {found}\n" + "\n".join(str(r) for r in self.said))


def _content(path: Path) -> bytes:
    """Of a file; sockets, folders and what is removed meanwhile have none."""
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    except FileNotFoundError:
        return b""


def raise_cases(rng: random.Random, full: bool) -> Iterator[Case]:
    """Every failpoint in the first phase that passes it, or a few."""
    cases = [
        (point, phase) for point, phase in passes(phases_of_points(), every=False) if not point.startswith(REQUESTS)
    ]
    rng.shuffle(cases)
    for point, phase in cases if full else cases[:BOUNDED]:
        yield Case(f"an exception at {point} in {phase}", partial(raise_at_point, point, phase))


def raise_at_point(point: str, phase: str) -> None:
    box = Watched(secrets=True)
    strike_at_point(box, point, phase, "raise", box.check_silent, FALPLAN_DEBUG="1")
