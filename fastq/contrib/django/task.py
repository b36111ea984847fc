"""Tasks that are sent when the transaction commits in which they were asked for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from asgiref.sync import sync_to_async
from django.db import close_old_connections, transaction  # type: ignore[import-untyped]

from fastq import shared
from fastq.running import current, directly_called
from fastq.task import Task

if TYPE_CHECKING:
    from typing import Literal, Unpack

    from fastq.calling import CallOptions

__all__ = ["DjangoTask", "shared_task"]

P = ParamSpec("P")
R = TypeVar("R")


class DjangoTask(Task[P, R]):
    """The task class of applications in Django projects."""

    def __init__(self) -> None:
        super().__init__()
        if inspect.iscoroutinefunction(self.run):
            self.__dict__["run"] = _on_usable_connections(self.run)

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """``delay`` when the transaction commits, at once outside of one; nothing is sent if it is rolled back.

        Returns nothing, for there is no result yet: choose a ``task_id`` with ``apply_async_on_commit`` to follow the task.
        """
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        using: str | None = None,
        robust: bool = False,
        **options: Unpack[CallOptions],
    ) -> None:
        """``apply_async`` when the transaction commits. Arguments that the task does not take are a TypeError here and now.

        ``using``: the database whose transaction is meant. ``robust``: a task that cannot be sent is logged by Django, and the
        functions that wait for the same commit are still called.
        """
        plan = self._planned()
        plan.check(*plan.arguments(args, kwargs))
        transaction.on_commit(functools.partial(self.apply_async, args, kwargs, **options), using=using, robust=robust)


def _on_usable_connections(run: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Close connections around a coroutine where it uses them: in the thread to which Django's asynchronous ORM sends its calls.

    The signals of a task are sent in its slot, which may be another thread.
    """

    @functools.wraps(run)
    async def fresh(*args: Any, **kwargs: Any) -> Any:
        if current.get() is None or directly_called.get() is not None:
            return await run(*args, **kwargs)
        close = sync_to_async(close_old_connections)
        await close()
        try:
            return await run(*args, **kwargs)
        finally:
            await close()

    return fresh


if TYPE_CHECKING:

    class _Decorator(Protocol):
        @overload
        def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> DjangoTask[P, R]: ...
        @overload
        def __call__(self, fn: Callable[P, R], /) -> DjangoTask[P, R]: ...

    class _BoundDecorator(Protocol):
        @overload
        def __call__(self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> DjangoTask[P, R]: ...
        @overload
        def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> DjangoTask[P, R]: ...


if TYPE_CHECKING:

    @overload
    def shared_task(fn: Callable[P, Coroutine[Any, Any, R]], /) -> DjangoTask[P, R]: ...
    @overload
    def shared_task(fn: Callable[P, R], /) -> DjangoTask[P, R]: ...
    @overload
    def shared_task(*, bind: Literal[True], **options: Any) -> _BoundDecorator: ...
    @overload
    def shared_task(*, bind: Literal[False] = False, **options: Any) -> _Decorator: ...


def shared_task(*args: Any, **options: Any) -> Any:
    """``fastq.shared_task``, for type checkers that are to know ``delay_on_commit``; it makes the same task."""
    return shared.shared_task(*args, **options)
