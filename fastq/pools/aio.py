"""Slots are asyncio tasks on one event loop in the main thread; the consumer lives in a background thread.

Coroutine functions are awaited side by side. A plain function runs in place, on the loop's thread: while it runs nothing else does,
so a plain function that waits belongs on another pool, or behind ``asyncio.to_thread`` in a coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fastq.pools.alarms import SignalAlarms
from fastq.pools.base import TaskCancelled, TaskKilled
from fastq.pools.interrupts import interrupt
from fastq.pools.loops import CLOSE_S, close_loop
from fastq.pools.native import SIGNALS_S, ConsumerThread
from fastq.pools.slots import SlotCount, cancellable
from fastq.pools.strikes import MainStrikes

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.pools.base import Alarm, SlotRunner

__all__ = ["AsyncioPool"]

logger = logging.getLogger("fastq.pool")


class AsyncioPool(SlotCount):
    """Slots as asyncio tasks, one per batch: each batch has a context of its own."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._batches: deque[Sequence[Delivery]] = deque()
        #: of plain functions: they block the loop, but not a signal
        self._alarms = SignalAlarms()
        self._strikes = MainStrikes()
        self._woken = False
        #: slot numbers given out before and free again; the loop thread's own
        self._numbers: list[int] = []
        self._running: dict[int, tuple[Sequence[Delivery], asyncio.Task[None]]] = {}
        #: the loop keeps only weak references to its tasks
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, runner: SlotRunner, done: Callable[[], object]) -> None:
        self._runner = runner
        self._done = done

    def main(self, consume: Callable[[], None]) -> None:
        loop = self._loop = asyncio.new_event_loop()
        self._strikes.open()
        consumer = ConsumerThread(consume, self._consumer_ended)
        consumer.start()
        self._look_for_signals()
        try:
            loop.run_forever()
        finally:
            close_loop(loop, CLOSE_S)
            self._strikes.close()
        consumer.reraise()

    def submit(self, batch: Sequence[Delivery]) -> None:
        self._take()
        # one actor: the consumer appends and finds the wake pending, so it sends none. The other: the loop takes the flag down
        # before it looks at the queue, so it finds what was appended before. A wake costs a system call: one for many batches.
        self._batches.append(batch)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._start_batches)

    def call_async(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the coroutine function on this loop, from another thread (``to_thread``) only: the loop's own thread awaits it."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(_await(fn, args, kwargs), self._loop).result()
        raise RuntimeError(f"{fn!r} cannot be run to its end inside the event loop: await it")

    def cancel(self, task_id: str, *, hard: bool, alone: bool = False) -> bool:
        """Cancel the asyncio task, soft and hard alike: ``CancelledError`` is raised where it awaits. A plain function is struck by
        a signal, as on solo."""
        for number, (batch, task) in self._running.copy().items():
            if cancellable(batch, task_id, alone):
                entry = next((getattr(d, "entry", None) for d in batch if d.id == task_id), None)
                if entry is not None and not entry.is_async:
                    return self._strikes.strike(task_id, TaskKilled if hard else TaskCancelled, partial(self._runs, number, batch))
                self._loop.call_soon_threadsafe(self._cancel, number, task)
                return True
        return False

    def alarm(self, after_s: float, error: type[BaseException], *, hard: bool, awaited: bool) -> Alarm:
        """Raise it in the coroutine where it waits; in a plain function by a signal."""
        if not awaited:
            return self._alarms.set(after_s, error, hard=hard)
        task = asyncio.current_task()
        assert task is not None
        return _LoopAlarm(self._loop, after_s, task, error)

    def resize(self, slots: int) -> None:
        self._set_slots(slots)

    def _look_for_signals(self) -> None:
        # that the loop wakes is all it takes: handlers run between two instructions of the main thread
        self._loop.call_later(SIGNALS_S, self._look_for_signals)

    def _runs(self, number: int, batch: Sequence[Delivery]) -> bool:
        return (running := self._running.get(number)) is not None and running[0] is batch

    def _consumer_ended(self) -> None:
        with contextlib.suppress(RuntimeError):  # main has been left by an exception, the loop is closed
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _cancel(self, number: int, task: asyncio.Task[None]) -> None:
        running = self._running.get(number)
        if running is not None and running[1] is task:
            task.cancel()

    def _start_batches(self) -> None:
        self._woken = False
        batches, tasks, create_task = self._batches, self._tasks, self._loop.create_task
        while batches:
            task = create_task(self._work(batches.popleft()))
            tasks.add(task)

    async def _work(self, batch: Sequence[Delivery]) -> None:
        # there are never more tasks than busy slots, so a number that is not spare is new
        number = self._numbers.pop() if self._numbers else len(self._running)
        task = asyncio.current_task()
        assert task is not None
        self._running[number] = (batch, task)
        try:
            await self._runner.run_async(number, batch)
        except BaseException:  # the slot must survive
            logger.exception("the runner raised; deliveries without an outcome stay leased: %s", [d.id for d in batch])
        finally:
            del self._running[number]
            self._numbers.append(number)
            self._tasks.discard(task)
            self._give_back()
            self._done()


class _LoopAlarm:
    """An alarm of a coroutine on this loop; everything happens in the loop's thread."""

    __slots__ = ("_error", "_handle", "_rung", "_task")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, after_s: float, task: asyncio.Task[None], error: type[BaseException]
    ) -> None:
        self._task = task
        self._error = error
        self._rung = False
        self._handle = loop.call_later(after_s, self._ring)

    def _ring(self) -> None:
        self._rung = True
        interrupt(self._task, self._error)

    def cancel(self) -> bool:
        self._handle.cancel()
        return self._rung


async def _await(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return await fn(*args, **kwargs)
