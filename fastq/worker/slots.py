"""What a pool's slot runs: the core's run loop, one batch at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from fastq._core import Runner
from fastq.records import Delivery

__all__ = ["Slots"]


def interruptible(awaitable: Awaitable[Any]) -> Awaitable[Any]:
    # lazy: asyncio, which only a process that awaits has loaded
    from fastq.pools.interrupts import Interruptible

    return Interruptible(awaitable)


class Slots:
    """Run batches in slots. A delivery whose claim was lost (it was given back meanwhile) is skipped."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(self, slot: int, batch: Sequence[Delivery]) -> None:
        """Run the deliveries one after the other."""
        self._runner.run_many(slot, batch)

    async def run_async(self, slot: int, batch: Sequence[Delivery]) -> None:
        """Run the deliveries one after the other on this event loop: coroutine functions are awaited."""
        runner = self._runner
        for d in batch:
            if d.entry is None or not d.entry.is_async:
                runner.run(slot, d)
                continue
            call = runner.begin(slot, d)
            if call is None:
                continue
            try:
                if d.flow is None and not d.entry.special and not runner.special:
                    value = await d.entry.fn(*call.args, **call.kwargs)
                else:  # it may have a time limit
                    value = await interruptible(d.entry.fn(*call.args, **call.kwargs))
            except BaseException as exc:  # the slot must survive whatever a task raises, cancellation included
                runner.finish(slot, call, None, exc)
            else:
                runner.finish(slot, call, value, None)
