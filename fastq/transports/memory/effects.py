"""What happens with a settlement beside its verdict (see ``records.Effects``). The store's lock is held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastq.records import Effects, Publication
from fastq.transports.memory.queue import LEVELS, Queue
from fastq.transports.memory.stores import MemoryStore

__all__ = ["carry_out", "keep"]


def keep(memory: MemoryStore, publications: Iterable[Publication], now_ms: int) -> list[Queue]:
    """Put messages where they wait; return the queues that have new ones."""
    queues: dict[str, Queue] = {}
    for publication in publications:
        queue = queues[publication.queue] = memory.queue(publication.queue)
        due_ms = publication.due_ms or now_ms + max(publication.delay_ms, 0)
        memory.put(queue, publication.level, due_ms, publication.message, now_ms)
    return list(queues.values())


def carry_out(memory: MemoryStore, effects: Sequence[Effects], now_ms: int) -> list[Queue]:
    """Carry out everything but the results; return the queues that have new messages."""
    publications: list[Publication] = []
    for some in effects:
        memory.joins.open(some.openings, now_ms)
        memory.joins.grow(some.growths, now_ms)
    for some in effects:
        publications += some.publications
        publications += memory.joins.count(some.counts, now_ms)
    for some in effects:
        memory.joins.drop(some.drops, now_ms)
    # A bad level, from a message that anyone may have written, must not keep a worker from settling.
    allowed = [one._replace(level=min(max(one.level, 0), LEVELS - 1)) for one in publications]
    return keep(memory, allowed, now_ms)
