"""What a pool is: slots inside one process. It knows nothing of transports, apps or tasks, and has no flags."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fastq.exceptions import TaskRevokedError

if TYPE_CHECKING:
    from fastq._core import Delivery

__all__ = ["Alarm", "Pool", "SlotRunner", "TaskCancelled", "TaskKilled"]


class TaskCancelled(TaskRevokedError):
    """Raised inside a running task by ``cancel(hard=False)``: the task may catch it like any error."""

    def __init__(self, message: str = "cancelled while it ran") -> None:
        super().__init__(message)


class TaskKilled(BaseException):
    """Raised inside a running task by ``cancel(hard=True)``: passes every ``except Exception`` of the task."""

    def __init__(self, message: str = "killed while it ran") -> None:
        super().__init__(message)


class SlotRunner(Protocol):
    """What a slot calls. Neither method raises; each reports every outcome itself."""

    def run(self, slot: int, batch: Sequence[Delivery]) -> None:
        """Run the deliveries one after the other in this slot."""
        ...

    def run_async(self, slot: int, batch: Sequence[Delivery]) -> Awaitable[None]:
        """The same on an event loop: coroutine functions are awaited, plain functions run in place."""
        ...


class Alarm(Protocol):
    """An exception that comes into a running task later."""

    def cancel(self) -> bool:
        """See to it that nothing comes any more; True if it has come, or was given to the task's coroutine. It may be called twice.

        Called in the slot that set it. An exception that is on its way may still be raised in here: call it again then."""
        ...


class Pool(Protocol):
    """Slots of one process.

    ``slots`` is how many there are, ``free`` how many can start a batch now. A batch is a list of deliveries that one slot
    runs in order. The slot number given to the runner is unique among the batches that run now, and below the largest
    ``slots`` there has been.
    """

    slots: int
    free: int

    def start(self, runner: SlotRunner, done: Callable[[], object]) -> None:
        """Make the slots ready. ``done()`` is called, from any slot, after each batch, when ``free`` has grown again; it
        neither raises nor blocks."""
        ...

    def main(self, consume: Callable[[], None]) -> None:
        """Run ``consume`` (blocks until the worker stops) where this pool wants it, and the pool's own loop, if it has one,
        in the calling (main) thread. Returns when ``consume`` has returned; re-raises what it raised."""
        ...

    def submit(self, batch: Sequence[Delivery]) -> None:
        """Give a batch to a free slot. Never blocks; called only by the consumer, only while ``free`` > 0."""
        ...

    def call_async(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a coroutine function to its end from within a slot (one loop per process, beside the slots)."""
        ...

    def cancel(self, task_id: str, *, hard: bool, alone: bool = False) -> bool:
        """Interrupt a running task; False: this pool cannot, or does not know it as running.

        Inside the task ``TaskCancelled`` is raised, with ``hard`` ``TaskKilled``; on an event loop ``asyncio.CancelledError`` for
        both. Called by the consumer. Only a delivery that is a batch of its own can be cancelled: in a longer batch a pool cannot
        tell which one runs; ``alone`` says that nothing else of its batch can start any more.

        A task that ends meanwhile stays ended; True says that it was running when asked."""
        ...

    def alarm(self, after_s: float, error: type[BaseException], *, hard: bool, awaited: bool) -> Alarm:
        """Raise ``error()`` in the task that runs in the calling slot, ``after_s`` seconds from now, as far as this pool can.

        ``awaited``: the task is a coroutine function. An error that is not ``hard`` is raised inside its coroutine; a hard one
        also ends the waiting for it where the pool can do that. Called by what the runner does before it calls the task."""
        ...

    def resize(self, slots: int) -> None:
        """Grow or shrink; busy slots finish first, until then ``free`` stays 0. Called by the consumer."""
        ...

    def stop(self, deadline_s: float) -> bool:
        """Wait for busy slots, at most ``deadline_s``; True if all are free. Called by the consumer after its last submit.

        It may be called again to wait longer. The slots themselves end when ``main`` returns."""
        ...
