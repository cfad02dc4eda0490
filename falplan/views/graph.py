"""The dependency graph as DOT and Mermaid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def dot(dependencies: Mapping[str, Iterable[str]]) -> str:
    """Graphviz: an edge from what depends to what it depends on, as Terraform draws it."""
    lines = ["digraph {", '  rankdir = "RL"', '  node [shape = "box"]']
    lines += [f'  "{name}"' for name in sorted(dependencies)]
    lines += [f'  "{name}" -> "{d}"' for name in sorted(dependencies) for d in sorted(dependencies[name])]
    return "\n".join([*lines, "}"]) + "\n"


def mermaid(dependencies: Mapping[str, Iterable[str]]) -> str:
    """Mermaid, as GitHub renders it in Markdown."""
    names = {name: f"n{i}" for i, name in enumerate(sorted(dependencies))}
    lines = ["graph RL", *(f'  {short}["{name}"]' for name, short in names.items())]
    lines += [f"  {names[n]} --> {names[d]}" for n in sorted(dependencies) for d in sorted(dependencies[n])]
    return "\n".join(lines) + "\n"
