"""Which files a spec is made of, read and merged into one tree. Knows the top-level sections, not their contents."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from falplan.core.errors import Position, Related, SpecInvalid
from falplan.core.spec.codes import Code
from falplan.core.spec.tree import Map, Scalar, at, kind, put
from falplan.core.spec.words import quoted
from falplan.stores.spec.files import is_folder
from falplan.stores.spec.findings import Findings, Stop
from falplan.stores.spec.read import read_source

DEFAULTS = ("falplan.yaml", "falplan.yml")
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Gathered:
    """The merged tree, the folder that paths start at, and the files read, relative to it."""

    tree: Map
    root: Path
    sources: tuple[str, ...]


def gather(folder: Path, file: Path | None, findings: Findings) -> Gathered:
    """Read and merge the spec's files.

    Raises:
        Stop: after noting why there is no tree to go on with.
    """
    from falplan.stores.spec.compose import NODES, compose  # YAML, which finding the files does not need

    root, files = find_files(folder, file, findings)
    tree: Map | None = None
    left = NODES
    for path in files:
        name = path.name
        try:
            source = read_source(path, name, findings)
            found = compose(source, findings, nodes=left)
        except Stop:
            continue
        if not isinstance(found, Map):
            _not_a_mapping(found, name, findings)
            continue
        left -= found.size
        tree = found if tree is None else _merged(tree, found, findings)
    if tree is None:
        raise Stop("nothing to read")
    return Gathered(tree, root, tuple(path.name for path in files))


def spec_files(folder: Path, file: Path | None) -> list[Path]:
    """The files that `load_spec` would read.

    Raises:
        SpecInvalid: there is none.
    """
    findings = Findings()
    try:
        return find_files(folder, file, findings)[1]
    except Stop as exc:
        raise SpecInvalid(findings.sorted()) from exc


def find_files(folder: Path, file: Path | None, findings: Findings) -> tuple[Path, list[Path]]:
    """The folder that paths start at, and the spec's files in the order in which they are read.

    Raises:
        Stop: after noting why there is none.
    """
    if file is not None and not is_folder(file):
        # the folder of the name that was given, not of what a link points at
        return file.parent.resolve(), [file]
    if file is not None:
        found = _in_folder(file, findings)
        if not found:
            raise findings.stop(Code.NO_FILE, "no *.yaml or *.yml file in this folder", file=str(file))
        return file.resolve(), found
    present = [folder / name for name in DEFAULTS if os.path.lexists(folder / name)]
    if len(present) == 2:
        raise findings.stop(
            Code.DUPLICATE, "falplan.yaml and falplan.yml both exist", file=DEFAULTS[0], hint="remove one of them"
        )
    if not present:
        hint = "run `falplan init` to write one, or name a file with -f"
        raise findings.stop(Code.NO_FILE, f"no falplan.yaml in {folder}", file=DEFAULTS[0], hint=hint)
    return folder.resolve(), present


def _in_folder(folder: Path, findings: Findings) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
    except OSError as exc:
        message = f"can't be read: {os.strerror(exc.errno or 0).lower()}"
        raise findings.stop(Code.UNREADABLE, message, file=str(folder)) from exc


def _not_a_mapping(found: object, name: str, findings: Findings) -> None:
    place = Position(name, 1, 1)
    if found is None or (isinstance(found, Scalar) and found == "" and found.plain):
        findings.add(Code.EMPTY, "the spec is empty", place, hint="run `falplan init` to write one")
    else:
        findings.add(Code.SHAPE, f"expected a mapping, found {kind(found)}", place)


def _merged(first: Map, second: Map, findings: Findings) -> Map:
    """Two files' trees as one: sections of named entries are united, anything else may be said once."""
    for key, value in second.items():
        at_key = second.keys_at[key]
        below = first.get(key)
        if below is None:
            put(first, at_key, value)
        elif isinstance(below, Map) and isinstance(value, Map) and key in UNITED:
            _unite(below, value, findings)
        elif key != "version" or below != value:
            _twice(at_key, first.keys_at[key], findings)
    first.templated = first.templated or second.templated
    return first


UNITED: Iterable[str] = frozenset(
    ("apps", "environments", "regions", "machine_types", "variables", "tags", "checks", "outputs", "policies")
)


def _unite(below: Map, value: Map, findings: Findings) -> None:
    below.templated = below.templated or value.templated
    for name, entry in value.items():
        if name in below:
            _twice(value.keys_at[name], below.keys_at[name], findings)
        else:
            put(below, value.keys_at[name], entry)


def _twice(second: Scalar, first: Scalar, findings: Findings) -> None:
    related = [Related(at(first.start), "first here")]
    hint = f"first at {at(first.start)}"
    findings.add(Code.DUPLICATE, f"{quoted(second)} is defined twice", second, hint=hint, related=related)
