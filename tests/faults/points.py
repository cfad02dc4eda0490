"""Every failpoint in the source, found by reading it: a new one is tested without a list to edit."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

EXPANSIONS = {
    "{point}.save": [
        "state.save",
        "endpoint.save",
        "key.save",
        "port.save",
        "regions.save",
        "lock.save",
        "restore.save",
        "ca.save",
        "certificate.save",
        "secrets_key.save",
        "project_key.save",
        "pending.save",
    ],
    "journal.{entry.kind}": ["journal.begin", "journal.done", "journal.failed"],
    "apply.{change.type.value}": ["apply.gateway", "apply.build", "apply.secret", "apply.app"],
}
"""What the variable part of a name can be. A name with a variable part that is not here is an error."""


def all_points() -> list[str]:
    """Sorted names of all failpoints."""
    names: set[str] = set()
    for folder in ("falplan", "providers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fp":
                    names |= set(_expand(ast.unparse(node.args[0]), node.args[0]))
    return sorted(names)


def _expand(source: str, node: ast.expr) -> list[str]:
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    text = source.removeprefix("f").strip("'\"")
    for variable, values in EXPANSIONS.items():
        if text.startswith(variable):
            return [value + text.removeprefix(variable) for value in values]
    if isinstance(node, ast.Name):
        return []  # fp itself passes its argument on
    raise ValueError(f"failpoint {source}: add its expansions to EXPANSIONS")
