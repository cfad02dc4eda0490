"""Every failpoint in the source, found by reading it: a new one is tested without a list to edit."""

from __future__ import annotations

import ast
from pathlib import Path

from falplan.core.bodies import BODIES
from falplan.core.operations import name_of_call

ROOT = Path(__file__).parents[2]


def _calls() -> list[str]:
    """Names of the mutating calls that the admin interface takes, read from its routes, other than operations."""
    tree = ast.parse((ROOT / "falplan/control/changes.py").read_text())
    cases = [c.pattern for node in ast.walk(tree) if isinstance(node, ast.Match) for c in node.cases]
    routes = [
        [p.value.value for p in c.patterns if isinstance(p, ast.MatchValue) and isinstance(p.value, ast.Constant)]
        for c in cases
        if isinstance(c, ast.MatchSequence)
    ]
    names = {(method, *parts): name_of_call(str(method), [str(p) for p in parts]) for method, *parts in routes}
    nameless = [route for route, name in names.items() if not name]
    if nameless:
        raise ValueError(f"mutating calls without a name: {nameless}; see falplan.core.operations.CALLS")
    return sorted(set(names.values()))


CALLS = _calls()
OPERATIONS = sorted(kind.value for kind in BODIES)

EXPANSIONS = {
    "call.{name}": [f"call.{name}" for name in (*CALLS, *OPERATIONS)],
    "admin.{name}": [f"admin.{name}" for name in CALLS],
    "operation.{kind.value}": [f"operation.{kind}" for kind in OPERATIONS],
    "operation.{operation.kind.value}": [f"operation.{kind}" for kind in OPERATIONS],
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
        "plan_json.save",
        "marker.save",
        "access_key.save",
        "hosts.save",
    ],
    "journal.{entry.kind}": ["journal.begin", "journal.done", "journal.failed"],
    "apply.{change.type.value}": [
        "apply.gateway",
        "apply.build",
        "apply.secret",
        "apply.app",
        "apply.host",
        "apply.network",
    ],
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
