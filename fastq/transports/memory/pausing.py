"""What is paused, and the messages parked for it. The store's lock is held."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

from fastq import _core
from fastq.exceptions import EnvelopeError
from fastq.records import Paused
from fastq.transports.base import PARKED_MS
from fastq.transports.memory.baton import pass_baton, wake
from fastq.transports.memory.queue import Held, Queue
from fastq.transports.memory.stores import MemoryStore

__all__ = ["change", "count", "park", "unpark"]


def change(memory: MemoryStore, pausing: bool, queues: Sequence[str], tasks: Sequence[str]) -> Paused:
    """Pause or resume."""
    now_us, before = memory.now_us(), memory.paused
    kept = [dict(before.queues), dict(before.tasks)]
    for names, given in zip(kept, (queues, tasks), strict=True):
        for name in given:
            if pausing:
                names.setdefault(name, now_us // 1000)
            else:
                names.pop(name, None)
    memory.paused = Paused(max(now_us, before.number + 1), *kept) if any(kept) else Paused()
    for name in queues:
        queue = memory.queue(name)
        if pausing:
            queue.idle.clear()
        else:
            for process, lease in queue.leases.items():
                if lease.beat and not lease.gone:
                    wake(memory, process)
    return memory.paused


def park(memory: MemoryStore, queue: Queue, held: Sequence[Held]) -> None:
    """Put deliveries aside, in their order."""
    place = max([PARKED_MS + memory.now_ms(), *[due + 1 for due, *_ in queue.delayed]])
    for at, one in enumerate(held):
        heapq.heappush(queue.delayed, (place + at, memory.next(), one.level, one.message))


def unpark(memory: MemoryStore, name: str, tasks: Collection[str]) -> int:
    """Put back what is parked of some task names at the head of its levels; return how many."""
    queue = memory.queue(name)
    mine = [entry for entry in queue.delayed if entry[0] >= PARKED_MS and _name(entry[3]) in tasks]
    if mine:
        gone = {entry[1] for entry in mine}
        queue.delayed = [entry for entry in queue.delayed if entry[1] not in gone]
        heapq.heapify(queue.delayed)
        for _, _, level, message in sorted(mine, reverse=True):
            queue.ready[level].appendleft(message)
        pass_baton(memory, [queue])
    return len(mine)


def count(memory: MemoryStore, name: str) -> dict[str, int]:
    """Count what is parked, by task name."""
    counts: dict[str, int] = {}
    for due_ms, _, _, message in memory.queue(name).delayed:
        if due_ms >= PARKED_MS:
            counts[_name(message)] = counts.get(_name(message), 0) + 1
    return counts


def _name(message: bytes) -> str:
    try:
        return _core.peek(message).name
    except EnvelopeError:
        return ""  # no task has this name
