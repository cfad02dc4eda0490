"""Rewrites YAML in the standard layout and proves that nothing but the layout changed. Knows nothing of specs."""

from __future__ import annotations

import io

from falplan.core.errors import FalplanError, SpecInvalid
from falplan.core.spec.tree import Map, Node, Scalar, Seq, is_null
from falplan.stores.spec.compose import compose
from falplan.stores.spec.findings import Findings, Stop
from falplan.stores.spec.read import decode

WIDE = 1_000_000


def format_text(text: str, name: str) -> str:
    """The text with two spaces of indentation, no trailing space and one newline at its end; comments stay.

    Running it again changes nothing.

    Raises:
        SpecInvalid: the text is no YAML that a spec may hold.
        FalplanError: the layout can't be changed without changing the meaning; nothing is lost.
    """
    before = _tree(text, name)
    if before is None:
        return text
    made = _laid_out(text, name)
    if not _same(before, _tree(made, name)) or text.count("#") != made.count("#"):
        detail = f"{name} can't be formatted without changing what it says. It is left as it is."
        raise FalplanError("Formatting refused", detail)
    return made


def _tree(text: str, name: str) -> Node | None:
    findings = Findings()
    try:
        tree = compose(decode(text.encode(), name, findings), findings)
    except Stop as exc:
        raise SpecInvalid(findings.sorted()) from exc
    findings.raise_if_failed()
    return tree


def _laid_out(text: str, name: str) -> str:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    layout = YAML(typ="rt")
    layout.preserve_quotes = True
    layout.width = WIDE
    layout.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    try:
        layout.dump(layout.load(text), stream)
    except (YAMLError, ValueError, RecursionError) as exc:
        raise FalplanError("Formatting refused", f"{name} can't be laid out. It is left as it is.") from exc
    lines = [line.rstrip() if not line.endswith("\\ ") else line for line in stream.getvalue().split("\n")]
    return "\n".join(lines).strip("\n") + "\n"


def _same(first: Node | None, second: Node | None) -> bool:
    if isinstance(first, Scalar) and isinstance(second, Scalar):
        return (str(first) == str(second) and first.plain == second.plain) or (is_null(first) and is_null(second))
    if isinstance(first, Map) and isinstance(second, Map):
        return list(first) == list(second) and all(_same(value, second[key]) for key, value in first.items())
    if isinstance(first, Seq) and isinstance(second, Seq):
        return len(first) == len(second) and all(_same(a, b) for a, b in zip(first, second, strict=True))
    return first is None and second is None
