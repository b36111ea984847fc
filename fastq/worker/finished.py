"""Do not run again what has ended already: where results are on another server than the queues.

A process stores the results of a batch there first and settles the batch next. If it dies in between, its tasks are delivered again
although their results are known; whoever gets such a delivery asks for them before it runs anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastq.exceptions import FastQError
from fastq.records import Delivery, Settlement
from fastq.transports.base import Backend
from fastq.worker.effects import ended

__all__ = ["Finished"]

logger = logging.getLogger("fastq.worker.trace")


class Finished:
    """Settle redelivered tasks by the results they have. Owned by the consumer's loop."""

    def __init__(self, backend: Backend, now_ms: Callable[[], int]) -> None:
        self._backend = backend
        self._now_ms = now_ms

    def sort(self, batch: list[Delivery], refuse: Callable[[Settlement], object]) -> list[Delivery]:
        """Return those that must run, in order; hand a settlement for each of the others to ``refuse``."""
        again = [d for d in batch if d.deliveries or d.paid]
        if not again:
            return batch
        try:
            records = self._backend.get([d.id for d in again])
        except FastQError as exc:  # what cannot be looked up runs again, which a task must bear in any case
            logger.warning("Cannot look for the results of %d redelivered task(s): %s", len(again), exc)
            return batch
        done: set[int] = set()
        for d, record in zip(again, records, strict=True):
            settlement = ended(d, record, self._now_ms(), queue=d.queue, tag=d.tag)
            if settlement is not None:
                logger.info("Task %s[%s] has ended already", d.name, d.id)
                done.add(id(d))
                refuse(settlement)
        return [d for d in batch if id(d) not in done]
