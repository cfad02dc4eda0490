"""Renders the leaves that hold templates, in one bounded child process. Knows nothing of what a spec holds."""

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

from falplan.core.errors import Position
from falplan.core.spec.codes import Code
from falplan.core.spec.tree import Map, Node, Scalar, Seq, like, map_like, put, seq_like
from falplan.core.spec.words import did_you_mean, escaped, quoted
from falplan.core.values import Json
from falplan.stores.spec.findings import Findings, Stop
from falplan.stores.spec.read import place_of

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


def is_template(leaf: Scalar) -> bool:
    """Whether the leaf is rendered at all."""
    return "{{" in leaf or "{%" in leaf


class Renderer:
    """Renders trees. The child starts with the first template and ends with the renderer."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._wait = WAIT
        self._sent_scope = ""
        self._done: dict[tuple[str, str], dict[str, Any]] = {}

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def tree(self, node: Node, scope: Scope) -> Node | None:
        """The same tree with every template rendered; None after noting why one can't be.

        Raises:
            Stop: when a template exhausted its bounds, so that none can be rendered any more.
        """
        if isinstance(node, Scalar):
            return self.leaf(node, scope) if is_template(node) else node
        if not node.templated:
            return node
        return self._map(node, scope) if isinstance(node, Map) else self._seq(node, scope)

    def _map(self, node: Map, scope: Scope) -> Map | None:
        made = map_like(node)
        failed = False
        for key, value in node.items():
            rendered_key: Scalar | None = node.keys_at[key]
            if rendered_key is not None and is_template(rendered_key):
                rendered_key = self.leaf(rendered_key, scope)
            rendered = self.tree(value, scope)
            if rendered_key is None or rendered is None:
                failed = True
                continue
            put(made, rendered_key, rendered)
        return None if failed else made

    def _seq(self, node: Seq, scope: Scope) -> Seq | None:
        made = seq_like(node)
        items = [self.tree(item, scope) for item in node]
        made.extend(item for item in items if item is not None)
        return made if len(made) == len(node) else None

    def leaf(self, leaf: Scalar, scope: Scope) -> Scalar | None:
        """The rendered leaf, in the place of its template. An expression alone keeps a number or boolean as one."""
        reply = self._reply(leaf, scope)
        if "value" in reply:
            return _leaf_of(reply["value"], leaf)
        self._note(leaf, scope, reply)
        return None

    def _reply(self, leaf: Scalar, scope: Scope) -> dict[str, Any]:
        key = (str(leaf), scope.key)
        if key not in self._done:
            self._done[key] = self._ask(leaf, scope)
        return self._done[key]

    def _ask(self, leaf: Scalar, scope: Scope) -> dict[str, Any]:
        child = self._child or self._start()
        job: dict[str, Any] = {"template": str(leaf)}
        if scope.key != self._sent_scope:
            job["scope"] = scope.values
            self._sent_scope = scope.key
        self._wait = min(self._wait + PER_LEAF, WAIT)
        try:
            assert child.stdin is not None  # noqa: S101 - opened as a pipe
            child.stdin.write(json.dumps(job).encode() + b"\n")
            child.stdin.flush()
        except OSError as exc:
            raise self._exhausted(leaf) from exc
        line = self._line(child)
        if line is None:
            raise self._exhausted(leaf)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = child = subprocess.Popen(
            [sys.executable, "-I", "-B", os.fspath(CHILD)],
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

    def _exhausted(self, leaf: Scalar) -> Stop:
        self._end()
        return self._findings.stop(Code.EXHAUSTED, MESSAGE, self._place(leaf, 0))

    def _end(self) -> None:
        child, self._child = self._child, None
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

    def _note(self, leaf: Scalar, scope: Scope, reply: Mapping[str, Any]) -> None:
        message = escaped(str(reply.get("message", "")))
        match reply["error"]:
            case "syntax":
                self._findings.add(
                    Code.TEMPLATE, f"bad template: {message}", self._line_place(leaf, int(reply["line"]))
                )
            case "undefined":
                self._undefined(leaf, scope, reply)
            case "forbidden":
                self._findings.add(Code.FORBIDDEN, f"not allowed in templates: {message}", self._place(leaf, 0))
            case "exhausted":
                self._findings.add(Code.EXHAUSTED, MESSAGE, self._place(leaf, 0))
            case _:
                self._findings.add(Code.TEMPLATE, f"the template fails: {message}", self._place(leaf, 0))

    def _undefined(self, leaf: Scalar, scope: Scope, reply: Mapping[str, Any]) -> None:
        name = str(reply["name"])
        inner = scope.values.get("var")
        variables = list(inner) if isinstance(inner, dict) else []
        known = variables if "has no" in str(reply["message"]) else list(scope.values)
        hint = did_you_mean(name, known)
        if name in ("each", "environment"):
            hint = "`each` exists in apps with for_each, `environment` in apps"
        elif name in variables and name not in scope.values:
            hint = f"write var.{name}"
        message = f"{quoted(name)} is not defined" if name else escaped(str(reply["message"]))
        self._findings.add(Code.UNDEFINED, message, self._place(leaf, int(reply["offset"])), hint=hint)

    def _place(self, leaf: Scalar, offset: int) -> Position:
        """Where the template's `{{` at that offset stands in the file: the n-th one of the leaf's own text."""
        source = self._findings.sources[leaf.start.name].text
        opener = "{%" if leaf[offset : offset + 2] == "{%" or "{{" not in leaf else "{{"
        nth = leaf.count(opener, 0, offset)
        index = leaf.start.index - 1
        for _ in range(nth + 1):
            index = source.find(opener, index + 1, leaf.end.index)
            if index < 0:
                return Position(leaf.start.name, leaf.start.line + 1, leaf.start.column + 1)
        return place_of(source, index, leaf.start.name)

    def _line_place(self, leaf: Scalar, line: int) -> Position:
        start = leaf.start
        if line == 1 and not leaf.block:
            return self._place(leaf, 0)
        number = start.line + line + (1 if leaf.block else 0)
        text = self._findings.sources[start.name].line(number)
        return Position(start.name, number, len(text) - len(text.lstrip()) + 1)


def _leaf_of(value: Any, origin: Scalar) -> Scalar:
    if isinstance(value, bool):
        return like("true" if value else "false", origin, plain=True)
    if isinstance(value, str):
        return like(value, origin, plain=False)
    return like(repr(value), origin, plain=True)
