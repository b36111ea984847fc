"""Turns of rate limits: taken from token buckets, and recalled when a limit changes. The store's lock is held."""

from __future__ import annotations

import heapq
from collections.abc import Collection

from fastq import _core
from fastq.transports.memory.baton import pass_baton
from fastq.transports.memory.marks import charged
from fastq.transports.memory.queue import Queue
from fastq.transports.memory.stores import MemoryStore

__all__ = ["delay", "recall", "reserve"]


def reserve(memory: MemoryStore, bucket: str, n: int, period_us: int, burst: int) -> list[int]:
    """Take the next n turns; return for each in how many ms it is, rounded up: a turn is never early."""
    now_us = memory.now_us()
    arrival_us = max(now_us, memory.buckets.get(bucket, 0))
    memory.buckets[bucket] = arrival_us + n * period_us
    ahead_us = arrival_us - now_us - (max(burst, 1) - 1) * period_us
    return [-(min(-ahead_us - i * period_us, 0) // 1000) for i in range(n)]


def delay(memory: MemoryStore, queue: Queue, level: int, due_ms: int, message: bytes, now_ms: int, bucket: str) -> None:
    """Put a message among the delayed ones until its turn."""
    memory.put(queue, level, due_ms, message, now_ms)
    if due_ms > now_ms:
        if len(queue.turns) > 2 * len(queue.delayed):  # those that have come, or went some other way, are forgotten
            delayed = {entry[1] for entry in queue.delayed}
            queue.turns = {number: name for number, name in queue.turns.items() if number in delayed}
        queue.turns[memory.last] = bucket


def recall(memory: MemoryStore, name: str, limit: str, kept: str, left: Collection[str]) -> int:
    """Recall turns, all at once; return how many."""
    queue = memory.queue(name)
    meant = {
        number: bucket
        for number, bucket in queue.turns.items()
        if bucket != kept and (bucket == limit or bucket.startswith(f"{limit}|"))
    }
    mine = [entry for entry in queue.delayed if entry[1] in meant]
    if mine:
        queue.delayed = [entry for entry in queue.delayed if entry[1] not in meant]
        heapq.heapify(queue.delayed)
        for _, _, level, message in sorted(mine, reverse=True):
            queue.ready[level].appendleft(_core.remark(message, charged(message)))
    for number in meant:
        del queue.turns[number]
    for bucket in {*left, *(meant[entry[1]] for entry in mine)} - {kept}:
        memory.buckets.pop(bucket, None)
    if mine:
        pass_baton(memory, [queue])
    return len(mine)
