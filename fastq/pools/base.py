"""What a pool is: slots inside one process. It knows nothing of transports, apps or tasks, and has no flags."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from fastq._core import Delivery

__all__ = ["Pool", "SlotRunner"]


class SlotRunner(Protocol):
    """What a slot calls. Neither method raises; each reports every outcome itself."""

    def run(self, slot: int, batch: Sequence[Delivery]) -> None:
        """Run the deliveries one after the other in this slot."""
        ...

    def run_async(self, slot: int, batch: Sequence[Delivery]) -> Awaitable[None]:
        """The same on an event loop: coroutine functions are awaited, plain functions run in place."""
        ...


class Pool(Protocol):
    """Slots of one process.

    ``slots`` is how many there are, ``free`` how many can start a batch now. A batch is a list of deliveries that one slot runs in order.
    """

    slots: int
    free: int

    def start(self, runner: SlotRunner, done: Callable[[], object]) -> None:
        """Make the slots ready. ``done()`` is called, from any slot, after each batch, when ``free`` has grown again."""
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

    def cancel(self, task_id: str, *, hard: bool) -> bool:
        """Interrupt a running task; False: this pool cannot."""
        ...

    def resize(self, slots: int) -> None:
        """Grow or shrink; busy slots finish first."""
        ...

    def stop(self, deadline_s: float) -> bool:
        """Wait for busy slots, at most ``deadline_s``; True if all are free. Called by the consumer after its last submit."""
        ...
