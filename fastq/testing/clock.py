"""A clock that stands still until a test moves it: what is due hours from now runs at once.

It is the clock of a memory broker, so it decides when messages are due, calls expire, rate limits give their turns and results
go. What tasks see of the time otherwise (``time.time()``, ``datetime.now()``) is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fastq.exceptions import ImproperlyConfigured
from fastq.producer import RetryPolicy
from fastq.testing.rest import resting, workers
from fastq.testing.stores import has_work, store_of

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.testing.worker import InProcessWorker

__all__ = ["Clock", "app_clock"]

#: real seconds that the tasks of one moment may take
PATIENCE_S = 30.0


@contextmanager
def app_clock(app: FastQ, start: datetime | None = None) -> Iterator[Clock]:
    """Make the time of this application's memory broker stand still for the ``with`` block; ``Clock.advance`` moves it."""
    clock = Clock(app, start)
    try:
        yield clock
    finally:
        clock.release()


class Clock:
    """The time of a memory broker, standing still since the clock was made. One for a broker at a time."""

    def __init__(self, app: FastQ, start: datetime | None = None) -> None:
        """``start``: what time it is now; None: what it was. ImproperlyConfigured if the broker is not ``memory://``."""
        if not app.broker_url.startswith("memory:"):
            raise ImproperlyConfigured(
                f"the broker is {app.broker_url.partition(':')[0]}://, whose clock cannot be moved: a simulated clock needs memory://"
            )
        self._app = app
        store = self._store = store_of(app.broker_url)
        now_ms = store.now_ms() if start is None else round(app.aware(start).timestamp() * 1000)
        self._real: Callable[[], float] = store.clock
        # whole seconds: the milliseconds are what the store adds, so none is lost in a float
        still_s = float(int(store.clock()))
        with store.lock:
            store.clock = lambda: still_s
        #: ms that this clock has added to the store's
        self._added_ms = 0
        self._set(now_ms)

    def now(self) -> datetime:
        """Return what time it is, in the application's zone."""
        return datetime.fromtimestamp(self._store.now_ms() / 1000, self._app.timezone)

    def advance(
        self,
        by: timedelta | float = 0,
        /,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        milliseconds: float = 0,
        timeout: float = PATIENCE_S,
    ) -> datetime:
        """Let time pass; return what time it is then. ``by`` is a timedelta or seconds, the others are added to it.

        What is due on the way (delayed calls, retries, turns of a rate limit, and what they start) is run by the workers of this
        process in the order of its due times, each at its own: the clock moves from one to the next, and only when nothing runs any
        more. Returns when all that is due by then has run. ``timeout``: real seconds that the tasks of one moment may take;
        TimeoutError names those that ran longer. Without a worker what is due becomes ready, and waits for one or for ``drain``.
        """
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        step += timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
        if step < timedelta(0):
            raise ValueError(f"time cannot go back by {-step}: make another Clock with the start you need")
        return self._go(self._store.now_ms() + round(step / timedelta(milliseconds=1)), timeout)

    def advance_to(self, moment: datetime, *, timeout: float = PATIENCE_S) -> datetime:
        """Let time pass until then; see ``advance``."""
        target_ms = round(self._app.aware(moment).timestamp() * 1000)
        if target_ms < self._store.now_ms():
            raise ValueError(f"time cannot go back from {self.now()} to {moment}: make another Clock with the start you need")
        return self._go(target_ms, timeout)

    def wait(self, timeout: float = PATIENCE_S) -> None:
        """Wait until all that is due now has run, and what it has started for now."""
        store = self._store
        with resting:
            if not resting.wait_for(lambda: not has_work(store, self._consumed()), timeout):
                running = ", ".join(name for worker in self._workers() for name in worker.running()) or "nothing"
                raise TimeoutError(f"the workers were not idle within {timeout:g} s; {running} runs, at {self.now()}")

    def release(self) -> None:
        """Let the time run again, as it was. Harmless to call again."""
        with self._store.lock:
            self._store.clock = self._real
            self._store.buckets.clear()  # turns that were taken in a time that has not come yet
        self._move(-self._added_ms)
        for worker in self._workers():
            worker.simulated = False
            worker.look()

    # --- inside ---

    def _go(self, target_ms: int, timeout: float) -> datetime:
        store = self._store
        self._set(store.now_ms())  # who publishes may have another idea of the time by now
        self.wait(timeout)
        while 0 < (due_ms := store.next_due_ms()) <= target_ms:
            self._set(due_ms)
            self.wait(timeout)
        self._set(target_ms)
        self.wait(timeout)
        return self.now()

    def _set(self, now_ms: int) -> None:
        for worker in self._workers():
            if not worker.simulated:
                worker.simulated = True
                worker.look()
        self._move(now_ms - self._store.now_ms())

    def _move(self, by_ms: int) -> None:
        self._store.advance(by_ms)
        self._added_ms += by_ms
        # producers keep the difference to the broker's clock, and learn it anew only when they send
        for app in {self._app, *(worker.app for worker in self._workers())}:
            app.producer.publish((), (), RetryPolicy())

    def _workers(self) -> list[InProcessWorker]:
        return [worker for worker in list(workers) if worker.store is self._store]

    def _consumed(self) -> set[str]:
        """Return the queues that somebody takes from; raise what a worker has failed with."""
        queues: set[str] = set()
        for worker in self._workers():
            if worker.error is not None:
                raise RuntimeError(f"{worker!r} has failed, and runs nothing any more") from worker.error
            queues.update(worker.queues)
        return queues
