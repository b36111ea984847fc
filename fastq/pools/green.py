"""What the greenlet pools share: slots that all live in one OS thread, the one of the consumer.

So counts need no lock: nothing else runs between two lines that do not switch.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from fastq.pools.base import TaskCancelled, TaskKilled
from fastq.pools.slots import cancellable

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.pools.base import Alarm, SlotRunner
    from fastq.pools.loops import Call, LoopThread

__all__ = ["GreenPool", "GreenSlot"]

logger = logging.getLogger("fastq.pool")

#: seconds; the timers of the runtimes overflow on "for ever"
LONGEST_S = 1e6


class GreenSlot:
    """A slot and its greenlet, which lives as long as the pool.

    A new greenlet per batch would cost a microsecond more, and with it every greenlet local (a framework's database
    connections) would be made anew for each batch.
    """

    __slots__ = ("batch", "greenlet", "number", "resting", "running")

    def __init__(self, number: int) -> None:
        self.number = number
        self.greenlet: Any = None
        #: given, not begun
        self.batch: Sequence[Delivery] | None = None
        #: begun, not ended
        self.running: Sequence[Delivery] | None = None
        #: in the hub, waiting for a batch: only then may the pool switch to it
        self.resting = False


class GreenPool(ABC):
    """A pool of greenlets; gevent and eventlet say how to switch, wake and wait.

    Greenlets are made when first needed. The consumer runs in the main greenlet. ``done`` must not switch.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.free = slots
        self._busy = 0
        self._idle: list[GreenSlot] = []
        self._slots: list[GreenSlot] = []
        self._loop_thread: LoopThread | None = None
        #: coroutines that have ended, from the loop's thread to the hub's
        self._ended: deque[Call] = deque()
        #: by greenlet: the coroutine that it waits for
        self._awaiting: dict[Any, Call] = {}

    # what gevent and eventlet differ in

    @abstractmethod
    def _spawn(self, slot: GreenSlot) -> Any:
        """Return a greenlet that will run ``_work(slot)`` from the hub, soon."""

    @abstractmethod
    def _rest(self) -> None:
        """Switch to the hub."""

    @abstractmethod
    def _from_hub(self, call: Callable[[GreenSlot], None], slot: GreenSlot) -> None:
        """Have the hub call it, soon."""

    @abstractmethod
    def _wait_all_free(self, deadline_s: float) -> None:
        ...

    @abstractmethod
    def _set_all_free(self) -> None:
        ...

    @abstractmethod
    def _open_loop_thread(self) -> LoopThread:
        """Start the loop thread, natively, and what wakes the hub when ``_loop_thread_ended`` is called in it."""

    @abstractmethod
    def _close_loop_thread(self) -> None:
        """Undo what ``_open_loop_thread`` set up in the hub."""

    @abstractmethod
    def _await_call(self, call: Call, begin: Callable[[Call], None]) -> None:
        """Begin the call and wait for its end, letting other greenlets run."""

    @abstractmethod
    def _finish(self, call: Call) -> None:
        """Have the hub end the waiting of this call; called on the loop thread."""

    @abstractmethod
    def _call_later(self, after_s: float, call: Callable[[], object]) -> Callable[[], object]:
        """Have the hub call it later; return what prevents that."""

    # the protocol

    def start(self, runner: SlotRunner, done: Callable[[], object]) -> None:
        self._runner = runner
        self._done = done

    def main(self, consume: Callable[[], None]) -> None:
        try:
            consume()
        finally:
            thread, self._loop_thread = self._loop_thread, None
            if thread is not None:
                thread.close()
                self._close_loop_thread()

    def submit(self, batch: Sequence[Delivery]) -> None:
        self._busy += 1
        self.free -= 1
        if self._idle:
            slot = self._idle.pop()
            slot.batch = batch
            self._from_hub(self._wake, slot)
        else:
            slot = GreenSlot(len(self._slots))
            self._slots.append(slot)
            slot.batch = batch
            slot.greenlet = self._spawn(slot)

    def call_async(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the coroutine on the loop thread while this greenlet waits and others run.

        The loop has an OS thread of its own because a thread has one running loop at a time: in the main one, two slots would not
        both get theirs, and the loop would block the hub.
        """
        import asyncio  # lazy: asyncio costs 30 ms and several MiB, most workers run no coroutine

        from fastq.pools.loops import Call  # lazy: asyncio, as above

        thread = self._loop_thread
        if thread is None:
            thread = self._loop_thread = self._open_loop_thread()
        call = Call(fn, args, kwargs, self._finish)
        slot = getcurrent()
        self._awaiting[slot] = call
        try:
            self._await_call(call, thread.begin)
        except BaseException:  # the slot was cancelled or timed out: its coroutine must not go on without it
            thread.cancel(call, asyncio.CancelledError)
            raise
        finally:
            del self._awaiting[slot]
        return call.result()

    def cancel(self, task_id: str, *, hard: bool, alone: bool = False) -> bool:
        """Raise in the task's greenlet, where it waits. A task that blocks the hub cannot be reached: nothing else runs either."""
        for slot in self._slots:
            batch = slot.running
            if batch is not None and cancellable(batch, task_id, alone):
                self._from_hub(partial(_throw, batch, TaskKilled if hard else TaskCancelled), slot)
                return True
        return False

    def alarm(self, after_s: float, error: type[BaseException], *, hard: bool, awaited: bool) -> Alarm:
        """Raise it in this greenlet, where it waits. A task that blocks the hub cannot be reached."""
        return _GreenAlarm(self, after_s, error, hard)

    def divert(self, slot: Any, error: type[BaseException]) -> bool:
        """Raise ``error()`` in the coroutine that this greenlet waits for; False if it waits for none."""
        call = self._awaiting.get(slot)
        if call is None or self._loop_thread is None:
            return False
        self._loop_thread.interrupt(call, error)
        return True

    def resize(self, slots: int) -> None:
        self.slots = slots
        self.free = max(0, slots - self._busy)

    def stop(self, deadline_s: float) -> bool:
        if self._busy and deadline_s > 0:
            self._wait_all_free(min(deadline_s, LONGEST_S))
        return not self._busy

    # slots

    def _wake(self, slot: GreenSlot) -> None:
        """Switch to the slot; called in the hub. If it is still calling ``done`` it finds the batch by itself."""
        if slot.resting:
            slot.greenlet.switch()

    def _work(self, slot: GreenSlot) -> None:
        rest, idle = self._rest, self._idle
        while True:
            while (batch := slot.batch) is None:  # a stray switch from a library finds nothing to do
                slot.resting = True
                try:
                    rest()
                finally:
                    slot.resting = False
            slot.batch = None
            slot.running = batch
            try:
                self._runner.run(slot.number, batch)
            except BaseException:  # the slot must survive
                logger.exception("the runner raised; deliveries without an outcome stay leased: %s", [d.id for d in batch])
            slot.running = None
            self._busy -= 1
            left = self.slots - self._busy
            self.free = left if left > 0 else 0
            idle.append(slot)
            self._done()
            if not self._busy:
                self._set_all_free()


class _GreenAlarm:
    """An alarm of the calling greenlet; everything happens in the hub's thread."""

    __slots__ = ("_error", "_hard", "_pool", "_prevent", "_rung", "_slot")

    def __init__(self, pool: GreenPool, after_s: float, error: type[BaseException], hard: bool) -> None:
        self._pool = pool
        self._slot = getcurrent()
        self._error = error
        self._hard = hard
        self._rung = False
        self._prevent: Callable[[], object] | None = pool._call_later(after_s, self._ring)

    def _ring(self) -> None:
        """Called in the hub."""
        self._rung = True
        if self._hard or not self._pool.divert(self._slot, self._error):
            self._slot.throw(self._error())

    def cancel(self) -> bool:
        prevent, self._prevent = self._prevent, None
        if prevent is not None:
            prevent()
        return self._rung


def _throw(batch: Sequence[Delivery], error: type[BaseException], slot: GreenSlot) -> None:
    """Raise in the slot if it still runs that batch; called in the hub."""
    if slot.running is batch:
        slot.greenlet.throw(error())
