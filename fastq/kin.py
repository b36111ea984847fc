"""The kin of one result: its parents, its children, and walks through them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastq import states
from fastq.exceptions import ChordError

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.result import AsyncResult, Meta
    from fastq.result_tree import DependencyGraph
    from fastq.results import GroupResult

__all__ = ["Kin", "listed"]


class Kin:
    """What an AsyncResult knows of others: by ``parent``, and by the record's meta ``children``."""

    __slots__ = ()

    if TYPE_CHECKING:
        id: str
        parent: AsyncResult[Any] | GroupResult[Any] | None
        _meta: Meta | None

        @property
        def app(self) -> FastQ: ...
        def _look(self) -> Meta | None: ...
        def _decoded(self) -> Any: ...

    @property
    def children(self) -> list[AsyncResult[Any] | GroupResult[Any]] | None:
        """Return the results of the tasks that this one has sent; None while it has none or has not ended."""
        self._look()
        return self.known_children()

    def known_children(self) -> list[AsyncResult[Any] | GroupResult[Any]] | None:
        """Return ``children`` as far as they are known here; asks nobody."""
        meta = self._meta
        told = meta[5].get("children") if meta is not None and meta[5] else None
        if not told:
            return None
        from fastq.result_tree import result_from_tuple  # lazy: it imports this module

        return [result_from_tuple(child, self.app) for child in told]

    def header_failure(self, error: BaseException) -> BaseException | None:
        """Return what the task that a ChordError names has raised; None if it is not among the parents, or has no result.

        A read of one result; never waits. The error of a chord within a header is followed to its own header.
        """
        named = _named(self, str(error))
        if named is None or named.ignored:
            return None
        meta = named._look()
        if meta is None or meta[0] not in states.PROPAGATE_STATES:
            return None
        found = named._decoded()
        if isinstance(found, ChordError):
            return named.header_failure(found) or found
        return found if isinstance(found, BaseException) else None

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield (parent, result) for this result and everything below it, the nearest first.

        Raises IncompleteStream at one that has not ended, unless ``intermediate``.
        """
        from fastq.result_tree import iterdeps  # lazy: it imports this module

        return iterdeps(self, intermediate)

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Yield (result, value) for this result and everything below it; keywords go to ``get``."""
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """Return the value of the last result of ``collect``."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> DependencyGraph:
        """Return the graph of this result and everything below it."""
        from fastq.result_tree import build_graph  # lazy: it imports this module

        return build_graph(self, intermediate, formatter)

    @property
    def graph(self) -> DependencyGraph:
        return self.build_graph()

    def as_tuple(self) -> tuple[Any, Any]:
        """Return ``((id, parent's tuple or None), None)``: what ``result_from_tuple`` takes."""
        return (self.id, None if self.parent is None else self.parent.as_tuple()), None

    def __json__(self) -> Any:
        """Say how it is written where a task returns it: as its tuple, of lists, which every serializer gives back the same."""
        return listed(self.as_tuple())

    def as_list(self) -> list[str]:
        """Return the ids of this result and its parents."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]


def listed(value: Any) -> Any:
    """Return nested tuples as nested lists."""
    return [listed(item) for item in value] if isinstance(value, tuple | list) else value


def _named(result: Any, text: str) -> Any:
    """Return the member of a header above ``result`` that the text of a ChordError names: the last of a chain, or one before it."""
    above = result.parent
    while above is not None:
        for step in getattr(above, "results", ()):
            while step is not None:
                if f"Dependency {step.id} raised" in text:
                    return step
                step = step.parent
        above = above.parent
    return None
