"""What brokers, backends and inspectors of the process share, by name."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable

from fastq.ending import kept_join
from fastq.records import Paused
from fastq.transports.base import TransportOptions
from fastq.transports.memory.baton import pass_baton
from fastq.transports.memory.joins import Joins
from fastq.transports.memory.queue import Queue
from fastq.transports.memory.signal import Letterbox, Signal
from fastq.transports.memory.talk import Talk

__all__ = ["MemoryStore", "reset", "store"]

#: messages that one fetch moves from delayed to ready at most
PROMOTIONS = 100
#: bytes; a record up to this size rides in the inbox message
INLINE_BYTES = 4096
#: dead, expired or repeated things looked at in one renewal
SWEEP = 1000
#: ms; a publish call is repeated within this time or never
PRODUCER_MS = 600_000
#: the states that a progress report must not replace, as the first element of a record
FINAL = (b"\xa7SUCCESS", b"\xa7FAILURE", b"\xa7REVOKED")


class MemoryStore:
    """Everything of one name. Its methods expect the lock to be held, unless they say otherwise: brokers, backends and inspectors
    take it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        #: seconds since the Unix epoch; whoever replaces it calls ``tick`` after each step of the new one
        self.clock: Callable[[], float] = time.time
        #: how far ``advance`` has gone beyond the clock
        self._ahead_ms = 0
        self.queues: dict[str, Queue] = {}
        #: process -> number of its last fetch
        self.numbers: dict[str, int] = {}
        #: producer -> (number of its last publish, when)
        self.producers: dict[str, tuple[int, int]] = {}
        #: id -> (record, when it expires: 0 never)
        self.results: dict[str, tuple[bytes, int]] = {}
        self.joins = Joins()
        #: revoked task id -> (number of its revocation, when it is forgotten), the newest last
        self.revoked: dict[str, tuple[int, int]] = {}
        #: of these, those that end what runs -> (number, signal), the newest last
        self.terminated: dict[str, tuple[int, str]] = {}
        self.paused = Paused()
        #: bucket -> theoretical arrival time, us
        self.buckets: dict[str, int] = {}
        self.wakes: dict[str, list[Signal]] = {}
        self.inboxes: dict[str, list[Letterbox[tuple[str, bytes | None]]]] = {}
        self.talk = Talk(self.lock)
        #: scope -> what timetables share, see ``timetable``
        self.timetables: dict[str, object] = {}
        self._sequence = 0

    def now_ms(self) -> int:
        return int(self.clock() * 1000) + self._ahead_ms

    def now_us(self) -> int:
        return int(self.clock() * 1_000_000) + self._ahead_ms * 1000

    def advance(self, ms: int) -> None:
        """Let time pass: due times, expiry, leases and rate limits go by it at once. Takes the lock itself, wakes like ``tick``.

        What falls due on the way runs at the new time. For one due time after the other go to ``next_due_ms`` step by step.
        """
        with self.lock:
            self._ahead_ms += ms
            self.tick()

    def tick(self) -> None:
        """Make ready whatever is due by now, and wake those who wait for it (they sleep by a real clock). Takes the lock itself."""
        with self.lock:
            now_ms = self.now_ms()
            for queue in self.queues.values():
                self.promote(queue, now_ms, most=len(queue.delayed))
            pass_baton(self, self.queues.values())

    def next_due_ms(self) -> int:
        """Return when the next delayed message of any queue is due, 0 if there is none. Takes the lock itself."""
        with self.lock:
            return min(filter(None, [queue.due_ms() for queue in self.queues.values()]), default=0)

    def queue(self, name: str) -> Queue:
        if name not in self.queues:
            self.queues[name] = Queue(name)
        return self.queues[name]

    def next(self) -> int:
        self._sequence += 1
        return self._sequence

    @property
    def last(self) -> int:
        """Return what ``next`` has given last."""
        return self._sequence

    def put(self, queue: Queue, level: int, due_ms: int, message: bytes, now_ms: int) -> None:
        queue.used = True
        if due_ms > now_ms:
            heapq.heappush(queue.delayed, (due_ms, self.next(), level, message))
        else:
            queue.ready[level].append(message)

    def promote(self, queue: Queue, now_ms: int, *, most: int = PROMOTIONS) -> None:
        for _ in range(most):
            if not queue.delayed or queue.delayed[0][0] > now_ms:
                return
            _, _, level, message = heapq.heappop(queue.delayed)
            queue.ready[level].append(message)

    def write(self, results: Iterable[tuple[str, str, bytes]], expires_s: int | None, *, final: bool = True) -> None:
        """Keep (inbox, id, record) and tell the inboxes."""
        now_ms = self.now_ms()
        expires_ms = 0 if expires_s is None else now_ms + expires_s * 1000
        told: dict[str, list[tuple[str, bytes | None]]] = {}
        for inbox, id, record in results:
            if final or not self.record(id, now_ms)[1:9].startswith(FINAL):
                self.results[id] = (record, expires_ms)
            if inbox in self.inboxes:
                told.setdefault(inbox, []).append((id, record if len(record) <= INLINE_BYTES else None))
        for inbox, records in told.items():
            for receiver in self.inboxes[inbox]:
                receiver.deliver(records)

    def record(self, id: str, now_ms: int) -> bytes:
        """Return a record, b"" if there is none or it has expired."""
        record, expires_ms = self.results.get(id, (b"", 0))
        return b"" if 0 < expires_ms <= now_ms else record

    def forget_revoked(self, now_ms: int) -> None:
        for id in [id for id, (_, expires_ms) in self.revoked.items() if expires_ms <= now_ms]:
            del self.revoked[id]
            self.terminated.pop(id, None)

    def sweep(self, now_ms: int, options: TransportOptions) -> None:
        self.forget_revoked(now_ms)
        for id in [id for id, (_, expires_ms) in self.results.items() if 0 < expires_ms <= now_ms][:SWEEP]:
            del self.results[id]
        for name in [name for name, (_, seen_ms) in self.producers.items() if seen_ms < now_ms - PRODUCER_MS]:
            del self.producers[name]
        oldest_ms = now_ms - options.dead_letter_expires_s * 1000
        self.joins.expire(now_ms, SWEEP)
        for bucket in [bucket for bucket, arrival_us in self.buckets.items() if arrival_us <= now_ms * 1000]:
            del self.buckets[bucket]
        for queue in self.queues.values():
            self.unbury(queue, [key for key, (_, letter) in queue.dead.items() if letter.dead_ms < oldest_ms][:SWEEP], now_ms)

    def unbury(self, queue: Queue, keys: Iterable[str], now_ms: int) -> int:
        """Drop dead letters, with the joins that were kept for them; return how many there were."""
        dropped = [letter for _, letter in [queue.dead.pop(key) for key in keys if key in queue.dead]]
        self.joins.drop([join for letter in dropped if (join := kept_join(letter.reason, letter.message))], now_ms)
        return len(dropped)


_stores: dict[str, MemoryStore] = {}
_stores_lock = threading.Lock()


def store(name: str = "") -> MemoryStore:
    """Return the store of a name, made at its first mention."""
    with _stores_lock:
        if name not in _stores:
            _stores[name] = MemoryStore(name)
        return _stores[name]


def reset(name: str = "") -> None:
    """Forget a store: whoever opens the name from now on finds it empty."""
    with _stores_lock:
        _stores.pop(name, None)
