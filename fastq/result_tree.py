"""How results hang together: tuples that name them, what a task has sent, the graph of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastq.exceptions import IncompleteStream
from fastq.result import AsyncResult
from fastq.results import GroupResult, ResultSet

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["DependencyGraph", "GraphFormatter", "build_graph", "iterdeps", "result_from_tuple"]


def result_from_tuple(r: Any, app: FastQ | None = None) -> Any:
    """Return the result that ``as_tuple`` described (tuples may have become lists on their way), or that of an id."""
    if isinstance(r, AsyncResult | ResultSet):
        return r
    if isinstance(r, str):
        return AsyncResult(r, app)
    try:
        own, nodes = r
        id, parent = own if isinstance(own, tuple | list) else (own, None)
    except (TypeError, ValueError):
        raise ValueError(
            f"{r!r} does not describe a result: expected ((id, parent), children), as result.as_tuple() gives"
        ) from None
    above = result_from_tuple(parent, app) if parent else None
    if nodes is None:
        return AsyncResult(id, app, parent=above)
    return GroupResult(id, [result_from_tuple(node, app) for node in nodes], parent=above, app=app)


def iterdeps(root: Any, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
    """Yield (parent, result) for a result and everything below it, the nearest first.

    Raises IncompleteStream at one that has not ended, unless ``intermediate``: then what is below it is left out.
    """
    ahead: deque[tuple[Any, Any]] = deque([(None, root)])
    while ahead:
        parent, node = ahead.popleft()
        yield parent, node
        if node.ready():
            ahead.extend((node, child) for child in node.children or ())
        elif not intermediate:
            raise IncompleteStream(f"{node!r} has not ended: what it will have sent is not known")


def build_graph(root: Any, intermediate: bool = False, formatter: GraphFormatter | None = None) -> DependencyGraph:
    """Return the graph of a result and everything below it."""
    graph = DependencyGraph(formatter=formatter or GraphFormatter(root=root.id))
    for parent, node in iterdeps(root, intermediate):
        graph.add_arc(node)
        if parent is not None:
            graph.add_edge(parent, node)
    return graph


class GraphFormatter:
    """How a graph is written in the language of Graphviz; methods may be overridden."""

    def __init__(self, root: Any = None, name: str = "dependencies") -> None:
        self.root = root
        self.name = name

    def label(self, node: Any) -> str:
        return str(getattr(node, "id", node))

    def attributes(self, node: Any) -> dict[str, str]:
        """Return the attributes of a node: its state as a colour where that is known already."""
        state = getattr(node, "state", "")
        found = {"label": f"{self.label(node)} {state}".rstrip(), "shape": "oval"}
        if self.label(node) == self.root:
            found["style"] = "bold"
        return found


class DependencyGraph:
    """Results, and which of them sent which. Iterates over the results, parents first."""

    def __init__(self, formatter: GraphFormatter | None = None) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}

    def add_arc(self, node: Any) -> None:
        """Add a result; harmless if it is there."""
        self.adjacent.setdefault(node, [])

    def add_edge(self, parent: Any, child: Any) -> None:
        """Say that ``child`` was sent by ``parent``."""
        self.add_arc(parent)
        self.add_arc(child)
        if child not in self.adjacent[parent]:
            self.adjacent[parent].append(child)

    def edges(self) -> list[Any]:
        """Return the results that have children."""
        return [node for node, children in self.adjacent.items() if children]

    def valency_of(self, node: Any) -> int:
        """Count the results below one."""
        seen: dict[Any, None] = {}
        ahead = list(self.adjacent[node])
        while ahead:
            child = ahead.pop()
            if child not in seen:
                seen[child] = None
                ahead.extend(self.adjacent[child])
        return len(seen)

    def topsort(self) -> list[Any]:
        """Return the results in an order in which children come before their parents."""
        found: list[Any] = []
        begun: set[Any] = set()
        # depth first without recursion: workflows are deep
        ahead = [(node, False) for node in reversed(self.adjacent)]
        while ahead:
            node, done = ahead.pop()
            if done:
                found.append(node)
            elif node not in begun:
                begun.add(node)
                ahead.append((node, True))
                ahead.extend((child, False) for child in self.adjacent[node] if child not in begun)
        return found

    def to_dot(self, fh: Any, formatter: GraphFormatter | None = None) -> None:
        """Write the graph for Graphviz to an open text file."""
        form = formatter or self.formatter
        fh.write(f"digraph {form.name} {{\n")
        for node in self.adjacent:
            attributes = ", ".join(f"{key}={_quoted(value)}" for key, value in form.attributes(node).items())
            fh.write(f"  {_quoted(form.label(node))} [{attributes}]\n")
        for node, children in self.adjacent.items():
            for child in children:
                fh.write(f"  {_quoted(form.label(node))} -> {_quoted(form.label(child))}\n")
        fh.write("}\n")

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __len__(self) -> int:
        return len(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __contains__(self, node: object) -> bool:
        return node in self.adjacent

    def items(self) -> Any:
        return self.adjacent.items()

    def __repr__(self) -> str:
        return "\n".join(
            f"{self.formatter.label(node)}({', '.join(self.formatter.label(child) for child in children)})"
            for node, children in self.adjacent.items()
        )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
