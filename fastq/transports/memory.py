"""The transport inside one process, for tests: the laws of the others, in dictionaries under one lock.

``memory://`` and ``memory://name`` are stores that every Broker, Backend and Inspector of the process shares by name; a fork gets
a copy of its own. ``store("name").clock`` may be replaced by a simulated clock, ``reset("name")`` empties a store.
"""

from __future__ import annotations

import heapq
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from fastq import _core
from fastq.exceptions import DecodeError, Fenced, ImproperlyConfigured, OperationalError
from fastq.records import (
    DEAD,
    DONE,
    RETRY,
    RETURN,
    DeadLetter,
    Fetch,
    Fetched,
    Lease,
    Leased,
    Publication,
    Settled,
    Settlement,
    StoredResult,
)
from fastq.transports.base import Broker, TransportOptions

__all__ = ["MemoryStore", "open_backend", "open_broker", "open_inspector", "reset", "store"]

LEVELS = 10
#: messages that one fetch moves from delayed to ready at most
PROMOTIONS = 100
#: messages on their last chance that one fetch passes over at most
PASSED_OVER = 100
#: bytes of one fetch; a larger message comes alone
FETCH_BYTES = 1024 * 1024
#: bytes; a record up to this size rides in the inbox message
INLINE_BYTES = 4096
#: dead, expired or repeated things looked at in one renewal
SWEEP = 1000
#: ms; a publish call is repeated within this time or never
PRODUCER_MS = 600_000
#: the states that a progress report must not replace, as the first element of a record
FINAL = (b"\xa7SUCCESS", b"\xa7FAILURE", b"\xa7REVOKED")


# --- waiting ---


class Signal:
    """A descriptor that is readable while the signal is set."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._lock = threading.Lock()
        # One byte is in the pipe while it is set. Counted here, because eventlet's os.read and os.write wait on any descriptor.
        self._is_set = False
        self.closed = False

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        with self._lock:
            if not self._is_set and not self.closed:
                self._is_set = True
                os.write(self._write, b"!")

    def clear(self) -> bool:
        """Clear it; True if it was set."""
        with self._lock:
            was_set, self._is_set = self._is_set, False
            if was_set:
                os.read(self._read, 1)
        return was_set

    def wait(self, timeout_s: float | None) -> None:
        select.select([self._read], [], [], None if timeout_s is None else max(timeout_s, 0.0))

    def close(self) -> None:
        with self._lock:
            if not self.closed:
                self.closed = True
                os.close(self._read)
                os.close(self._write)


# --- the store ---


@dataclass(slots=True)
class _Lease:
    #: counts renewals; 0: condemned
    beat: int
    renewed_ms: int
    #: released: kept as a tombstone, so that no late renewal revives it
    gone: bool = False


@dataclass(slots=True)
class _Held:
    level: int
    number: int
    message: bytes


@dataclass(slots=True)
class _Idle:
    #: when the process wakes by itself; 0: it does not (one process per queue keeps the time)
    due_ms: int
    #: a wake was sent, and it has not come yet
    woken: bool = False
    #: it runs a delivery on its last chance and may take no second one
    no_last_chance: bool = False


@dataclass(slots=True)
class _Queue:
    name: str
    ready: list[deque[bytes]] = field(default_factory=lambda: [deque() for _ in range(LEVELS)])
    #: heap of (due, sequence, level, message)
    delayed: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    leases: dict[str, _Lease] = field(default_factory=dict)
    #: process -> tag -> what it holds, oldest first
    leased: dict[str, dict[str, _Held]] = field(default_factory=dict)
    idle: dict[str, _Idle] = field(default_factory=dict)
    #: key -> (level, letter), oldest first
    dead: dict[str, tuple[int, DeadLetter]] = field(default_factory=dict)
    used: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.ready))

    def due_ms(self) -> int:
        return self.delayed[0][0] if self.delayed else 0

    def covered(self, due_ms: int) -> bool:
        """Say whether a waiting process wakes by itself in time."""
        return any(not idle.woken and 0 < idle.due_ms <= due_ms for idle in self.idle.values())


class MemoryStore:
    """Everything of one name. Its methods expect the lock to be held; brokers, backends and inspectors take it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        #: seconds since the Unix epoch
        self.clock: Callable[[], float] = time.time
        self.queues: dict[str, _Queue] = {}
        #: process -> number of its last fetch
        self.numbers: dict[str, int] = {}
        #: producer -> (number of its last publish, when)
        self.producers: dict[str, tuple[int, int]] = {}
        #: id -> (record, when it expires: 0 never)
        self.results: dict[str, tuple[bytes, int]] = {}
        self.wakes: dict[str, list[Signal]] = {}
        self.inboxes: dict[str, list[MemoryInbox]] = {}
        self._sequence = 0

    def now_ms(self) -> int:
        return int(self.clock() * 1000)

    def queue(self, name: str) -> _Queue:
        if name not in self.queues:
            self.queues[name] = _Queue(name)
        return self.queues[name]

    def next(self) -> int:
        self._sequence += 1
        return self._sequence

    def put(self, queue: _Queue, level: int, due_ms: int, message: bytes, now_ms: int) -> None:
        queue.used = True
        if due_ms > now_ms:
            heapq.heappush(queue.delayed, (due_ms, self.next(), level, message))
        else:
            queue.ready[level].append(message)

    def promote(self, queue: _Queue, now_ms: int) -> None:
        for _ in range(PROMOTIONS):
            if not queue.delayed or queue.delayed[0][0] > now_ms:
                return
            _, _, level, message = heapq.heappop(queue.delayed)
            queue.ready[level].append(message)

    def pass_baton(self, queues: Iterable[_Queue], *, me: str = "", again: bool = False, any_message: bool = False) -> None:
        """Wake as many idle processes as there is work for, the timekeeper last; whoever is gone is replaced by the next.

        ``me`` is not woken. ``again``: those woken before and not come are candidates too, after the others. ``any_message``: only
        those that may take any message are woken for work (two that may not would wake each other for ever).
        """
        for queue in queues:
            waiting = [p for p, idle in queue.idle.items() if p != me and (again or not idle.woken)]
            waiting.sort(key=lambda p: (queue.idle[p].woken, queue.idle[p].due_ms > 0, -queue.idle[p].due_ms))
            coming = sum(p != me for p in queue.idle) - len(waiting)
            need = len(queue) - coming
            for process in [p for p in waiting if not (any_message and queue.idle[p].no_last_chance)]:
                if need <= 0:
                    break
                waiting.remove(process)
                woken = self.wake(process)
                need -= woken
                coming += woken
            due_ms = queue.due_ms()
            while waiting and not coming and due_ms and not queue.covered(due_ms):
                coming += self.wake(waiting.pop())

    def wake(self, process: str) -> bool:
        """Wake a process; False, and it leaves every queue, if it is gone."""
        signals = self.wakes.get(process, ())
        for queue in self.queues.values():
            if process in queue.idle:
                if signals:
                    queue.idle[process].woken = True
                else:
                    del queue.idle[process]
        for signal in signals:
            signal.set()
        return bool(signals)

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

    def sweep(self, now_ms: int, options: TransportOptions) -> None:
        for id in [id for id, (_, expires_ms) in self.results.items() if 0 < expires_ms <= now_ms][:SWEEP]:
            del self.results[id]
        for name in [name for name, (_, seen_ms) in self.producers.items() if seen_ms < now_ms - PRODUCER_MS]:
            del self.producers[name]
        oldest_ms = now_ms - options.dead_letter_expires_s * 1000
        for queue in self.queues.values():
            for key in [key for key, (_, letter) in queue.dead.items() if letter.dead_ms < oldest_ms][:SWEEP]:
                del queue.dead[key]


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


def _store_of(url: str) -> MemoryStore:
    name, _, query = url.partition("://")[2].partition("?")
    if query:
        raise ImproperlyConfigured(f"{url!r}: memory:// has no options, only a name: memory://name")
    return store(name.strip("/"))


def open_broker(url: str, options: TransportOptions) -> MemoryBroker:
    return MemoryBroker(url, _store_of(url), options)


def open_backend(url: str, options: TransportOptions) -> MemoryBackend:
    return MemoryBackend(url, _store_of(url), options)


def open_inspector(url: str, options: TransportOptions) -> MemoryInspector:
    return MemoryInspector(url, _store_of(url), options)


# --- the four protocols ---


class MemoryWake:
    """``Wake`` on a pipe."""

    def __init__(self, memory: MemoryStore, process: str) -> None:
        self._store = memory
        self._process = process
        self._signal: Signal | None = None

    def _opened(self) -> Signal:
        if self._signal is None:
            raise OperationalError(f"The wake channel of {self._process} is not open.")
        return self._signal

    def fileno(self) -> int:
        return self._opened().fileno()

    def drain(self) -> bool:
        return self._opened().clear()

    def open(self) -> None:
        with self._store.lock:
            if self._signal is None:
                self._signal = Signal()
                self._store.wakes.setdefault(self._process, []).append(self._signal)

    def check(self) -> None:
        self._opened()

    def close(self) -> None:
        with self._store.lock:
            if self._signal is not None:
                signals = self._store.wakes[self._process]
                signals.remove(self._signal)
                if not signals:
                    del self._store.wakes[self._process]
                self._signal.close()
                self._signal = None


class MemoryBroker:
    """``Broker`` in dictionaries."""

    def __init__(self, url: str, memory: MemoryStore, options: TransportOptions) -> None:
        self.url = url
        self.store = memory
        self._options = options

    def now_ms(self) -> int:
        return self.store.now_ms()

    def publish(self, producer: str, number: int, publications: Sequence[Publication]) -> None:
        memory = self.store
        with memory.lock:
            now_ms = memory.now_ms()
            if number <= memory.producers.get(producer, (0, 0))[0]:
                return
            for publication in publications:
                if not 0 <= publication.level < LEVELS:
                    raise ValueError(f"priority {publication.level} is outside of 0 to {LEVELS - 1}")
            memory.producers[producer] = (number, now_ms)
            for publication in publications:
                due_ms = publication.due_ms or now_ms + max(publication.delay_ms, 0)
                memory.put(memory.queue(publication.queue), publication.level, due_ms, publication.message, now_ms)
            memory.pass_baton([memory.queue(name) for name in {publication.queue for publication in publications}])

    def fetch(self, fetch: Fetch) -> Fetched:
        with self.store.lock:
            fetched, queues, passed_over = self._fetch(fetch)
            self.store.pass_baton(queues, me=fetch.process, any_message=passed_over)
        return fetched

    def _fetch(self, fetch: Fetch) -> tuple[Fetched, list[_Queue], bool]:
        """Return the answer, the queues looked at, and whether nothing was taken only because it is on its last chance."""
        memory, process = self.store, fetch.process
        now_ms = memory.now_ms()
        queues = [memory.queue(name) for name in fetch.queues]
        for queue in queues:
            lease = queue.leases.get(process)
            if lease is None or lease.gone or not lease.beat:
                raise Fenced(f"The lease of {process} on {queue.name} is missing or was taken away.")
        last = memory.numbers.get(process, 0)
        if fetch.number <= last:
            return Fetched(tuple(self._again(fetch, queues)) if fetch.number == last else (), now_ms), [], False
        memory.numbers[process] = fetch.number
        for queue in memory.queues.values():
            queue.idle.pop(process, None)
        turn = fetch.number % len(queues) if queues else 0
        taken: list[Leased] = []
        left, left_bytes, passed_over = fetch.n, FETCH_BYTES, 0
        for queue in queues[turn:] + queues[:turn]:
            memory.promote(queue, now_ms)
            if left <= 0:
                continue
            chosen, last_chance, over = self._take(fetch, queue, left, left_bytes, first=not taken)
            passed_over += over
            if not chosen:
                continue
            tags = [f"{level}:{fetch.number}:{i}" for i, (level, _) in enumerate(chosen)]
            messages = [message for _, message in chosen]
            held = queue.leased.setdefault(process, {})
            for tag, (level, message) in zip(tags, chosen, strict=True):
                held[tag] = _Held(level, fetch.number, message)
            taken.append(Leased(queue.name, tags, messages))
            left_bytes -= sum(map(len, messages))
            left = 0 if last_chance else left - len(chosen)
        next_due_ms = 0
        if not taken and fetch.idle and fetch.n > 0:
            for queue in queues:
                due_ms = queue.due_ms()
                due_ms = 0 if queue.covered(due_ms) else due_ms
                queue.idle[process] = _Idle(due_ms, no_last_chance=fetch.no_last_chance)
                next_due_ms = min(filter(None, (next_due_ms, due_ms)), default=0)
        return Fetched(tuple(taken), now_ms, next_due_ms), queues, passed_over > 0 and not taken

    def _take(
        self, fetch: Fetch, queue: _Queue, n: int, max_bytes: int, *, first: bool
    ) -> tuple[list[tuple[int, bytes]], bool, int]:
        """Take (level, message) pairs off the head; say whether it is one on its last chance, and how many were passed over."""
        if idle := len(queue.idle):
            n = min(n, -(-len(queue) // (idle + 1)))
        taken: list[tuple[int, bytes]] = []
        passed_over = 0
        for level in reversed(range(LEVELS)):
            ready, back = queue.ready[level], []
            while ready and len(taken) < n and passed_over < PASSED_OVER:
                message = ready.popleft()
                if 0 < self._options.max_deliveries <= _charged(message) + 1 and _charged(message):
                    if first and not taken and not passed_over and not fetch.no_last_chance:
                        return [(level, message)], True, 0
                    # It stays at the head for a call or a process that may take it.
                    back.append(message)
                    passed_over += 1
                    continue
                max_bytes -= len(message)
                if max_bytes < 0 and (taken or not first):
                    back.append(message)
                    n = 0
                    break
                taken.append((level, message))
            ready.extendleft(reversed(back))
        return taken, False, passed_over

    def _again(self, fetch: Fetch, queues: Iterable[_Queue]) -> Iterator[Leased]:
        for queue in queues:
            here = {tag: held for tag, held in queue.leased.get(fetch.process, {}).items() if held.number == fetch.number}
            if here:
                yield Leased(queue.name, list(here), [held.message for held in here.values()])

    def settle(self, process: str, settlements: Sequence[Settlement], *, results: bool, fetch: Fetch | None = None) -> Settled:
        memory = self.store
        with memory.lock:
            now_ms = memory.now_ms()
            skipped: list[str] = []
            told: list[tuple[str, str, bytes]] = []
            back: dict[str, list[_Held]] = {}
            touched: dict[str, _Queue] = {}
            for settlement in settlements:
                queue = memory.queue(settlement.queue)
                held = queue.leased.get(process, {}).pop(settlement.tag, None)
                if held is None:
                    skipped.append(settlement.tag)
                    continue
                touched[queue.name] = queue
                if settlement.verdict == RETURN:
                    back.setdefault(queue.name, []).append(held)
                else:
                    self._apply(queue, held, settlement, now_ms)
                if results and settlement.result is not None:
                    told.append((settlement.inbox, settlement.id, settlement.result))
            for name, returned in back.items():
                for held in reversed(returned):
                    memory.queue(name).ready[held.level].appendleft(held.message)
            memory.write(told, self._options.result_expires_s)
            fetched: Fetched | None = None
            passed_over = False
            try:
                if fetch is not None:
                    fetched, looked, passed_over = self._fetch(fetch)
                    touched.update((queue.name, queue) for queue in looked)
            finally:
                memory.pass_baton(touched.values(), me=fetch.process if fetch is not None else "", any_message=passed_over)
        return Settled(tuple(skipped), fetched)

    def _apply(self, queue: _Queue, held: _Held, settlement: Settlement, now_ms: int) -> None:
        memory = self.store
        if settlement.verdict == RETRY:
            if settlement.message is None:
                raise ValueError(f"the retry of {settlement.id} has no message")
            memory.put(queue, settlement.level, now_ms + max(settlement.delay_ms, 0), settlement.message, now_ms)
        elif settlement.verdict == DEAD:
            key = str(memory.next())
            message = held.message if settlement.message is None else settlement.message
            letter = DeadLetter(key, queue.name, message, settlement.reason, now_ms, _detail(settlement.detail))
            queue.dead[key] = (held.level, letter)
            for oldest in list(queue.dead)[: max(0, len(queue.dead) - self._options.dead_letter_max)]:
                del queue.dead[oldest]
        elif settlement.verdict != DONE:
            raise ValueError(f"{settlement.verdict} is no verdict")

    def wake(self, process: str) -> MemoryWake:
        return MemoryWake(self.store, process)

    def renew(self, queues: Sequence[str], processes: Sequence[str], lease_ms: int) -> list[Lease]:
        memory = self.store
        with memory.lock:
            now_ms = memory.now_ms()
            mine = [memory.queue(name) for name in queues]
            stale: list[Lease] = []
            for queue in mine:
                for process in processes:
                    lease = queue.leases.setdefault(process, _Lease(1, now_ms))
                    if lease.beat and not lease.gone:
                        lease.beat += 1
                        lease.renewed_ms = now_ms
                for process, lease in queue.leases.items():
                    if not lease.gone and (not lease.beat or lease.renewed_ms < now_ms - lease_ms // 2):
                        stale.append(Lease(queue.name, process, str(lease.beat)))
                memory.promote(queue, now_ms)
            memory.pass_baton(mine, again=True)
            memory.sweep(now_ms, self._options)
        return stale

    def condemn(self, leases: Sequence[Lease]) -> list[Lease]:
        condemned: list[Lease] = []
        with self.store.lock:
            for seen in leases:
                lease = self.store.queue(seen.queue).leases.get(seen.process)
                if lease is None or lease.gone:
                    continue
                if seen.value in ("", str(lease.beat)):
                    lease.beat = 0
                if not lease.beat:
                    condemned.append(Lease(seen.queue, seen.process, "0"))
        return condemned

    def leased(self, queue: str, process: str) -> list[tuple[str, bytes]]:
        with self.store.lock:
            return [(tag, held.message) for tag, held in self.store.queue(queue).leased.get(process, {}).items()]

    def release(self, queue: str, process: str, marks: dict[str, bytes], *, gone: bool = True) -> int:
        with self.store.lock:
            here = self.store.queue(queue)
            lease = here.leases.get(process)
            if lease is not None and lease.beat and not lease.gone:
                raise OperationalError(f"{process} holds a live lease: condemn it before its deliveries are released.")
            held = here.leased.pop(process, {})
            for tag, message in reversed(held.items()):
                here.ready[message.level].appendleft(marks.get(tag, message.message))
            if gone:
                if process in here.leases:
                    here.leases[process].gone = True
                here.idle.pop(process, None)
            self.store.pass_baton([here])
            return len(held)

    def close(self) -> None:
        """Nothing is open."""


class MemoryInbox:
    """``Inbox`` on a pipe."""

    def __init__(self, memory: MemoryStore, name: str) -> None:
        self._store = memory
        self._name = name
        self._signal: Signal | None = None
        self._results: deque[tuple[str, bytes | None]] = deque()

    def open(self) -> None:
        with self._store.lock:
            if self._signal is None:
                self._signal = Signal()
                self._store.inboxes.setdefault(self._name, []).append(self)

    def deliver(self, results: Sequence[tuple[str, bytes | None]]) -> None:
        self._results.extend(results)
        if self._signal is not None:
            self._signal.set()

    def fileno(self) -> int:
        return self._opened().fileno()

    def read(self, timeout_s: float | None) -> list[tuple[str, bytes | None]]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        signal = self._opened()
        while True:
            signal.clear()
            results: list[tuple[str, bytes | None]] = []
            while self._results:
                results.append(self._results.popleft())
            if results:
                return results
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return []
            signal.wait(left_s)

    def _opened(self) -> Signal:
        if self._signal is None:
            raise OperationalError(f"The inbox {self._name} is not open.")
        return self._signal

    def close(self) -> None:
        with self._store.lock:
            if self._signal is not None:
                receivers = self._store.inboxes[self._name]
                receivers.remove(self)
                if not receivers:
                    del self._store.inboxes[self._name]
                self._signal.close()
                self._signal = None


class MemoryBackend:
    """``Backend`` in a dictionary."""

    def __init__(self, url: str, memory: MemoryStore, options: TransportOptions) -> None:
        self.url = url
        self._store = memory
        self._options = options

    def shares(self, broker: Broker) -> bool:
        return isinstance(broker, MemoryBroker) and broker.store is self._store

    def store(self, results: Sequence[StoredResult], *, final: bool = True) -> None:
        with self._store.lock:
            told = [(result.inbox, result.id, result.record) for result in results]
            self._store.write(told, self._options.result_expires_s, final=final)

    def get(self, ids: Sequence[str]) -> list[bytes | None]:
        with self._store.lock:
            now_ms = self._store.now_ms()
            return [self._store.record(id, now_ms) or None for id in ids]

    def forget(self, ids: Sequence[str]) -> None:
        with self._store.lock:
            for id in ids:
                self._store.results.pop(id, None)

    def inbox(self, name: str) -> MemoryInbox:
        return MemoryInbox(self._store, name)

    def close(self) -> None:
        """Nothing is open."""


class MemoryInspector:
    """``Inspector`` of dictionaries."""

    def __init__(self, url: str, memory: MemoryStore, options: TransportOptions) -> None:
        self.url = url
        self._store = memory

    def queues(self) -> list[str]:
        with self._store.lock:
            return sorted(name for name, queue in self._store.queues.items() if queue.used)

    def depth(self, queue: str) -> dict[str, int]:
        with self._store.lock:
            here = self._store.queue(queue)
            leased = sum(map(len, here.leased.values()))
            return {"ready": len(here), "delayed": len(here.delayed), "leased": leased, "dead": len(here.dead)}

    def peek(self, queue: str, n: int) -> list[bytes]:
        with self._store.lock:
            return [message for level in reversed(self._store.queue(queue).ready) for message in level][:n]

    def purge(self, queue: str) -> int:
        with self._store.lock:
            here = self._store.queue(queue)
            purged = len(here) + len(here.delayed)
            here.delayed.clear()
            for level in here.ready:
                level.clear()
            return purged

    def dead(self, queue: str, *, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        with self._store.lock:
            letters = [letter for _, letter in reversed(self._store.queue(queue).dead.values())]
        return letters[offset : offset + limit]

    def retry_dead(self, queue: str, keys: Iterable[str]) -> int:
        with self._store.lock:
            here = self._store.queue(queue)
            letters = [here.dead.pop(key) for key in keys if key in here.dead]
            for level, letter in letters:
                # A new message: what it was charged with is forgotten.
                here.ready[level].append(letter.message[2:] if _marked(letter.message) else letter.message)
            self._store.pass_baton([here])
        return len(letters)

    def delete_dead(self, queue: str, keys: Iterable[str]) -> int:
        with self._store.lock:
            here = self._store.queue(queue)
            return sum(here.dead.pop(key, None) is not None for key in keys)

    def close(self) -> None:
        """Nothing is open."""


def _marked(message: bytes) -> bool:
    return len(message) > 1 and message[0] == 0xC1


def _charged(message: bytes) -> int:
    """Return how often a message was charged: the low bits of its redelivery mark."""
    return message[1] & 0x7F if _marked(message) else 0


def _detail(packed: bytes | None) -> dict[str, object]:
    if packed is None:
        return {}
    try:
        detail = _core.unpackb(packed)
    except DecodeError:
        return {}
    return detail if isinstance(detail, dict) else {}
