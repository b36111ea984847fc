"""chain: tasks one after the other, each called with the result of the one before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from fastq.canvas.signature import Signature, linked, maybe_signature
from fastq.canvas.texts import shortened

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["chain", "folded", "is_empty"]

R = TypeVar("R")
R2 = TypeVar("R2")


@Signature.register_type()
class chain(Signature[R]):
    """Tasks one after the other: ``chain(a, b, c)``, ``chain([a, b, c])`` or ``a | b | c``.

    Chains in it are taken apart. A group with something behind it is a chord; a group of one task is that task; an empty group is
    left out. Options are those of the first task, but for ``link`` (called with the last result), ``link_error`` (called by
    whichever fails) and ``task_id`` (the last task's).
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def __init__(self, a: Iterable[Signature[Any]], /, **options: Any) -> None: ...
        @overload
        def __init__(self, a: Signature[R], /, **options: Any) -> None: ...
        @overload
        def __init__(self, a: Signature[Any], b: Signature[R], /, **options: Any) -> None: ...
        @overload
        def __init__(self, a: Signature[Any], b: Signature[Any], c: Signature[R], /, **options: Any) -> None: ...
        @overload
        def __init__(self, /, *tasks: Signature[Any], **options: Any) -> None: ...

    def __init__(self, /, *tasks: Any, **options: Any) -> None:
        app = options.pop("app", None)
        given: Iterable[Any] = tasks
        if len(tasks) == 1 and not isinstance(tasks[0], Mapping):
            given = tasks[0]
            if isinstance(given, str | bytes) or not isinstance(given, Iterable):
                raise TypeError(f"a chain is made of signatures, not of {type(given).__name__}: {given!r}")
        super().__init__("fastq.chain", (), None, options, subtask_type="chain", app=app)
        self["kwargs"] = {"tasks": folded((), given, app)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: FastQ | None = None) -> chain[Any]:
        made: chain[Any] = cls([], app=app)
        dict.update(made, d)
        made["args"], made["options"] = tuple(d.get("args") or ()), linked(d.get("options"), app)
        made["kwargs"] = {**d["kwargs"], "tasks": folded((), d["kwargs"]["tasks"], app)}
        return made

    @property
    def tasks(self) -> list[Signature[Any]]:
        return self["kwargs"]["tasks"]  # type: ignore[no-any-return]

    @tasks.setter
    def tasks(self, tasks: Iterable[Any]) -> None:
        self["kwargs"]["tasks"] = list(tasks)

    def _known_app(self) -> FastQ | None:
        return super()._known_app() or next(filter(None, (task._known_app() for task in self.tasks)), None)

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> chain[R]:
        copy = super().clone(args, kwargs, **options)
        copy.tasks = [task.clone() for task in self.tasks]
        return copy

    @overload  # type: ignore[override]
    def __or__(self, other: Signature[R2], /) -> Signature[R2]: ...
    @overload
    def __or__(self, other: Any, /) -> Any: ...
    def __or__(self, other: Any, /) -> Any:
        other = maybe_signature(other, app=self._app)
        if not isinstance(other, Signature):
            return NotImplemented
        if not self.tasks and not self.options and not isinstance(other, chain):
            return other
        if plain(self):
            return chain(folded(self.tasks, (other,), self._app), app=self._app)
        return chain((self, other), app=self._app)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it (a chain is not called like a function)."""
        return self.apply_async(args, kwargs)

    def unchain_tasks(self) -> list[Signature[Any]]:
        """Return copies of its tasks, with the chain's errbacks on each and its links on the last."""
        tasks = [task.clone() for task in self.tasks]
        for task in tasks:
            if errbacks := self.options.get("link_error"):
                task.extend_list_option("link_error", errbacks)
        if tasks and (links := self.options.get("link")):
            tasks[-1].extend_list_option("link", links)
        return tasks

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give every task its id now; return the result of the last, with its parents."""
        result = None
        self.tasks = tasks = [task.clone() for task in self.tasks]
        for i, task in enumerate(tasks):
            above, last = result, i == len(tasks) - 1
            id = (self.id or _id) if last else None
            result = task.freeze(id, group_id if last else None, chord if last else None, root_id, parent_id)
            first = result
            while first.parent is not None:
                first = first.parent
            first.parent = above
        if result is not None:
            self.id = result.id
        return result

    _freeze = freeze

    def __repr__(self) -> str:
        if not self.tasks:
            return "chain(<empty>)"
        return shortened(first_name(self.tasks), " | ".join(map(repr, self.tasks)))


def plain(sig: chain[Any]) -> bool:
    """Say whether a chain is no more than its tasks."""
    return not (sig.options or sig.args or sig.immutable or len(sig.kwargs) > 1)


def folded(steps: Sequence[Signature[Any]], more: Iterable[Any], app: FastQ | None = None) -> list[Signature[Any]]:
    """Return the steps of a chain with more behind them: chains taken apart, groups with something behind them made chords."""
    from fastq.canvas.chord import chord  # lazy: it imports group, which need not know chains
    from fastq.canvas.group import group  # lazy: as above

    found = list(steps)
    ahead = list(more)[::-1]
    while ahead:
        task = maybe_signature(ahead.pop(), app=app)
        if not isinstance(task, Signature):
            raise TypeError(f"a chain is made of signatures, such as task.s(...), not of {type(task).__name__}: {task!r}")
        if isinstance(task, chain) and (plain(task) or not task.tasks):
            ahead.extend(reversed(task.tasks))
            continue
        if isinstance(task, group):
            if is_empty(task) and (found or ahead):
                continue
            if len(task.tasks) == 1 and not task.options:
                ahead.append(task.tasks[0])
                continue
        if found and isinstance(found[-1], group):
            if not is_empty(found[-1]):
                found[-1] = chord(found[-1], task, app=app)
                continue
            found.pop()  # an empty group that was the first
        elif found and isinstance(found[-1], chord) and not found[-1].options and _ends_in_group(found[-1].body):
            # the group that is its body has something behind it
            found[-1] = found[-1].clone()
            found[-1].body = found[-1].body | task
            continue
        found.append(task)
    return found


def is_empty(sig: Any) -> bool:
    """Say whether a signature has no task in it."""
    from fastq.canvas.group import group  # lazy: as in folded

    return isinstance(sig, chain | group) and all(is_empty(task) for task in sig.tasks)


def _ends_in_group(sig: Signature[Any] | None) -> bool:
    from fastq.canvas.group import group  # lazy: as in folded

    while isinstance(sig, chain) and sig.tasks and not sig.options:
        sig = sig.tasks[-1]
    return isinstance(sig, group)


def first_name(tasks: Sequence[Any]) -> str:
    """Return the name of the first task in these."""
    from fastq.canvas.chord import chord  # lazy: as in folded

    first = tasks[0]
    while True:
        inner = first.body if isinstance(first, chord) else None
        below = [inner] if inner is not None else first["kwargs"].get("tasks") if first.subtask_type in ("chain", "group") else None
        if not below:
            return str(first["task"])
        first = below[0]
