"""Builds the tree of a YAML document from libyaml's events, within limits. Knows nothing of what a spec holds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from falplan.core.errors import Position, Related
from falplan.core.spec.codes import Code
from falplan.core.spec.tree import BOOLS, NULLS, Map, Mark, Node, Scalar, Seq, at, put, scalar_value
from falplan.core.spec.words import quoted
from falplan.stores.spec.findings import Findings, Source, Stop

if TYPE_CHECKING:
    CParser: Any
else:
    from yaml._yaml import CParser  # yaml.CLoader's parser without its constructors

DEPTH = 64
NODES = 1_000_000
EXPANSION = 100_000
TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "seq", "map")}


_WORDS = NULLS | BOOLS.keys()


def _is_no_text(leaf: Scalar) -> bool:
    return leaf != "<<" and not isinstance(scalar_value(leaf), str)


class Stream(io.BytesIO):
    """Bytes with the name that marks carry."""

    name = ""


def compose(source: Source, findings: Findings, *, nodes: int = NODES) -> Node | None:
    """The one document of the source, or None if it holds nothing. `nodes` is how many it may have.

    Raises:
        Stop: after noting what can't be read.
    """
    stream = Stream(source.text.encode())
    stream.name = source.name
    parser = CParser(stream)
    builder = _Builder(source, findings, nodes)
    try:
        return builder.build(parser)
    except yaml.MarkedYAMLError as exc:
        raise _syntax(exc, source, findings) from exc
    except yaml.YAMLError as exc:
        raise findings.stop(Code.SYNTAX, "YAML can't be read", Position(source.name, 1, 1)) from exc


class _Builder:
    """State of one composition: the open containers, the anchors, and how much was built and expanded."""

    def __init__(self, source: Source, findings: Findings, nodes: int) -> None:
        self.source, self.findings, self.limit = source, findings, nodes
        self.anchors: dict[str, Node] = {}
        self.anchored_at: dict[str, Mark] = {}
        self.open: list[Map | Seq] = []
        self.keys: list[Scalar | None] = []
        self.merges: dict[int, list[tuple[Scalar, Node]]] = {}
        self.count = 0
        self.extra = 0
        self.documents = 0
        self.root: Node | None = None

    def build(self, parser: Any) -> Node | None:
        handlers = {
            AliasEvent: self.alias,
            MappingStartEvent: self.start_map,
            SequenceStartEvent: self.start_seq,
            MappingEndEvent: self.end_map,
            SequenceEndEvent: self.end,
            DocumentStartEvent: self.document,
        }
        next_event = parser.get_event
        event = next_event()
        while event is not None:
            kind = type(event)
            if kind is ScalarEvent:
                self.scalar(event)
            elif kind in handlers:
                handlers[kind](event)
            event = next_event()
        self.check_expansion()
        return self.root

    def scalar(self, event: Any) -> None:
        text = event.value
        leaf = Scalar(text)
        leaf.start = event.start_mark
        leaf.end = event.end_mark
        leaf.plain = event.implicit[0]
        leaf.block = False
        if event.tag is not None:
            leaf.plain = self.tag(event) not in ("", "str")
        elif not leaf.plain:
            leaf.block = event.style in ("|", ">")
        if event.anchor is not None:
            self.anchor(event, leaf)
        if "{{" in text or "{%" in text:
            self.mark_templated()
        if self.open and self.keys[-1] is None and type(self.open[-1]) is Map:
            self.key(leaf)
        else:
            self.attach(leaf, 1)

    def tag(self, event: Any) -> str:
        if event.tag == "!":
            return "str"
        name = TAGS.get(event.tag, "")
        if not name:
            shown = event.tag.replace("tag:yaml.org,2002:", "!!")
            hint = "remove it; allowed: !!str !!int !!float !!bool !!null !!seq !!map"
            self.findings.add(Code.TAG, f"tag {quoted(shown)} is not allowed", self.tag_place(event), hint=hint)
        return name

    def tag_place(self, event: Any) -> Position:
        """libyaml marks a node at its properties, of which an anchor may come first."""
        mark = event.start_mark
        line = self.source.line(mark.line + 1)
        skipped = line.find("!", mark.column)
        column = skipped if skipped >= 0 else mark.column
        return Position(mark.name, mark.line + 1, column + 1)

    def anchor(self, event: Any, node: Node) -> None:
        self.anchors[event.anchor] = node
        self.anchored_at[event.anchor] = event.start_mark

    def mark_templated(self) -> None:
        for container in self.open:
            container.templated = True

    def key(self, leaf: Scalar) -> None:
        top = self.open[-1]
        assert isinstance(top, Map)  # noqa: S101 - the caller looked
        self.count_node(leaf)
        if leaf.plain and not (leaf[:1].isalpha() and leaf not in _WORDS) and _is_no_text(leaf):
            shown = leaf if leaf not in NULLS else "null"
            self.findings.add(Code.KEY, f"the key {shown[:40]} is no text", leaf, hint=f'quote it: "{leaf[:40]}"')
        first = top.keys_at.get(leaf)
        if leaf.plain and leaf == "<<":
            earlier = self.merges.get(id(top))
            first = earlier[0][0] if earlier else None
        if first is not None:
            related = [Related(at(first.start), "first here")]
            message = f"{quoted(leaf)} is defined twice"
            hint = f"first at {first.start.line + 1}:{first.start.column + 1}"
            if leaf == "<<":
                hint += "; merge a list: <<: [*a, *b]"
            self.findings.add(Code.DUPLICATE, message, leaf, hint=hint, related=related)
        self.keys[-1] = leaf

    def attach(self, node: Node, size: int) -> None:
        self.count_node(node)
        if not self.open:
            self.root = node
            return
        top = self.open[-1]
        top.size += size
        if type(top) is Seq:
            top.append(node)
            return
        key = self.keys[-1]
        self.keys[-1] = None
        assert isinstance(top, Map)  # noqa: S101 - there are two kinds
        assert key is not None  # noqa: S101 - libyaml alternates keys and values
        if key == "<<" and key.plain:
            self.merges.setdefault(id(top), []).append((key, node))
        elif key not in top:
            top[key] = node
            top.keys_at[key] = key

    def count_node(self, node: Node) -> None:
        self.count += 1
        if self.count > self.limit:
            raise self.findings.stop(Code.TOO_LARGE, f"more than {NODES:,} nodes", at(node.start))

    def start_map(self, event: Any) -> None:
        self.refuse_as_key(event)
        made = Map()
        made.keys_at = {}
        self.start(made, event)

    def start_seq(self, event: Any) -> None:
        self.refuse_as_key(event)
        self.start(Seq(), event)

    def start(self, made: Map | Seq, event: Any) -> None:
        made.start = event.start_mark
        made.size = 1
        made.height = 1
        made.templated = False
        if event.tag is not None and self.tag(event) not in ("", "seq" if type(made) is Seq else "map"):
            self.findings.add(Code.TAG, "the tag is that of another kind of value", self.tag_place(event))
        if event.anchor is not None:
            self.anchor(event, made)
        self.attach(made, 0)
        self.open.append(made)
        self.keys.append(None)
        if len(self.open) > DEPTH:
            raise self.findings.stop(Code.DEPTH, f"nested more than {DEPTH} deep", at(made.start))

    def refuse_as_key(self, event: Any) -> None:
        if not self.open or self.keys[-1] is not None or type(self.open[-1]) is not Map:
            return
        outer = self.open[-1]
        if (
            outer.start.index + 1 == event.start_mark.index
            and self.source.text[outer.start.index : outer.start.index + 2] == "{{"
        ):
            line = self.source.line(outer.start.line + 1)
            rest = line[outer.start.column :].split(" #")[0].strip()
            hint = f'quote the template: "{rest[:60]}"'
            raise self.findings.stop(Code.KEY, "a template must stand in quotes", at(outer.start), hint=hint)
        raise self.findings.stop(Code.KEY, "a key must be text", at(event.start_mark))

    def end_map(self, event: Any) -> None:
        top = self.open[-1]
        for key, node in self.merges.pop(id(top), ()):
            self.merge(top, key, node)
        self.end(event)

    def merge(self, top: Map | Seq, key: Scalar, node: Node) -> None:
        parts = node if isinstance(node, Seq) else [node]
        for part in parts:
            if not isinstance(part, Map):
                self.findings.add(Code.MERGE, "only mappings can be merged", part, hint="write <<: *anchor")
                continue
            assert isinstance(top, Map)  # noqa: S101 - only mappings have keys
            for name, value in part.items():
                if name not in top:
                    put(top, part.keys_at[name], value)

    def end(self, event: Any) -> None:
        done = self.open.pop()
        self.keys.pop()
        if self.open:
            top = self.open[-1]
            top.size += done.size
            if top.height <= done.height:
                top.height = done.height + 1

    def alias(self, event: Any) -> None:
        target = self.anchors.get(event.anchor)
        if target is None:
            raise self.findings.stop(
                Code.ALIAS, f"no anchor {quoted('&' + event.anchor)} before this alias", at(event.start_mark)
            )
        anchored = at(self.anchored_at[event.anchor])
        if any(target is container for container in self.open):
            raise self.findings.stop(Code.ALIAS, f"the anchor {quoted('&' + event.anchor)} holds itself", anchored)
        if isinstance(target, Scalar):
            self.alias_scalar(target, event)
            return
        self.refuse_as_key(event)
        self.extra += target.size
        if target.templated:
            self.mark_templated()
        if len(self.open) + target.height > DEPTH:
            raise self.findings.stop(Code.DEPTH, f"nested more than {DEPTH} deep", at(event.start_mark))
        self.attach(target, target.size)
        if self.open[-1].height <= target.height:
            self.open[-1].height = target.height + 1

    def alias_scalar(self, target: Scalar, event: Any) -> None:
        if "{{" in target or "{%" in target:
            self.mark_templated()
        if self.open and self.keys[-1] is None and type(self.open[-1]) is Map:
            self.key(target)
        else:
            self.attach(target, 1)

    def document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            raise self.findings.stop(
                Code.DOCUMENTS, "a second document starts here", at(event.start_mark), hint="one spec is one document"
            )
        if event.tags:
            raise self.findings.stop(Code.TAG, "%TAG directives are not allowed", at(event.start_mark))

    def check_expansion(self) -> None:
        """Refuse a document whose aliases expand it too far. Sizes were added up on the way, nothing was expanded."""
        if self.root is None or isinstance(self.root, Scalar) or not self.extra:
            return
        total = self.root.size
        if total - self.count > EXPANSION or total > max(10 * self.count, 1000):
            name, mark = self.largest()
            message = f"aliases expand the file to {total:,} nodes, limit {EXPANSION:,} more and ten-fold"
            self.findings.add(Code.EXPANSION, message, at(mark), hint=f"the largest anchor is &{name}")
            raise Stop(message)

    def largest(self) -> tuple[str, Mark]:
        def weight(name: str) -> tuple[int, str]:
            node = self.anchors[name]
            return (1 if isinstance(node, Scalar) else node.size), name

        name = max(self.anchors, key=weight)
        return name, self.anchored_at[name]


_CONTEXT_FIRST = ("while scanning a quoted scalar", "while parsing a flow sequence", "while parsing a flow mapping")
_PLAIN = {
    "mapping values are not allowed in this context": (
        "mapping value not allowed here",
        "quote the text, or check the indentation",
    ),
    "found unexpected end of stream": ("the quote is never closed", ""),
    "did not find expected ',' or ']'": ("the list is never closed", "add ] or a comma"),
    "did not find expected ',' or '}'": ("the mapping is never closed", "add } or a comma"),
    "found character that cannot start any token": ("this character can't start a value", "quote the text"),
    "did not find expected key": ("expected a key", "check the indentation"),
    "did not find expected '-' indicator": ("expected `- `", "check the indentation"),
    "could not find expected ':'": ("expected `:` after the key", "write key: value"),
    "found invalid Unicode character escape code": (
        "not valid Unicode",
        "the escape names a surrogate or no character",
    ),
}


def _syntax(exc: yaml.MarkedYAMLError, source: Source, findings: Findings) -> Stop:
    problem = str(exc.problem or "YAML can't be read")
    first = (exc.context or "") in _CONTEXT_FIRST and problem != "found invalid Unicode character escape code"
    mark = (exc.context_mark if first else None) or exc.problem_mark or exc.context_mark
    if mark is None:
        return findings.stop(Code.SYNTAX, problem, Position(source.name, 1, 1))
    where = Position(source.name, mark.line + 1, mark.column + 1)
    line = source.line(where.line)
    if line[mark.column : mark.column + 1] == "\t" or (problem.startswith("found character") and line[:1] == "\t"):
        return findings.stop(Code.SYNTAX, "tab not allowed for indentation", where, hint="use spaces")
    if problem == "found incompatible YAML document":
        return findings.stop(Code.TAG, "this YAML version is not supported", where, hint="remove the %YAML line")
    if "undefined tag handle" in problem:
        return findings.stop(Code.TAG, "undefined tag handle", where, hint="remove the tag")
    code = Code.ENCODING if "Unicode" in problem else Code.SYNTAX
    message, hint = _PLAIN.get(problem, (problem, ""))
    return findings.stop(code, message, where, hint=hint)
