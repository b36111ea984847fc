"""Publish, fetch, settle and lease in dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from fastq import _core
from fastq.ending import lasting
from fastq.exceptions import DecodeError, Fenced, OperationalError
from fastq.records import (
    DEAD,
    DONE,
    RETRY,
    RETURN,
    DeadLetter,
    Effects,
    Fetch,
    Fetched,
    Lease,
    Leased,
    Opening,
    Paused,
    Publication,
    Settled,
    Settlement,
)
from fastq.transports.base import TransportOptions
from fastq.transports.memory import pausing, revocations, turns
from fastq.transports.memory.baton import pass_baton
from fastq.transports.memory.channels import MemoryWake
from fastq.transports.memory.effects import carry_out, keep
from fastq.transports.memory.marks import charged
from fastq.transports.memory.queue import LEVELS, Held, Idle, LeaseState, Queue
from fastq.transports.memory.stores import MemoryStore

__all__ = ["MemoryBroker"]

#: messages on their last chance that one fetch passes over at most
PASSED_OVER = 100
#: bytes of one fetch; a larger message comes alone
FETCH_BYTES = 1024 * 1024


class MemoryBroker:
    """``Broker`` in dictionaries."""

    def __init__(self, url: str, memory: MemoryStore, options: TransportOptions) -> None:
        self.url = url
        self.store = memory
        self._options = options

    def now_ms(self) -> int:
        return self.store.now_ms()

    def publish(self, producer: str, number: int, publications: Sequence[Publication], openings: Sequence[Opening] = ()) -> None:
        memory = self.store
        with memory.lock:
            now_ms = memory.now_ms()
            if number <= memory.producers.get(producer, (-1, 0))[0]:
                return
            for publication in [*publications, *[opening.body for opening in openings]]:
                if not 0 <= publication.level < LEVELS:
                    raise ValueError(f"priority {publication.level} is outside of 0 to {LEVELS - 1}")
            memory.producers[producer] = (number, now_ms)
            memory.joins.open(openings, now_ms)
            pass_baton(memory, keep(memory, publications, now_ms))

    def fetch(self, fetch: Fetch) -> Fetched:
        with self.store.lock:
            fetched, queues, passed_over = self._fetch(fetch)
            pass_baton(self.store, queues, me=fetch.process, any_message=passed_over)
        return fetched

    def _fetch(self, fetch: Fetch) -> tuple[Fetched, list[Queue], bool]:
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
            again = tuple(self._again(fetch, queues)) if fetch.number == last else ()
            return Fetched(again, now_ms, revocations=revocations.last(memory), pauses=memory.paused.number), [], False
        memory.numbers[process] = fetch.number
        for queue in memory.queues.values():
            queue.idle.pop(process, None)
        turn = fetch.number % len(queues) if queues else 0
        taken: list[Leased] = []
        left, left_bytes, passed_over = fetch.n, FETCH_BYTES, 0
        for queue in queues[turn:] + queues[:turn]:
            memory.promote(queue, now_ms)
            if left <= 0 or memory.paused.rests(queue.name):
                continue
            chosen, last_chance, over = self._take(fetch, queue, left, left_bytes, first=not taken)
            passed_over += over
            if not chosen:
                continue
            tags = [f"{level}:{fetch.number}:{i}" for i, (level, _) in enumerate(chosen)]
            messages = [message for _, message in chosen]
            held = queue.leased.setdefault(process, {})
            for tag, (level, message) in zip(tags, chosen, strict=True):
                held[tag] = Held(level, fetch.number, message)
            taken.append(Leased(queue.name, tags, messages))
            left_bytes -= sum(map(len, messages))
            left = 0 if last_chance else left - len(chosen)
        next_due_ms = 0
        if not taken and fetch.idle and fetch.n > 0:
            for queue in queues:
                if memory.paused.rests(queue.name):
                    continue  # nobody waits there: so whatever comes wakes nobody
                due_ms = queue.due_ms()
                due_ms = 0 if queue.covered(due_ms) else due_ms
                queue.idle[process] = Idle(due_ms, no_last_chance=fetch.no_last_chance)
                next_due_ms = min(filter(None, (next_due_ms, due_ms)), default=0)
        fetched = Fetched(tuple(taken), now_ms, next_due_ms, revocations.last(memory), memory.paused.number)
        return fetched, queues, passed_over > 0 and not taken

    def _take(
        self, fetch: Fetch, queue: Queue, n: int, max_bytes: int, *, first: bool
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
                if 0 < self._options.max_deliveries <= charged(message) + 1 and charged(message):
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

    def _again(self, fetch: Fetch, queues: Iterable[Queue]) -> Iterator[Leased]:
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
            caused: list[Effects] = []
            back: dict[str, list[Held]] = {}
            parked: dict[str, list[Held]] = {}
            touched: dict[str, Queue] = {}
            for settlement in settlements:
                queue = memory.queue(settlement.queue)
                held = queue.leased.get(process, {}).pop(settlement.tag, None)
                if held is None:
                    skipped.append(settlement.tag)
                    continue
                touched[queue.name] = queue
                if settlement.verdict == RETURN:
                    where = parked if settlement.reason in memory.paused.tasks else back
                    where.setdefault(queue.name, []).append(held)
                else:
                    self._apply(queue, held, settlement, now_ms)
                if results and settlement.result is not None:
                    told.append((settlement.inbox, settlement.id, settlement.result))
                if settlement.effects is not None:
                    died = settlement.verdict == DEAD
                    kept_s = self._options.dead_letter_expires_s
                    caused.append(lasting(settlement.effects, kept_s) if died else settlement.effects)
            for name, returned in back.items():
                for held in reversed(returned):
                    memory.queue(name).ready[held.level].appendleft(held.message)
            for name, aside in parked.items():
                pausing.park(memory, memory.queue(name), aside)
            if caused:
                touched.update((queue.name, queue) for queue in carry_out(memory, caused, now_ms))
                if results:
                    told += [(result.inbox, result.id, result.record) for some in caused for result in some.results]
            memory.write(told, self._options.result_expires_s)
            fetched: Fetched | None = None
            passed_over = False
            try:
                if fetch is not None:
                    fetched, looked, passed_over = self._fetch(fetch)
                    touched.update((queue.name, queue) for queue in looked)
            except Fenced as exc:
                exc.skipped = tuple(skipped)
                raise
            finally:
                pass_baton(memory, touched.values(), me=fetch.process if fetch is not None else "", any_message=passed_over)
        return Settled(tuple(skipped), fetched)

    def _apply(self, queue: Queue, held: Held, settlement: Settlement, now_ms: int) -> None:
        memory = self.store
        if settlement.verdict == RETRY:
            if settlement.message is None:
                raise ValueError(f"the retry of {settlement.id} has no message")
            due_ms = now_ms + max(settlement.delay_ms, 0)
            if settlement.detail:
                turns.delay(memory, queue, settlement.level, due_ms, settlement.message, now_ms, settlement.detail.decode())
            else:
                memory.put(queue, settlement.level, due_ms, settlement.message, now_ms)
        elif settlement.verdict == DEAD:
            key = str(memory.next())
            message = held.message if settlement.message is None else settlement.message
            letter = DeadLetter(key, queue.name, message, settlement.reason, now_ms, _detail(settlement.detail), int(key))
            queue.dead[key] = (held.level, letter)
            over = max(0, len(queue.dead) - self._options.dead_letter_max)
            memory.unbury(queue, list(islice(queue.dead, over)), now_ms)
        elif settlement.verdict != DONE:
            raise ValueError(f"{settlement.verdict} is no verdict")

    def reserve(self, bucket: str, n: int, period_us: int, burst: int) -> list[int]:
        with self.store.lock:
            return turns.reserve(self.store, bucket, n, period_us, burst)

    def recall(self, queue: str, limit: str, *, kept: str = "", left: Sequence[str] = (), place: str = "") -> tuple[int, str]:
        with self.store.lock:
            return turns.recall(self.store, queue, limit, kept, left), ""

    def revoke(self, ids: Sequence[str], expires_s: int, *, signal: str = "") -> int:
        with self.store.lock:
            return revocations.add(self.store, ids, expires_s, signal)

    def revoked(self, since: int = 0) -> tuple[int, list[str]]:
        with self.store.lock:
            return revocations.since(self.store, since)

    def terminated(self, since: int = 0) -> tuple[int, dict[str, str]]:
        with self.store.lock:
            return revocations.terminated(self.store, since)

    def pause(self, *, queues: Sequence[str] = (), tasks: Sequence[str] = ()) -> Paused:
        with self.store.lock:
            return pausing.change(self.store, True, queues, tasks)

    def resume(self, *, queues: Sequence[str] = (), tasks: Sequence[str] = (), lost: Sequence[str] = ()) -> Paused:
        with self.store.lock:
            return pausing.change(self.store, False, queues, tasks)

    def unpark(self) -> bool:
        with self.store.lock:
            pausing.unpark(self.store)
        return False

    def paused(self) -> Paused:
        with self.store.lock:
            return self.store.paused

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
                    lease = queue.leases.setdefault(process, LeaseState(1, now_ms))
                    if lease.beat and not lease.gone:
                        lease.beat += 1
                        lease.renewed_ms = now_ms
                for process, lease in queue.leases.items():
                    if not lease.gone and (not lease.beat or lease.renewed_ms < now_ms - lease_ms // 2):
                        stale.append(Lease(queue.name, process, str(lease.beat)))
                memory.promote(queue, now_ms)
            pass_baton(memory, mine, again=True)
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
            pass_baton(self.store, [here])
            return len(held)

    def close(self) -> None:
        """Nothing is open."""


def _detail(packed: bytes | None) -> dict[str, object]:
    if packed is None:
        return {}
    try:
        detail = _core.unpackb(packed)
    except DecodeError:
        return {}
    return detail if isinstance(detail, dict) else {}
