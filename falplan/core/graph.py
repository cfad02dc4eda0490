"""The dependency graph: cycles, order, closures. Knows addresses and edges, nothing of what they stand for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx as nx

    Graph = nx.DiGraph[str]


def dependency_graph(dependencies: Mapping[str, Iterable[str]]) -> Graph:
    """A graph with an edge from each dependency to what needs it. Names that are no key become nodes, too."""
    import networkx as nx

    graph: Graph = nx.DiGraph()
    graph.add_nodes_from(sorted(dependencies))
    for name in sorted(dependencies):
        graph.add_edges_from((dep, name) for dep in dependencies[name])
    return graph


def find_cycle(dependencies: Mapping[str, Iterable[str]]) -> list[str]:
    """The names of one cycle, each depending on the next, smallest first; empty when there is none."""
    import networkx as nx

    try:
        edges = nx.find_cycle(dependency_graph(dependencies).reverse(copy=False))
    except nx.NetworkXNoCycle:
        return []
    names = [str(edge[0]) for edge in edges]
    start = names.index(min(names))
    return names[start:] + names[:start]


def order(graph: Graph) -> list[str]:
    """Every node after those it depends on; ties by name, so that the same graph gives the same order."""
    import networkx as nx

    return [str(n) for n in nx.lexicographical_topological_sort(graph)]


def needed_by(graph: Graph, names: Collection[str]) -> set[str]:
    """The names, and everything that they depend on."""
    import networkx as nx

    result = set(names)
    for name in names:
        result |= nx.ancestors(graph, name)
    return result


def downstream_of(graph: Graph, names: Collection[str]) -> set[str]:
    """The names, and everything that depends on them."""
    import networkx as nx

    result = set(names)
    for name in names:
        result |= nx.descendants(graph, name)
    return result
