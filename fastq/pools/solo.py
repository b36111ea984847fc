"""One slot, in the main thread: ``breakpoint()`` works there, and a task may use signals.

Also what each prefork process is. The consumer lives in a background thread, so it settles and fetches while a task runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from fastq.exceptions import ImproperlyConfigured
from fastq.pools.alarms import SignalAlarms
from fastq.pools.base import TaskCancelled, TaskKilled
from fastq.pools.native import SIGNALS_S, ConsumerThread, NativeCalls
from fastq.pools.slots import SlotCount, cancellable
from fastq.pools.strikes import MainStrikes

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.pools.base import Alarm, SlotRunner

__all__ = ["SoloPool"]

logger = logging.getLogger("fastq.pool")


class SoloPool(SlotCount):
    """One slot in the main thread.

    ``main`` returns when the consumer has returned *and* the running batch has ended: nothing but a signal can interrupt it.
    """

    def __init__(self, slots: int = 1) -> None:
        super().__init__(1)
        self._batches: SimpleQueue[Sequence[Delivery] | None] = SimpleQueue()
        #: what runs now
        self._batch: Sequence[Delivery] | None = None
        self._strikes = MainStrikes()
        self._calls = NativeCalls()
        self._alarms = SignalAlarms(lambda error: self._calls.divert(threading.get_ident(), error))

    def start(self, runner: SlotRunner, done: Callable[[], object]) -> None:
        self._runner = runner
        self._done = done

    def main(self, consume: Callable[[], None]) -> None:
        consumer = ConsumerThread(consume, lambda: self._batches.put(None))
        self._strikes.open()
        consumer.start()
        get, run = self._batches.get, self._runner.run
        try:
            while True:
                try:
                    batch = get(timeout=SIGNALS_S)  # signal handlers run in here
                except Empty:
                    continue
                if batch is None:
                    break
                try:
                    self._batch = batch
                    run(0, batch)
                    self._batch = None
                except (TaskCancelled, TaskKilled):
                    pass  # struck after the task had ended; there is only one strike
                except Exception:  # the slot must survive: a process without it would hold its lease and do nothing
                    logger.exception("the runner raised; deliveries without an outcome stay leased: %s", [d.id for d in batch])
                finally:
                    self._batch = None
                    self._alarms.end()
                    self._give_back()
                self._done()
        finally:
            self._strikes.close()
            self._calls.close()
        consumer.reraise()

    def submit(self, batch: Sequence[Delivery]) -> None:
        self._take()
        self._batches.put(batch)

    def call_async(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._calls.call(fn, args, kwargs)

    def cancel(self, task_id: str, *, hard: bool, alone: bool = False) -> bool:
        """Raise it by a signal, as an alarm does; the main thread itself looks whether the task still runs."""
        batch = self._batch
        if batch is None or not cancellable(batch, task_id, alone):
            return False
        return self._strikes.strike(task_id, TaskKilled if hard else TaskCancelled, lambda: self._batch is batch)

    def alarm(self, after_s: float, error: type[BaseException], *, hard: bool, awaited: bool) -> Alarm:
        """Raise it by a signal: it interrupts also what waits in C, if that returns on signals (sockets, locks, sleeping)."""
        return self._alarms.set(after_s, error, hard=hard)

    def resize(self, slots: int) -> None:
        if slots != 1:
            raise ImproperlyConfigured(f"a solo or prefork process has one slot and cannot be resized to {slots}; add processes")
