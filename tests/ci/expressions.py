"""Evaluates the expressions of GitHub's workflows, `${{ … }}`, as far as ours use them. Anything else is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_TOKENS = re.compile(r"\s*(?:('(?:[^']|'')*')|([A-Za-z_][\w-]*(?:\.[A-Za-z_*][\w-]*)*)|(==|!=|&&|\|\||[!()]))")
_INSIDE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
STATUS = ("success", "failure", "cancelled", "always")


def fill(text: str, contexts: Mapping[str, Any], status: Mapping[str, bool]) -> str:
    """The text with its expressions replaced."""
    return _INSIDE.sub(lambda m: as_text(evaluate(m[1], contexts, status)), text)


def holds(condition: str, contexts: Mapping[str, Any], status: Mapping[str, bool]) -> bool:
    """What `if:` says: with `success()` around it, unless it asks for the status itself."""
    inner = _INSIDE.sub(lambda m: m[1], condition)
    if not any(f"{name}()" in inner for name in STATUS) and not status["success"]:
        return False
    return bool(evaluate(inner, contexts, status)) if inner.strip() else True


def evaluate(expression: str, contexts: Mapping[str, Any], status: Mapping[str, bool]) -> Any:
    tokens, at = [], 0
    text = expression.strip()
    while at < len(text):
        match = _TOKENS.match(text, at)
        assert match, f"can't read {text[at:]!r}"
        tokens.append(match.group(0).strip())
        at = match.end()
    parser = _Parser(tokens, contexts, status)
    value = parser.either()
    assert not parser.tokens, f"more than an expression: {parser.tokens}"
    return value


def as_text(value: Any) -> str:
    if value is None:
        return ""
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


@dataclass
class _Parser:
    tokens: list[str]
    contexts: Mapping[str, Any]
    status: Mapping[str, bool]

    def either(self) -> Any:
        return self._chain("||", self.both, lambda a, b: a or b)

    def both(self) -> Any:
        return self._chain("&&", self.same, lambda a, b: a and b)

    def same(self) -> Any:
        left = self.one()
        while self.tokens and self.tokens[0] in ("==", "!="):
            equal = self.tokens.pop(0) == "=="
            left = (as_text(left).lower() == as_text(self.one()).lower()) is equal
        return left

    def one(self) -> Any:
        token = self.tokens.pop(0)
        if token == "!":
            return not self.one()
        if token == "(":
            value = self.either()
            assert self.tokens.pop(0) == ")"
            return value
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if token in STATUS:
            assert [self.tokens.pop(0), self.tokens.pop(0)] == ["(", ")"]
            return self.status[token]
        return self._look_up(token)

    def _look_up(self, path: str) -> Any:
        value: Any = self.contexts
        first, *rest = path.split(".")
        assert first in self.contexts, f"no context {first!r} here"
        value = self.contexts[first]
        for name in rest:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def _chain(self, operator: str, part: Callable[[], Any], join: Callable[[Any, Any], Any]) -> Any:
        value = part()
        while self.tokens and self.tokens[0] == operator:
            self.tokens.pop(0)
            value = join(value, part())
        return value
