"""group: tasks side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from fastq.canvas.signature import Signature, linked, maybe_signature
from fastq.canvas.texts import shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastq.app import FastQ
    from fastq.results import GroupResult

__all__ = ["group", "members"]

R = TypeVar("R")
R2 = TypeVar("R2")


@Signature.register_type()
class group(Signature[list[R]]):
    """Tasks side by side: ``group(a, b)`` or ``group(f.s(i) for i in ...)``. Its result is a GroupResult.

    Groups in it are taken apart when it is sent. Options hold for every task, but for ``link`` (called once, when all have
    succeeded, without their results: those are for a chord's body), ``link_error`` (called by each that fails) and ``task_id``
    (the group's id).
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def __init__(self, a: Iterable[Signature[R]], /, **options: Any) -> None: ...
        @overload
        def __init__(self, /, *tasks: Signature[R], **options: Any) -> None: ...

    def __init__(self, /, *tasks: Any, **options: Any) -> None:
        app = options.pop("app", None)
        super().__init__("fastq.group", (), None, options, subtask_type="group", app=app)
        self["kwargs"] = {"tasks": members(tasks[0] if len(tasks) == 1 else tasks, app)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: FastQ | None = None) -> group[Any]:
        made: group[Any] = cls([], app=app)
        dict.update(made, d)
        made["args"], made["options"] = tuple(d.get("args") or ()), linked(d.get("options"), app)
        made["kwargs"] = {**d["kwargs"], "tasks": members(d["kwargs"]["tasks"], app)}
        return made

    @property
    def tasks(self) -> list[Signature[R]]:
        return self["kwargs"]["tasks"]  # type: ignore[no-any-return]

    @tasks.setter
    def tasks(self, tasks: Iterable[Any]) -> None:
        self["kwargs"]["tasks"] = list(tasks)

    def _known_app(self) -> FastQ | None:
        return super()._known_app() or next(filter(None, (task._known_app() for task in self.tasks)), None)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> group[R]:
        copy = super().clone(args, kwargs, **options)
        copy.tasks = [task.clone() for task in self.tasks]
        return copy

    @overload  # type: ignore[override]
    def __or__(self, other: Signature[R2], /) -> Signature[R2]: ...
    @overload
    def __or__(self, other: Any, /) -> Any: ...
    def __or__(self, other: Any, /) -> Any:
        """Return the chord of which this is the header."""
        other = maybe_signature(other, app=self._app)
        if not isinstance(other, Signature):
            return NotImplemented
        if isinstance(other, group) and not other.tasks:
            return self
        from fastq.canvas.chord import chord  # lazy: it imports this module

        return chord(self, other, app=self._app)

    def __call__(self, *args: Any, **options: Any) -> GroupResult[R]:
        """Send it, completed by these arguments."""
        return self.apply_async(args, **options)

    if TYPE_CHECKING:

        def delay(self, *args: Any, **kwargs: Any) -> GroupResult[R]: ...  # type: ignore[override]
        async def adelay(self, *args: Any, **kwargs: Any) -> GroupResult[R]: ...  # type: ignore[override]
        def apply_async(  # type: ignore[override]
            self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
        ) -> GroupResult[R]: ...
        async def aapply_async(  # type: ignore[override]
            self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
        ) -> GroupResult[R]: ...

    def set_immutable(self, immutable: bool) -> None:
        """Say for every task whether it takes no further arguments."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def link(self, callback: Any) -> Any:
        """Call ``callback`` once when every task has succeeded, without their results (it is a copy that is immutable)."""
        return self.append_to_list_option("link", callback.clone().set(immutable=True))

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group[R]:
        """Give the tasks countdowns: ``start`` s, then ``step`` s more for each, none above ``stop``."""
        countdown_s = start
        for task in self.tasks:
            task.set(countdown=countdown_s)
            if not stop or countdown_s + step <= stop:
                countdown_s += step
        return self

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> GroupResult[R]:
        """Give the group and every task its id now; return the results that they will have."""
        from fastq.results import GroupResult  # lazy: only where results are made

        super().freeze(_id, group_id, chord, root_id, parent_id, group_index)
        assert self.id is not None
        self.tasks = tasks = [task.clone() for task in flattened(self.tasks)]
        results = [task.freeze(None, self.id, None, root_id, parent_id, group_index=index) for index, task in enumerate(tasks)]
        return GroupResult(self.id, [result for result in results if result is not None], app=self.app)

    _freeze = freeze

    def __repr__(self) -> str:
        if not self.tasks:
            return "group(<empty>)"
        from fastq.canvas.chain import first_name  # lazy: only for the text

        return shortened(first_name(self.tasks), f"group({self.tasks!r})")


def members(tasks: Any, app: FastQ | None = None) -> list[Signature[Any]]:
    """Return the tasks of a group, a signature, or an iterable of signatures."""
    if isinstance(tasks, Mapping):
        tasks = maybe_signature(tasks, app=app)
        return tasks.tasks if isinstance(tasks, group) and not tasks.options else [tasks]
    if isinstance(tasks, str | bytes) or not isinstance(tasks, Iterable):
        raise TypeError(f"a group is made of signatures, such as task.s(...), not of {type(tasks).__name__}: {tasks!r}")
    found = [task if isinstance(task, Signature) else _member(task, app) for task in tasks]
    for task in found:
        if not isinstance(task, Signature):
            raise TypeError(f"a group is made of signatures, such as task.s(...), not of {type(task).__name__}: {task!r}")
    return found


def _member(task: Any, app: FastQ | None) -> Any:
    """Return the signature of a dict, or of a task that was given without arguments; anything else as it is."""
    if callable(getattr(task, "si", None)):
        return task.s()
    return maybe_signature(task, app=app)


def flattened(tasks: Iterable[Signature[Any]]) -> list[Signature[Any]]:
    """Return the tasks with those of groups in the place of these; a group with options of its own hands them on."""
    found: list[Signature[Any]] = []
    for task in tasks:
        if isinstance(task, group):
            found.extend(flattened(task.tasks))
        else:
            found.append(task)
    return found
