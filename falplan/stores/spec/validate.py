"""Holds a tree against a model and turns what pydantic finds into findings with places. Decides no rule itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from falplan.core.spec.codes import Code
from falplan.core.spec.model import Model, keys_of
from falplan.core.spec.models import LATER, SECTIONS, SINGLE, SpecModel
from falplan.core.spec.tree import Map, Node, Scalar, Seq, is_null, kind
from falplan.core.spec.words import did_you_mean, nearest, quoted
from falplan.stores.spec.findings import Findings

M = TypeVar("M", bound=Model)
_CODES = {code.value: code for code in Code}
_NESTED = {
    "health_check": "health_check",
    "reserve": "reserve",
    "capacity": "capacity",
    "secrets": "secrets[]",
    "ignore": "ignore[]",
    "encryption": "encryption",
    "key": "key",
    "previous": "key[]",
    "passphrase": "passphrase",
    "parameters": "parameters",
    "hosts": "hosts[]",
    "disk": "disk",
}
_LISTS = ("moved", "removed", "import", "ignore")
_ENTRIES = {name for name in SECTIONS if name in keys_of(SpecModel) and name not in (*SINGLE, *_LISTS)}


def validate(model: type[M], tree: Node, findings: Findings, *, section: str, owner: Scalar | None = None) -> M | None:
    """The tree as the model, or None after noting everything that is wrong. `section` names the model in messages.

    `owner` is the key that holds the tree, for what has no place of its own.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_input=False):
            _note(error, tree, findings, section, owner)
        return None


def _note(error: Any, tree: Node, findings: Findings, section: str, owner: Scalar | None) -> None:
    path = [part for part in error["loc"] if not (isinstance(part, str) and part == "[key]")]
    inside = section_of(section, path[:-1])
    node, parent = _reach(tree, path)
    kind_of = error["type"]
    if kind_of in _CODES:
        context = error["ctx"]
        place: Node | None = _key(tree, path) if "[key]" in error["loc"] else node
        findings.add(_CODES[kind_of], context["text"], place or node, hint=context["hint"])
    elif kind_of == "extra_forbidden":
        _unknown_key(str(path[-1]), parent, findings, inside)
    elif kind_of == "missing":
        where: Node = owner if owner is not None and len(path) == 1 else parent
        _missing(str(path[-1]), where, findings, inside)
    else:
        _wrong_kind(kind_of, node, findings)


def section_of(section: str, path: Sequence[object]) -> str:
    """The section whose keys are those of the mapping at the path, seen from a section."""
    for part in path:
        word = str(part)
        if section == "" and word in SECTIONS:
            section = word if word in SINGLE else word + "[]"
        elif section.endswith("[]"):
            section = section[:-2]
        elif word in _NESTED:
            section = _NESTED[word]
    return section.removesuffix("[]")


def _reach(tree: Node, path: Sequence[Any]) -> tuple[Node, Map | Seq]:
    """The deepest node that exists along the path, and what holds the path's last part."""
    node, parent = tree, tree
    for part in path:
        if (isinstance(node, Map) and part in node) or (
            isinstance(node, Seq) and isinstance(part, int) and part < len(node)
        ):
            parent, node = node, node[part]
        else:
            parent = node
            break
    holder = parent if isinstance(parent, Map | Seq) else tree
    return node, holder if isinstance(holder, Map | Seq) else Map()


def _key(tree: Node, path: Sequence[Any]) -> Scalar | None:
    _, parent = _reach(tree, path)
    return parent.keys_at.get(str(path[-1])) if isinstance(parent, Map) and path else None


def _unknown_key(key: str, parent: Map | Seq, findings: Findings, section: str) -> None:
    place: Node = parent.keys_at.get(key, parent) if isinstance(parent, Map) else parent
    later = LATER.get(section, {}).get(key)
    if later is not None:
        findings.add(
            Code.UNSUPPORTED, f"this version of falplan does not support {later}", place, hint=f"remove `{key}`"
        )
        return
    known = keys_of(SECTIONS[section])
    close = nearest(key, known)
    elsewhere = [_where(name) for name, model in SECTIONS.items() if key in keys_of(model) and name != section]
    hint = did_you_mean(key, known) if close or not elsewhere else f"it belongs {elsewhere[0]}"
    findings.add(Code.UNKNOWN_KEY, f"unknown key {quoted(key)}{_in(section)}", place, hint=hint)


def _where(section: str) -> str:
    if not section:
        return "at the top of the spec"
    if section in ("ssh", "aws"):
        return f"under regions.<name> with `provider: {section}`"
    if section == "disk":
        return "under regions.<name>.disk"
    if section == "hosts":
        return "under regions.<name>.hosts.<name>"
    if section == "secrets":
        return "under environments.<name>.secrets.<NAME>"
    return f"under {section}.<name>" if section in _ENTRIES else f"under {section}"


def _in(section: str) -> str:
    return f" {_where(section)}" if section else " at the top of the spec"


def _missing(key: str, place: Node, findings: Findings, section: str) -> None:
    hint = "version: 1" if key == "version" else f"add `{key}:`"
    code = Code.VERSION if key == "version" else Code.MISSING
    findings.add(code, f"the key `{key}` is missing{_in(section)}", place, hint=hint)


def _wrong_kind(kind_of: str, node: Node, findings: Findings) -> None:
    expected = (
        "a mapping" if "dict" in kind_of or "model" in kind_of else "a list" if "list" in kind_of else "another value"
    )
    if is_null(node):
        findings.add(Code.MISSING, "empty value", node, hint="give a value, or remove the key")
    else:
        findings.add(Code.SHAPE, f"expected {expected}, found {kind(node)}", node)
