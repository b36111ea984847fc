"""What runs here: the delivery, and a task called like a function."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.context import Context

__all__ = ["Parent", "Trail", "app_finder", "current", "directly_called", "entered", "entering", "parent"]

#: one function that returns the current application, put here by ``fastq.shared`` for those on floors below it
app_finder: list[Callable[[], Any]] = []

#: the delivery that runs here; set by the core around each run
current: ContextVar[Delivery | None] = ContextVar("fastq_current", default=None)

#: the request of a task that was called like a function, or runs eagerly, where it runs
directly_called: ContextVar[Context | None] = ContextVar("fastq_directly_called", default=None)


#: the task whose own ``__call__`` a worker is about to call: the call of the base class' inside it is the run itself, not another
entering: ContextVar[Any] = ContextVar("fastq_entering", default=None)


def entered(task: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``call``, a ``__call__`` that a class has made its own, as a worker calls it."""

    def run(*args: Any, **kwargs: Any) -> Any:
        token = entering.set(task)
        try:
            return call(*args, **kwargs)
        finally:
            entering.reset(token)

    return run


class Parent:
    """The task that runs here, for what it sends."""

    __slots__ = ("_holder", "_trail", "eager", "id", "level", "root_id")

    def __init__(self, id: str, root_id: str, level: int, holder: Any, trail: bool, *, eager: bool = False) -> None:
        self.id = id
        self.root_id = root_id
        #: it runs here, not in a worker
        self.eager = eager
        #: the broker's level of its priority
        self.level = level
        #: what has ``children``: the delivery, or the trail of a task that runs eagerly
        self._holder = holder
        self._trail = trail

    def note(self, child: Any) -> None:
        """Remember a task that it has sent (its id, or a result as a tuple), unless it keeps no trail."""
        if not self._trail:
            return
        holder = self._holder
        if holder.children is None:
            holder.children = [child]
        else:
            holder.children.append(child)


class Trail:
    """What a task that runs eagerly has sent."""

    __slots__ = ("children",)

    def __init__(self) -> None:
        self.children: list[Any] | None = None


def parent() -> Parent | None:
    """Return the task that runs here, in a worker or eagerly; None outside of one."""
    called = directly_called.get()
    if called is not None and called.is_eager:
        id = called.id or ""
        return Parent(id, called.root_id or id, called._level, called.trail, _keeps_trail(called._task), eager=True)
    delivery = current.get()
    if delivery is None:
        return None
    options = delivery.options or {}
    entry = delivery.entry
    root_id = options.get("root_id") or delivery.id
    return Parent(delivery.id, root_id, options.get("priority") or 0, delivery, entry is None or _keeps_trail(entry.task))


def _keeps_trail(task: Any) -> bool:
    return bool(getattr(task, "trail", True))
