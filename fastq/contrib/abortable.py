"""Tasks that can be asked to stop, and look now and then whether they have been.

    @app.task(bind=True, base=AbortableTask)
    def crunch(self, rows):
        for row in rows:
            if self.is_aborted():
                return "stopped early"
            ...

    crunch.delay(rows).abort()

The request is a state, ABORTED, in the result backend: it costs the task one read each time it looks, and what the task then
returns is its result as usual. A task that never looks is not stopped.
"""

from __future__ import annotations

from typing import Any, ParamSpec, TypeVar

from fastq.result import AsyncResult
from fastq.task import Task

__all__ = ["ABORTED", "AbortableAsyncResult", "AbortableTask"]

P = ParamSpec("P")
R = TypeVar("R")

ABORTED = "ABORTED"


class AbortableAsyncResult(AsyncResult[R]):
    """The result of a task that can be asked to stop."""

    __slots__ = ()

    def is_aborted(self) -> bool:
        """Say whether it was asked to stop and has not ended since."""
        return self.state == ABORTED

    def abort(self) -> Any:
        """Ask it to stop. A task that has ended keeps its state."""
        return self.app.backend.store_result(self.id, None, ABORTED)


class AbortableTask(Task[P, R]):
    """A base class (``base=AbortableTask``) for tasks that look whether they are asked to stop."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult[R]:
        """Return the result of one of its calls."""
        return AbortableAsyncResult(task_id, self.app)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Say whether the running call was asked to stop; reads the result backend."""
        task_id = kwargs.get("task_id") or self.request.id
        if task_id is None:
            raise ValueError("is_aborted outside of a running task needs task_id=")
        return self.AsyncResult(task_id).is_aborted()

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AbortableAsyncResult[R]:
        """Send the task; its result can be aborted."""
        return self.apply_async(args, kwargs)

    def apply_async(self, *args: Any, **options: Any) -> AbortableAsyncResult[R]:
        """Send the task with options; its result can be aborted."""
        sent = super().apply_async(*args, **options, result_cls=AbortableAsyncResult)
        assert isinstance(sent, AbortableAsyncResult)
        return sent
