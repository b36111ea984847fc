"""What is paused, and the messages parked for it. The store's lock is held."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from fastq import _core
from fastq.exceptions import EnvelopeError
from fastq.records import Paused
from fastq.transports.base import PARKED_MS
from fastq.transports.memory.baton import wake
from fastq.transports.memory.queue import Held, Queue
from fastq.transports.memory.stores import MemoryStore

__all__ = ["change", "count", "park", "unpark"]


def change(memory: MemoryStore, pausing: bool, queues: Sequence[str], tasks: Sequence[str]) -> Paused:
    """Pause or resume."""
    now_us, before = memory.now_us(), memory.paused
    kept = [dict(before.queues), dict(before.tasks)]
    resuming, held = dict(before.resuming), before.held
    if pausing:
        resuming = {name: since for name, since in resuming.items() if name not in tasks}
    elif tasks and (found := [queue for queue in memory.queues.values() if _parked(queue)]):
        held |= {queue.name for queue in found}
        resuming.update(dict.fromkeys(tasks, now_us // 1000))
        for queue in found:
            queue.idle.clear()  # as below
    for names, given in zip(kept, (queues, tasks), strict=True):
        for name in given:
            if pausing:
                names.setdefault(name, now_us // 1000)
            else:
                names.pop(name, None)
    number = max(now_us, before.number + 1)
    memory.paused = Paused(number, kept[0], kept[1], resuming, held) if any((*kept, resuming, held)) else Paused()
    for name in queues:
        queue = memory.queue(name)
        if pausing:
            queue.idle.clear()
        else:
            _wake_all(memory, queue)
    return memory.paused


def _wake_all(memory: MemoryStore, queue: Queue) -> None:
    """Wake all that take from a queue."""
    for process, lease in queue.leases.items():
        if lease.beat and not lease.gone:
            wake(memory, process)


def park(memory: MemoryStore, queue: Queue, held: Sequence[Held]) -> None:
    """Put deliveries aside, in their order."""
    place = max([PARKED_MS + memory.now_ms(), *[due + 1 for due, *_ in queue.delayed]])
    for at, one in enumerate(held):
        heapq.heappush(queue.delayed, (place + at, memory.next(), one.level, one.message))


def unpark(memory: MemoryStore) -> None:
    """Put back all that is parked of resuming task names: here that is one step."""
    paused = memory.paused
    if not (paused.held or paused.resuming):
        return
    memory.paused = Paused(paused.number, paused.queues, paused.tasks) if paused.queues or paused.tasks else Paused()
    for queue in map(memory.queue, paused.held):
        mine = [entry for entry in _parked(queue) if _name(entry[3]) in paused.resuming]
        gone = {entry[1] for entry in mine}
        queue.delayed = [entry for entry in queue.delayed if entry[1] not in gone]
        heapq.heapify(queue.delayed)
        for _, _, level, message in sorted(mine, reverse=True):
            queue.ready[level].appendleft(message)
        if queue.name not in paused.queues:
            _wake_all(memory, queue)


def count(memory: MemoryStore, name: str) -> dict[str, int]:
    """Count what is parked, by task name."""
    counts: dict[str, int] = {}
    for *_, message in _parked(memory.queue(name)):
        counts[_name(message)] = counts.get(_name(message), 0) + 1
    return counts


def _parked(queue: Queue) -> list[tuple[int, int, int, bytes]]:
    return [entry for entry in queue.delayed if entry[0] >= PARKED_MS]


def _name(message: bytes) -> str:
    try:
        return _core.peek(message).name
    except EnvelopeError:
        return ""  # no task has this name
