"""Find the waiting messages of revoked tasks in a queue, and end them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from fastq import ending
from fastq._core import DONE, Registry, Settlement, deliveries
from fastq.exceptions import OperationalError
from fastq.records import Lease, StoredResult, Swept
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import LEVELS, Keys
from fastq.transports.redis.limits import CALL_BYTES
from fastq.transports.redis.scripts import script

__all__ = ["Sweep"]

#: messages that one step looks at: some 2 ms of the server
STEP = 2_000

#: ids that are looked for in one pass
IDS = 4_000

_DELAYED = ""


class Sweep:
    """Sweep one queue for some tasks, in bounded steps.

    What is found is taken as a worker process takes it, under a name of this sweep's own, and settled as revoked. Should this
    process die meanwhile, its lease stands still, and a worker node puts back what it holds.
    """

    def __init__(self, connection: Connection, keys: Keys, broker: RedisBroker, queue: str, *, results: bool, most: int) -> None:
        self._connection = connection
        self._keys = keys.queue(queue)
        self._broker = broker
        self._queue = queue
        self._results = results
        self._most = most
        self._process = f"revoke.0.{os.urandom(8).hex()}"
        self._registry = Registry([])
        self._number = 0
        self._took = False
        self._ended: set[str] = set()
        self._stored: list[StoredResult] = []

    def run(self, ids: Iterable[str]) -> Swept:
        names = list(dict.fromkeys(ids))
        leased: set[str] = set()
        try:
            for start in range(0, len(names), IDS):
                some = names[start : start + IDS]
                # In the order in which messages move: delayed, ready, leased. What moves on meanwhile is found there.
                self._look(self._keys.delayed, _DELAYED, some)
                for level in range(LEVELS):
                    self._look(self._keys.ready[level], str(level), some)
                leased |= self._held(some)
        except BaseException:
            # The reply that is missing may have been the one that told of leased messages.
            self._took = self._number > 0
            with suppress(OperationalError):  # what is raised already says more; a worker node puts the messages back then
                self._leave()
            raise
        self._leave()
        return Swept(frozenset(self._ended), frozenset(leased - self._ended), self._stored)

    def _look(self, source: str, level: str, ids: list[str]) -> None:
        passed = seen = 0
        while seen < self._most:
            self._number += 1
            looked, tags, messages = self._connection.run(
                script("sweep"),
                (self._keys.leased(self._process), self._keys.leases, self._keys.levels, source),
                (self._process, self._number, level, passed, min(STEP, self._most - seen), CALL_BYTES, *ids),
            )
            if looked < 0:
                raise self._taken_for_dead()
            if tags:
                self._took = True
                self._end([tag.decode() for tag in tags], messages)
            if not looked:
                return
            seen += looked
            passed += looked - len(tags)

    def _end(self, tags: list[str], messages: list[bytes]) -> None:
        now_ms = self._broker.now_ms()
        settlements: dict[str, Settlement] = {}
        for d in deliveries(self._queue, tags, messages, self._registry):
            end = ending.revoked(d, now_ms)
            settlement = settlements[d.tag] = Settlement(self._queue, d.tag, d.id, DONE, effects=end.effects)
            if not self._results:
                self._stored += end.results()
            elif end.stored is not None:
                settlement.result, settlement.inbox = end.stored.record, end.stored.inbox
        skipped = self._broker.settle(self._process, list(settlements.values()), results=self._results).skipped
        self._ended.update(settlement.id for tag, settlement in settlements.items() if tag not in skipped)
        if skipped:
            raise self._taken_for_dead()

    def _taken_for_dead(self) -> OperationalError:
        return OperationalError(
            f"This sweep of queue {self._queue!r} at Redis {self._broker.url} was taken for dead, for it did not go on, and what "
            "it had found is in the queue again: revoke again."
        )

    def _held(self, ids: list[str]) -> set[str]:
        """Return those that a process has leased."""
        processes = [name.decode() for name in self._connection.call([("ZRANGE", self._keys.leases, 0, -1)])[0]]
        found: set[str] = set()
        for process in processes:
            if process != self._process:
                found.update(id.decode() for id in self._connection.run(script("holds"), (self._keys.leased(process),), ids))
        return found

    def _leave(self) -> None:
        """Put back what could not be settled, and remove what belongs to this process. A lost connection gets a second try."""
        if not self._took:
            return
        try:
            self._release()
        except OperationalError:
            self._release()

    def _release(self) -> None:
        self._broker.condemn([Lease(self._queue, self._process, "")])
        self._broker.release(self._queue, self._process, {})
