"""Slots are OS threads fed by one queue; the consumer runs in the main thread, where signal handlers run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from fastq.exceptions import SoftTimeLimitExceeded
from fastq.pools.alarms import STRIKE_S, ThreadAlarms, raise_in
from fastq.pools.base import TaskCancelled, TaskKilled
from fastq.pools.native import NativeCalls
from fastq.pools.slots import SlotCount, cancellable

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.pools.base import Alarm, SlotRunner

__all__ = ["ThreadsPool"]

logger = logging.getLogger("fastq.pool")


class _Strike:
    """An exception that the consumer throws into a slot; a batch is struck once at most."""

    __slots__ = ("coming",)

    def __init__(self) -> None:
        self.coming = True


class _Slot(threading.Thread):
    def __init__(self, number: int, work: Callable[[_Slot], None]) -> None:
        super().__init__(name=f"fastq-slot-{number}", daemon=True)
        self.number = number
        #: what runs now
        self.batch: Sequence[Delivery] | None = None
        #: an exception for this batch, on its way or thrown
        self.strike: _Strike | None = None
        self._work = work

    def run(self) -> None:
        self._work(self)


class ThreadsPool(SlotCount):
    """Slots as OS threads, all started at once and daemonic: a busy one never holds up the end of the process.

    A slot keeps its thread, so thread locals (a framework's database connections) live as long as the slot.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._batches: SimpleQueue[Sequence[Delivery] | None] = SimpleQueue()
        self._calls = NativeCalls()
        self._alarms = ThreadAlarms(self._calls.divert)
        self._slots: dict[int, _Slot] = {}
        #: how many of the None in the queue are still meant to end a thread
        self._retiring = 0

    def start(self, runner: SlotRunner, done: Callable[[], object]) -> None:
        self._runner = runner
        self._done = done
        self._hire(self.slots)

    def main(self, consume: Callable[[], None]) -> None:
        try:
            consume()
        finally:
            self._retire(len(self._slots))
            self._alarms.close()
            self._calls.close()

    def submit(self, batch: Sequence[Delivery]) -> None:
        self._take()
        self._batches.put(batch)

    def call_async(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._calls.call(fn, args, kwargs)

    def cancel(self, task_id: str, *, hard: bool, alone: bool = False) -> bool:
        """Raise in the slot's thread, where it next runs Python code: a call into C (a socket, a lock) ends first.

        A task that waits for its coroutine is cancelled at once, through the loop. The exception can also come while the outcome is
        being written; then that delivery stays leased and runs again when this process has gone.
        """
        error = TaskKilled if hard else TaskCancelled
        for slot in list(self._slots.values()):
            batch = slot.batch
            if batch is not None and cancellable(batch, task_id, alone):
                return self._strike(slot, batch, error)
        return False

    def alarm(self, after_s: float, error: type[BaseException], *, hard: bool, awaited: bool) -> Alarm:
        """Raise it in the slot's thread, where it next runs Python code: a call into C (a socket, a lock) ends first."""
        return self._alarms.set(after_s, error, hard=hard)

    def resize(self, slots: int) -> None:
        grown = slots - self.slots
        self._set_slots(slots)
        if grown > 0:
            self._hire(grown)
        else:
            self._retire(-grown)

    def _hire(self, count: int) -> None:
        with self._lock:
            kept = min(count, self._retiring)  # threads that were to end, but have not yet, stay: their numbers are taken
            self._retiring -= kept
            spare = (number for number in range(len(self._slots) + count) if number not in self._slots)
            hired = [_Slot(next(spare), self._work) for _ in range(count - kept)]
            for slot in hired:
                self._slots[slot.number] = slot
        for slot in hired:
            slot.start()

    def _retire(self, count: int) -> None:
        with self._lock:
            self._retiring += count
        for _ in range(count):
            self._batches.put(None)

    def _work(self, slot: _Slot) -> None:
        get, run_batch, done = self._batches.get, self._run_batch, self._done
        while True:
            batch = get()
            if batch is not None:
                run_batch(slot, batch)
                done()
            elif self._leave(slot):
                return

    def _strike(self, slot: _Slot, batch: Sequence[Delivery], error: type[BaseException]) -> bool:
        # Two actors: the consumer announces the strike, then looks if the batch still runs. The slot (_run_batch) takes its batch
        # away, then looks for an announced strike. So one of them sees the other: either no strike comes, or the slot awaits it.
        if slot.strike is not None or slot.ident is None:
            return False
        call = self._calls.waiting(slot.ident)
        if call is not None and slot.batch is batch:  # looked at in this order: so it is this batch's call
            self._calls.cancel(call, error)
            return True
        slot.strike = strike = _Strike()
        running = slot.batch is batch
        if running:
            raise_in(slot.ident, error)
        else:
            slot.strike = None
        strike.coming = False
        return running

    def _run_batch(self, slot: _Slot, batch: Sequence[Delivery]) -> None:
        try:
            try:
                slot.batch = batch
                self._runner.run(slot.number, batch)
            except BaseException:  # the slot must survive
                logger.exception("the runner raised; deliveries without an outcome stay leased: %s", [d.id for d in batch])
            slot.batch = None
            if self._alarms.live and slot.ident is not None:
                self._alarms.end(slot.ident)
            if (strike := slot.strike) is not None and slot.ident is not None:
                while strike.coming:
                    time.sleep(STRIKE_S)
                raise_in(slot.ident, None)
        except (TaskCancelled, TaskKilled, SoftTimeLimitExceeded):
            slot.batch = None  # the strike came after the task had ended: there is only one, so from here on nothing interrupts
        slot.strike = None
        self._give_back()

    def _leave(self, slot: _Slot) -> bool:
        with self._lock:
            if not self._retiring:
                return False  # a resize upwards has taken the order back
            self._retiring -= 1
            del self._slots[slot.number]
            return True
