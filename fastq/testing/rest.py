"""Know when a worker inside this process rests: nothing runs, nothing waits to be settled, nothing is there to be fetched.

Whoever waits for that sleeps on one condition for the whole process; a consumer that is about to sleep itself tells it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastq import signals
from fastq.worker.consumer import Consumer

if TYPE_CHECKING:
    from fastq.testing.worker import InProcessWorker

__all__ = ["RestingConsumer", "resting", "workers"]

#: notified when a worker rests, or has ended
resting = threading.Condition()
#: every worker that runs inside this process
workers: set[InProcessWorker] = set()


class RestingConsumer(Consumer):
    """A consumer that says when it is about to sleep."""

    def __init__(self, *, on_rest: Callable[[], object], **parts: Any) -> None:
        super().__init__(**parts)
        self._on_rest = on_rest

    @property
    def quiet(self) -> bool:
        """Whether the last fetch brought nothing and no slot is busy. To be asked by ``on_rest`` only."""
        # in this order: a slot hands out its outcome before it is free
        return self._idleness.idle and self._pool.free == self._pool.slots and not len(self._settler)

    def _sleep(self) -> None:
        self._on_rest()
        super()._sleep()


def _look() -> None:
    """A receiver of a signal was connected or taken away: runs may have to be seen by it from now on."""
    for worker in list(workers):
        worker.look()


# once for all: what is registered there is kept for the life of the process
signals.on_change(_look)
