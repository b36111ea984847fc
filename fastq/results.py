"""Results of many tasks: ResultSet (in ``result_set.py``), and GroupResult with an id under which it can be kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from fastq.kin import listed
from fastq.result import AsyncResult
from fastq.result_set import ResultSet

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.store import ResultStore

__all__ = ["GroupResult", "ResultSet"]

R = TypeVar("R")


class GroupResult(ResultSet[R]):
    """The results of a group, with an id of its own: ``save()`` keeps it so that ``restore(id)`` finds it from anywhere."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[AsyncResult[R]] | None = None,
        parent: Any = None,
        app: FastQ | None = None,
    ) -> None:
        super().__init__(results if results is not None else (), app)
        self.id = id
        #: what came before it in its chain
        self.parent = parent

    @classmethod
    def bound(cls, app: FastQ) -> type[GroupResult[Any]]:
        """Return this class bound to an application: what ``app.GroupResult`` is."""
        return type(cls.__name__, (cls,), {"_app": app, "__module__": cls.__module__, "__doc__": cls.__doc__})

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return (other.id, other.results, other.parent) == (self.id, self.results, self.parent)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __repr__(self) -> str:
        shown = ", ".join(str(result.id) for result in self.results[:10])
        return f"<{type(self).__name__}: {self.id} [{shown}{', ...' if len(self.results) > 10 else ''}]>"

    def __str__(self) -> str:
        return str(self.id)

    def __copy__(self) -> GroupResult[R]:
        return GroupResult(self.id, self.results, self.parent, self._app)

    def __reduce__(self) -> Any:
        return GroupResult, (self.id, self.results, self.parent)

    @property
    def children(self) -> list[AsyncResult[R]]:
        return self.results

    def as_tuple(self) -> tuple[Any, Any]:
        """Return ``((id, parent's tuple or None), [member's tuple, ...])``: what ``result_from_tuple`` takes."""
        above = None if self.parent is None else self.parent.as_tuple()
        return (self.id, above), [result.as_tuple() for result in self.results]

    def __json__(self) -> Any:
        """Say how it is written where a task returns it: as its tuple, of lists."""
        return listed(self.as_tuple())

    def as_list(self) -> list[str]:
        """Return the ids of the group, its members and their parents."""
        return [str(self.id), *(id for result in self.results for id in result.as_list())]

    # --- keeping it ---

    def save(self, backend: ResultStore | None = None) -> None:
        """Keep which results belong to this group, for as long as results are kept."""
        (backend or self.backend).save_group(self._named(), self)

    def delete(self, backend: ResultStore | None = None) -> None:
        """Undo ``save``; the results themselves stay."""
        (backend or self.backend).delete_group(self._named())

    @classmethod
    def restore(cls, id: str, backend: ResultStore | None = None, app: FastQ | None = None) -> GroupResult[Any] | None:
        """Return the group that was saved under an id, None if there is none."""
        if backend is None:
            app = app or cls._app
            if app is None:
                from fastq.shared import get_current_app  # lazy: shared imports app, which imports this module's user

                app = get_current_app()
            backend = app.backend
        return backend.restore_group(id)

    def _named(self) -> str:
        if not self.id:
            raise ValueError("this group has no id: give it one, GroupResult(id, results), to save it under")
        return self.id
