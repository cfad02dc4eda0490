"""Reads what the spec says of moved, removed and imported resources and of drift, and holds it against its resources."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from falplan.core.errors import Position, Related
from falplan.core.graph import find_cycle
from falplan.core.resources import PROVIDED, type_of
from falplan.core.spec.codes import Code
from falplan.core.spec.declared import IgnoreRule, Import, Move, Refactors, Removal
from falplan.core.spec.models import SpecModel
from falplan.core.spec.tree import Map, Node, Seq, position
from falplan.core.spec.words import did_you_mean, quoted
from falplan.stores.spec.findings import Findings


def refactors(model: SpecModel, tree: Map) -> Refactors:
    """The entries with their places in the file."""
    moved = [Move(m.source, m.target, p) for m, p in _placed(model.moved, tree.get("moved"))]
    removed = [Removal(m.address, m.destroy, p) for m, p in _placed(model.removed, tree.get("removed"))]
    imported = [Import(m.address, m.id, p) for m, p in _placed(model.imports, tree.get("import"))]
    return Refactors(tuple(moved), tuple(removed), tuple(imported))


def ignored_drift(model: SpecModel) -> tuple[IgnoreRule, ...]:
    return tuple(IgnoreRule(r.address, r.attribute, r.until, r.because) for r in model.drift.ignore)


def check_refactors(found: Refactors, addresses: Collection[str], findings: Findings) -> None:
    """Note entries that can't hold: `addresses` are those of the spec's resources."""
    _check_moves(found.moved, addresses, findings)
    for removal in found.removed:
        if removal.address in addresses:
            message = f"{removal.address} is still in the spec"
            findings.add(Code.CONFLICT, message, removal.position, hint="take it out of the spec, or remove this entry")
    for imported in found.imported:
        if imported.address not in addresses and not _by_provider(imported.address):
            message = f"{imported.address} is not in the spec"
            findings.add(Code.REFERENCE, message, imported.position, hint=did_you_mean(imported.address, addresses))


def _by_provider(address: str) -> bool:
    """Whether only a region's provider knows if the spec has it; whoever asks the providers checks that."""
    return type_of(address) in PROVIDED


def _check_moves(moves: tuple[Move, ...], addresses: Collection[str], findings: Findings) -> None:
    sources: dict[str, Position | None] = {}
    targets: dict[str, Position | None] = {}
    for move in moves:
        if move.source.partition(".")[0] != move.target.partition(".")[0]:
            hint = "what it is stays the same when it moves"
            findings.add(
                Code.CONFLICT, f"{move.source} and {move.target} are of different types", move.position, hint=hint
            )
        if move.source in addresses:
            hint = "take it out of the spec, or remove this entry"
            findings.add(Code.CONFLICT, f"{move.source} moved, and is still in the spec", move.position, hint=hint)
        for known, address, word in ((sources, move.source, "from"), (targets, move.target, "to")):
            if address in known:
                first = known[address]
                related = [Related(first, "first here")] if first else []
                findings.add(
                    Code.DUPLICATE, f"two entries move {word} {quoted(address)}", move.position, related=related
                )
            known.setdefault(address, move.position)
    cycle = find_cycle({m.source: [m.target] for m in moves if m.source != m.target})
    if cycle or any(m.source == m.target for m in moves):
        names = cycle or [m.source for m in moves if m.source == m.target]
        findings.add(Code.CYCLE, f"moved in a circle: {' -> '.join([*names, names[0]])}", sources[names[0]])
        return
    ends = {m.source: m.target for m in moves}
    for move in moves:
        if move.target not in addresses and move.target not in ends and not _by_provider(move.target):
            message = f"{move.target} is not in the spec"
            findings.add(Code.REFERENCE, message, move.position, hint=did_you_mean(move.target, addresses))


def _placed(entries: list[Any], node: Node | None) -> Iterator[tuple[Any, Position | None]]:
    places = [position(item) for item in node] if isinstance(node, Seq) else []
    for number, entry in enumerate(entries):
        yield entry, places[number] if number < len(places) else None
