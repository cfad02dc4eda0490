"""Renders the leaves that hold templates, in one bounded child process; tells where one is wrong. Knows no sections of a spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from falplan.core.errors import Position
from falplan.core.spec.codes import Code
from falplan.core.spec.tree import Map, Node, Scalar, Seq, like, map_like, put, seq_like
from falplan.core.spec.words import did_you_mean, escaped, quoted
from falplan.stores.spec.findings import Findings
from falplan.stores.spec.read import place_of
from falplan.stores.spec.sandbox import MESSAGE, Exhausted, Sandbox, Scope

__all__ = ["Renderer", "Scope", "is_template"]


def is_template(leaf: Scalar) -> bool:
    """Whether the leaf is rendered at all."""
    return "{{" in leaf or "{%" in leaf


class Renderer:
    """Renders trees. The child starts with the first template and ends with the renderer."""

    def __init__(self, findings: Findings) -> None:
        self.sandbox = Sandbox()
        self._findings = findings
        self._done: dict[tuple[str, str], dict[str, Any]] = {}

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sandbox.end()

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

    def names(self, leaf: Scalar) -> tuple[tuple[str, ...], ...]:
        """What the template reads of its scope, each as the path to it: `("apps", "main", "hello", "url")`. Empty after noting an error.

        Raises:
            Stop: when it exhausted its bounds.
        """
        try:
            reply = self.sandbox.names(str(leaf))
        except Exhausted as exc:
            raise self._findings.stop(Code.EXHAUSTED, MESSAGE, self._place(leaf, 0)) from exc
        if "names" not in reply:
            self._note(leaf, Scope.of({}), reply)
            return ()
        return tuple(tuple(map(str, path)) for path in reply["names"])

    def place_of_word(self, leaf: Scalar, word: str) -> Position:
        """Where a word stands in the template's own text; where the template begins if it is not there as it is."""
        source = self._findings.sources[leaf.start.name].text
        found = re.search(rf"\b{re.escape(word)}\b", source[leaf.start.index : leaf.end.index])
        if found is None:
            return self._place(leaf, 0)
        return place_of(source, leaf.start.index + found.start(), leaf.start.name)

    def _reply(self, leaf: Scalar, scope: Scope) -> dict[str, Any]:
        key = (str(leaf), scope.key)
        if key not in self._done:
            self._done[key] = self._ask(leaf, scope)
        return self._done[key]

    def _ask(self, leaf: Scalar, scope: Scope) -> dict[str, Any]:
        try:
            return self.sandbox.render(str(leaf), scope)
        except Exhausted as exc:
            raise self._findings.stop(Code.EXHAUSTED, MESSAGE, self._place(leaf, 0)) from exc

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
