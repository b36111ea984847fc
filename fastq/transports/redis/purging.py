"""Empty a queue: what others wait for is ended, the rest is dropped."""

from __future__ import annotations

import os
from contextlib import suppress

from fastq import ending
from fastq._core import DONE, Delivery, Registry, Settlement, deliveries
from fastq.exceptions import OperationalError
from fastq.records import Lease
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import LEVELS, Keys
from fastq.transports.redis.limits import CALL_BYTES
from fastq.transports.redis.scripts import script

__all__ = ["Purge"]

#: messages that one step takes
STEP = 500

_DELAYED = ""


class Purge:
    """Purge one queue, in bounded steps.

    A message with a flow is taken as a worker process takes it, under a name of this purge's own, and settled as revoked, with
    what follows from that. Should this process die meanwhile, its lease stands still, and a worker node puts back what it holds.
    Goes as far as the queue was long at the start: what comes in meanwhile, also what the purge itself brings about, stays.
    """

    def __init__(self, connection: Connection, keys: Keys, broker: RedisBroker, queue: str) -> None:
        self._connection = connection
        self._keys = keys.queue(queue)
        self._broker = broker
        self._queue = queue
        self._process = f"purge.0.{os.urandom(8).hex()}"
        self._registry = Registry([])
        self._number = 0
        self._leased = False

    def run(self) -> int:
        """Return how many messages were purged."""
        keys = self._keys
        sizes = self._connection.call([("ZCARD", keys.delayed), *[("LLEN", ready) for ready in keys.ready]])
        purged = 0
        try:
            # Delayed ones first: what falls due meanwhile would be counted as new.
            purged += self._empty(keys.delayed, _DELAYED, sizes[0])
            for level in reversed(range(LEVELS)):
                purged += self._empty(keys.ready[level], str(level), sizes[1 + level])
        except BaseException:
            # The reply that is missing may have been the one that told of leased messages.
            self._leased = self._number > 0
            with suppress(OperationalError):  # what is raised already says more; a worker node puts the messages back then
                self._leave()
            raise
        self._leave()
        return purged

    def _empty(self, source: str, level: str, n: int) -> int:
        purged = 0
        while n > 0:
            self._number += 1
            taken, tags, messages = self._connection.run(
                script("purge"),
                (self._keys.leased(self._process), self._keys.leases, self._keys.levels, source),
                (self._process, self._number, level, min(n, STEP), CALL_BYTES),
            )
            if taken < 0:
                raise OperationalError(
                    f"This purge of queue {self._queue!r} at Redis {self._broker.url} was taken for dead, for it did not go on: "
                    "purge again."
                )
            if not taken:
                break
            n -= taken
            purged += taken
            if tags:
                self._leased = True
                purged -= self._end([tag.decode() for tag in tags], messages)
        return purged

    def _end(self, tags: list[str], messages: list[bytes]) -> int:
        """Settle what was leased; return how many had been taken away meanwhile."""
        now_ms = self._broker.now_ms()
        batch = deliveries(self._queue, tags, messages, self._registry)
        settlements = [self._settlement(delivery, now_ms) for delivery in batch]
        return len(self._broker.settle(self._process, settlements, results=True).skipped)

    def _settlement(self, d: Delivery, now_ms: int) -> Settlement:
        settlement = Settlement(self._queue, d.tag, d.id, DONE)
        if not d.error and d.flow is not None:
            end = ending.revoked(d, now_ms)
            settlement.effects = end.effects
            if end.stored is not None:
                settlement.result, settlement.inbox = end.stored.record, end.stored.inbox
        return settlement

    def _leave(self) -> None:
        """Put back what could not be settled, and remove what belongs to this process. A lost connection gets a second try."""
        if not self._leased:
            return
        try:
            self._release()
        except OperationalError:
            self._release()

    def _release(self) -> None:
        self._broker.condemn([Lease(self._queue, self._process, "")])
        self._broker.release(self._queue, self._process, {})
