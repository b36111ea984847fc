"""Slots are OS threads fed by one queue; the consumer runs in the main thread, where signal handlers run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from fastq.pools.base import TaskCancelled, TaskKilled
from fastq.pools.native import NativeCalls
from fastq.pools.slots import SlotCount

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.pools.base import SlotRunner

__all__ = ["ThreadsPool"]

logger = logging.getLogger("fastq.pool")


class _Slot(threading.Thread):
    def __init__(self, number: int, work: Callable[[_Slot], None]) -> None:
        super().__init__(name=f"fastq-slot-{number}", daemon=True)
        self.number = number
        #: what runs now; taken away under the pool's lock, so that cancel() never strikes a slot that has ended its batch
        self.batch: Sequence[Delivery] | None = None
        self.struck = False
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
            self._calls.close()

    def submit(self, batch: Sequence[Delivery]) -> None:
        self._take()
        self._batches.put(batch)

    def call_async(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._calls.call(fn, args, kwargs)

    def cancel(self, task_id: str, *, hard: bool) -> bool:
        """Raise in the slot's thread, where it next runs Python code: a call into C (a socket, a lock) ends first.

        A task that waits for its coroutine is cancelled at once, through the loop. The exception can also come while the outcome is
        being written; then that delivery stays leased and runs again when this process has gone.
        """
        error = TaskKilled if hard else TaskCancelled
        with self._lock:
            for slot in self._slots.values():
                batch = slot.batch
                if batch is not None and len(batch) == 1 and batch[0].id == task_id:
                    if slot.struck or slot.ident is None:
                        return False
                    if not self._calls.cancel(slot.ident, error):
                        slot.struck = True
                        _raise_in(slot.ident, error)
                    return True
        return False

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

    def _run_batch(self, slot: _Slot, batch: Sequence[Delivery]) -> None:
        try:
            try:
                slot.batch = batch
                self._runner.run(slot.number, batch)
            except BaseException:  # the slot must survive
                logger.exception("the runner raised; deliveries without an outcome stay leased: %s", [d.id for d in batch])
            self._end(slot)
        except (TaskCancelled, TaskKilled):
            # thrown while the task ran, delivered here: it had ended. A batch is struck once, so nothing can come any more
            self._end(slot)

    def _end(self, slot: _Slot) -> None:
        # Called again when the first call was interrupted. Between the lock and the end of the count is no call, so no place
        # where the interpreter delivers an exception: the count changes once or not at all.
        with self._lock:
            if slot.batch is not None:
                slot.batch = None
                self._busy -= 1
                left = self.slots - self._busy
                self.free = left if left > 0 else 0
            if slot.struck and slot.ident is not None:
                _raise_in(slot.ident, None)
                slot.struck = False
            if self._awaited and not self._busy:
                self._all_free.set()

    def _leave(self, slot: _Slot) -> bool:
        with self._lock:
            if not self._retiring:
                return False  # a resize upwards has taken the order back
            self._retiring -= 1
            del self._slots[slot.number]
            return True


def _raise_in(ident: int, error: type[BaseException] | None) -> None:
    """Have the interpreter raise ``error`` in that thread; None takes back what it has not raised yet."""
    import ctypes  # lazy: only a cancelled task needs it

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error) if error is not None else None)
