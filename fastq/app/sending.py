"""What an application sends by name, and the results it knows by id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Unpack

    from fastq.app.application import FastQ
    from fastq.app.registry import TaskRegistry
    from fastq.calling import CallOptions, Plan
    from fastq.canvas import Signature
    from fastq.config import Settings
    from fastq.result import AsyncResult as Result
    from fastq.results import GroupResult as Group
    from fastq.results import ResultSet as Set

__all__ = ["Sending"]

#: plans of tasks whose code is not known here, by name; more are forgotten
MAX_PLANS = 10_000


class Sending:
    """The part of an application that sends by name."""

    conf: Settings
    _tasks: TaskRegistry

    def __init__(self) -> None:
        self._plans: tuple[int, dict[str, Plan]] | None = None

    if TYPE_CHECKING:

        @property
        def tasks(self) -> TaskRegistry: ...

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Result[Any]:
        """Send a task by name; its code need not be known here. Options as in ``Task.apply_async``; arguments are not checked.

        It is sent even with ``task_always_eager``, for a name need not have code here that could run.
        """
        plan = self._to_be_sent(name)
        positional, named = plan.arguments(args, kwargs)
        changed, call = plan.resolve(options)
        return changed.send(positional, named, call)

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Result[Any]:
        """``send_task`` for an event loop."""
        plan = self._to_be_sent(name)
        positional, named = plan.arguments(args, kwargs)
        changed, call = plan.resolve(options)
        return await changed.asend(positional, named, call)

    def _to_be_sent(self, name: str) -> Plan:
        if self.conf.task_always_eager:
            import warnings  # lazy: only where something looks wrong

            warnings.warn(
                "task_always_eager is set, but send_task() sends the task by its name: use task.apply_async() or app.tasks[name]",
                stacklevel=3,
            )
        return self._plan(name)

    def _plan(self, name: str) -> Plan:
        """Return how a task of this name is sent: as the task says, if it is known here. Never runs eagerly."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"a task is sent by its name, not by {name!r}")
        generation = self.conf.generation
        plans = self._plans
        if plans is None or plans[0] != generation:
            plans = self._plans = (generation, {})
        plan = plans[1].get(name)
        if plan is None or plan.task is not self._tasks.get(name):
            from fastq.calling import Plan  # lazy: the name is taken by the annotation only

            task = self.tasks.get(name)
            options: dict[str, Any] = {}
            if task is not None:
                _app(self)._annotate(task)
                options = task.call_defaults()
            plan = Plan(_app(self), name, None, task=task, eager=False, **options)
            if task is None and len(plans[1]) > MAX_PLANS:
                plans[1].clear()
            plans[1][name] = plan
        return plan

    def send_many(self, signatures: Iterable[Signature[Any]]) -> Set[Any]:
        """Send many signatures, a thousand in each round trip; return their results in order."""
        from fastq.canvas.sending import send_many  # lazy: the canvas imports tasks

        return send_many(_app(self), signatures)

    async def asend_many(self, signatures: Iterable[Signature[Any]]) -> Set[Any]:
        """``send_many`` for an event loop."""
        from fastq.canvas.sending import asend_many  # lazy: the canvas imports tasks

        return await asend_many(_app(self), signatures)

    def signature(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """Return a call that has not been made: ``app.signature(name, args, kwargs, ...)``; its code need not be known here."""
        from fastq.canvas import signature  # lazy: the canvas imports tasks

        kwargs["app"] = self
        return signature(*args, **kwargs)

    subtask = signature

    # --- results ---

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Result[Any]:
        """Return the result of a task known by its id."""
        from fastq.result import AsyncResult  # lazy: the name is taken by this method

        return AsyncResult(task_id, _app(self), **kwargs)

    def ResultSet(self, results: Iterable[Result[Any]] = (), **kwargs: Any) -> Set[Any]:
        """Return results as one."""
        from fastq.results import ResultSet  # lazy: the name is taken by this method

        return ResultSet(results, _app(self), **kwargs)

    @property
    def GroupResult(self) -> type[Group[Any]]:
        """Return GroupResult, bound to this application: ``app.GroupResult(id, results)``, ``app.GroupResult.restore(id)``."""
        from fastq.results import GroupResult  # lazy: the name is taken by this property

        return GroupResult.bound(_app(self))


def _app(part: Sending) -> FastQ:
    return part  # type: ignore[return-value]
