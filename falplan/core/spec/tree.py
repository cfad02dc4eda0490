"""A parsed YAML document whose every key and value knows its place. Knows nothing of what the keys mean.

The nodes are strings, dicts and lists, so that validation reads them without a conversion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol, TypeAlias

from falplan.core.errors import Position
from falplan.core.values import Json


class Mark(Protocol):
    """A place in a file: `name` is the file, `line` and `column` count characters from 0, `index` from the file's start."""

    @property
    def name(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


class Scalar(str):
    """A leaf's raw text. `plain` means that it stood without quotes, so a number, boolean or null may be meant."""

    __slots__ = ("block", "end", "plain", "start")
    start: Mark
    end: Mark
    plain: bool
    block: bool


class Seq(list["Node"]):
    """A list and the place where it starts."""

    __slots__ = ("height", "size", "start", "templated")
    start: Mark
    size: int
    height: int
    templated: bool


class Map(dict[str, "Node"]):
    """A mapping, the place where it starts, and its keys with their places."""

    __slots__ = ("height", "keys_at", "size", "start", "templated")
    start: Mark
    size: int
    height: int
    templated: bool
    keys_at: dict[str, Scalar]


Node: TypeAlias = "Scalar | Seq | Map"


def position(node: Node) -> Position:
    """Where the node starts."""
    return at(node.start)


def at(mark: Mark) -> Position:
    """The mark as a position that counts from 1."""
    return Position(mark.name, mark.line + 1, mark.column + 1)


def like(text: str, origin: Scalar, *, plain: bool) -> Scalar:
    """A new leaf that stands where the other one stands."""
    made = Scalar(text)
    made.start, made.end, made.block, made.plain = origin.start, origin.end, origin.block, plain
    return made


def map_like(origin: Map) -> Map:
    """An empty mapping that stands where the other one stands."""
    made = Map()
    made.start, made.size, made.templated, made.keys_at = origin.start, origin.size, origin.templated, {}
    made.height = origin.height
    return made


def seq_like(origin: Seq) -> Seq:
    """An empty list that stands where the other one stands."""
    made = Seq()
    made.start, made.size, made.templated = origin.start, origin.size, origin.templated
    made.height = origin.height
    return made


def put(target: Map, key: Scalar, value: Node) -> None:
    """Set a key together with its place."""
    target[key] = value
    target.keys_at[key] = key


def overlay(base: Map, over: Map) -> Map:
    """`over` laid on `base`: mappings merge in depth, everything else replaces. Places are those of the winner."""
    merged = map_like(base)
    merged.templated = base.templated or over.templated
    for key, value in base.items():
        put(merged, base.keys_at[key], value)
    for key, value in over.items():
        below = merged.get(key)
        both = overlay(below, value) if isinstance(below, Map) and isinstance(value, Map) else value
        put(merged, over.keys_at[key], both)
    return merged


def leaves(node: Node) -> Iterator[Scalar]:
    """Every leaf value below the node, in order. Keys are not leaves."""
    if isinstance(node, Scalar):
        yield node
    else:
        for child in node.values() if isinstance(node, Map) else node:
            yield from leaves(child)


NULLS = frozenset(("", "~", "null", "Null", "NULL"))
BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def is_null(node: object) -> bool:
    """Whether nothing was written, or null."""
    return node is None or (isinstance(node, Scalar) and node.plain and node in NULLS)


def integer(text: str) -> int | None:
    """The whole number that YAML 1.2's core schema reads, or None. At most 20 characters are looked at."""
    if len(text) > 20 or not INT.fullmatch(text):
        return None
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def scalar_value(leaf: Scalar) -> Json:
    """The value that YAML 1.2's core schema gives a leaf. Numbers out of range stay text."""
    if not leaf.plain:
        return str(leaf)
    if leaf in NULLS:
        return None
    if leaf in BOOLS:
        return BOOLS[leaf]
    number = integer(leaf)
    if number is not None:
        return number
    if FLOAT.fullmatch(leaf) and len(leaf) <= 40:
        value = float(leaf)
        return value if abs(value) != float("inf") else str(leaf)
    return str(leaf)


def json_value(node: Node) -> Json:
    """The plain value of a tree, by YAML 1.2's core schema."""
    if isinstance(node, Map):
        return {str(key): json_value(value) for key, value in node.items()}
    if isinstance(node, Seq):
        return [json_value(item) for item in node]
    return scalar_value(node)


def kind(value: object) -> str:
    """What the value is, for people."""
    if isinstance(value, Scalar) and value.plain:
        if value in NULLS:
            return "nothing"
        if value in BOOLS:
            return "a boolean"
        return "a number" if FLOAT.fullmatch(value) or integer(value) is not None else "text"
    if value is None:
        return "nothing"
    names = {bool: "a boolean", int: "a number", float: "a number", dict: "a mapping"}
    for known, name in names.items():
        if isinstance(value, known):
            return name
    return "text" if isinstance(value, str) else "a list"
