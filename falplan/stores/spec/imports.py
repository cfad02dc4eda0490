"""Finds which local files a Python file imports, from its source alone. Knows nothing of installed packages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from falplan.stores.spec.classes import Module, parse_module
from falplan.stores.spec.files import is_file, is_folder
from falplan.stores.spec.findings import Findings, Stop
from falplan.stores.spec.read import read_source


@dataclass(slots=True)
class Imports:
    """The local imports of the files below `root`. Every file is parsed once."""

    root: Path
    findings: Findings
    _modules: dict[str, Module | None] = field(default_factory=dict)
    _exists: dict[str, bool] = field(default_factory=dict)
    _closures: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _direct: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def module(self, path: str) -> Module | None:
        """The parsed file, or None after noting why it can't be parsed."""
        if path not in self._modules:
            self._modules[path] = self._parse(path)
        return self._modules[path]

    def _parse(self, path: str) -> Module | None:
        try:
            return parse_module(read_source(self.root / path, path, self.findings, controls=True), self.findings)
        except Stop:
            return None

    def closure(self, entry: str) -> tuple[str, ...]:
        """The file and every local file that it imports, directly or not, sorted."""
        if entry not in self._closures:
            self._closures[entry] = self._close(entry)
        return self._closures[entry]

    def _close(self, entry: str) -> tuple[str, ...]:
        beside = str(PurePosixPath(entry).parent)
        seen = {entry}
        waiting = [entry]
        while waiting:
            for path in self._direct_of(waiting.pop(), "" if beside == "." else beside):
                if path not in seen:
                    seen.add(path)
                    waiting.append(path)
        return tuple(sorted(seen))

    def _direct_of(self, path: str, beside: str) -> tuple[str, ...]:
        key = (path, beside)
        if key not in self._direct:
            module = self.module(path)
            names = _imported(module.tree) if module else ()
            self._direct[key] = tuple(sorted({found for name in names for found in self._files(name, path, beside)}))
        return self._direct[key]

    def _files(self, name: tuple[int, str, tuple[str, ...]], path: str, beside: str) -> Iterator[str]:
        level, dotted, members = name
        if level:
            bases = [_up(path, level)]
        else:
            bases = [beside] if not beside else [beside, ""]
        parts = dotted.split(".") if dotted else []
        for base in bases:
            if base is None:
                continue
            found = list(self._along(base, parts, members))
            if found:
                yield from found
                return

    def _along(self, base: str, parts: list[str], members: tuple[str, ...]) -> Iterator[str]:
        """The files that importing `parts` below `base` runs, then those of members that are modules themselves."""
        at = base
        for number, part in enumerate(parts):
            at = f"{at}/{part}" if at else part
            last = number == len(parts) - 1
            if self._is(at + "/__init__.py"):
                yield at + "/__init__.py"
            elif self._is(at + ".py"):
                yield at + ".py"
                return
            elif not self._is(at, folder=True) or (last and not members):
                return
        if not parts and self._is(f"{at}/__init__.py" if at else "__init__.py"):
            yield f"{at}/__init__.py" if at else "__init__.py"
        for member in members:
            below = f"{at}/{member}" if at else member
            for candidate in (below + ".py", below + "/__init__.py"):
                if self._is(candidate):
                    yield candidate

    def _is(self, path: str, *, folder: bool = False) -> bool:
        if path not in self._exists:
            full = self.root / path
            self._exists[path] = is_folder(full) if folder else is_file(full)
        return self._exists[path]


def _up(path: str, level: int) -> str | None:
    folder = PurePosixPath(path)
    for _ in range(level):
        if str(folder) == ".":
            return None
        folder = folder.parent
    return "" if str(folder) == "." else str(folder)


def _imported(tree: ast.Module) -> list[tuple[int, str, tuple[str, ...]]]:
    """Every import of the module, at any depth: level, dotted name, members."""
    found: list[tuple[int, str, tuple[str, ...]]] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif not isinstance(node, ast.expr):
            waiting.extend(ast.iter_child_nodes(node))
    return found
