"""The child process that evaluates templates, and what may be asked of it. Knows no specs, places or findings."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from falplan.core.values import Json

WAIT = 5.0
PER_LEAF = 0.002
"""Seconds that the parent waits for answers: at most WAIT at a stretch, and PER_LEAF each in the long run."""
CHILD = Path(__file__).with_name("template_child.py")
MESSAGE = "template exceeded 2 s / 256 MB"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a template may name. `key` is equal for equal scopes."""

    key: str
    values: Mapping[str, Json]

    @staticmethod
    def of(values: Mapping[str, Json]) -> Scope:
        """A scope with its key."""
        return Scope(json.dumps(values, sort_keys=True), values)


class Exhausted(Exception):
    """A template took more time or memory than it may. The child is gone, and another one starts with the next question."""


class Sandbox:
    """The child process. It starts with the first question and ends with `end`, or with the block that it is used in."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._wait = WAIT
        self._sent_scope = ""

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def render(self, template: str, scope: Scope) -> dict[str, Any]:
        """`{"value": …}`, or `{"error": KIND, …}` as the child describes it.

        Raises:
            Exhausted
        """
        job: dict[str, Any] = {"template": template}
        if scope.key != self._sent_scope:
            job["scope"] = scope.values
        reply = self._ask(job)
        self._sent_scope = scope.key
        return reply

    def value(self, template: str, scope: Scope) -> tuple[Json, str]:
        """What the template gives, or why it gives nothing."""
        try:
            reply = self.render(template, scope)
        except Exhausted:
            return None, MESSAGE
        if "value" in reply:
            return reply["value"], ""
        return None, MESSAGE if reply["error"] == "exhausted" else str(reply["message"])

    def names(self, template: str) -> dict[str, Any]:
        """`{"names": [[…], …]}`: what the template reads of its scope, each as the path to it; or an error. Evaluates nothing.

        Raises:
            Exhausted
        """
        return self._ask({"template": template, "names": True})

    def end(self) -> None:
        """Kill the child. May be called again."""
        child, self.child = self.child, None
        self._sent_scope = ""
        self._buffer = b""
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass  # what was buffered for a child that is gone
        child.wait()

    def _ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        child = self.child or self._start()
        self._wait = min(self._wait + PER_LEAF, WAIT)
        try:
            assert child.stdin is not None  # noqa: S101 - opened as a pipe
            child.stdin.write(json.dumps(job).encode() + b"\n")
            child.stdin.flush()
        except OSError as exc:
            self.end()
            raise Exhausted(MESSAGE) from exc
        line = self._line(child)
        if line is None:
            self.end()
            raise Exhausted(MESSAGE)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _start(self) -> subprocess.Popen[bytes]:
        self.child = child = subprocess.Popen(
            [sys.executable, "-I", os.fspath(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
        )
        return child

    def _line(self, child: subprocess.Popen[bytes]) -> bytes | None:
        """One line of the child, or None if it ended or the time is up. Only waiting counts, not the parent's own work."""
        begun = monotonic()
        assert child.stdout is not None  # noqa: S101 - opened as a pipe
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = self._wait - (monotonic() - begun)
                if left <= 0 or not selector.select(left):
                    return None
                chunk = os.read(child.stdout.fileno(), 2**16)
                if not chunk:
                    return None
                self._buffer += chunk
        self._wait -= monotonic() - begun
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
