"""Revoked tasks: remembered by id, and taken out of the queue in which they wait. The store's lock is held."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

from fastq import _core, ending
from fastq.exceptions import EnvelopeError
from fastq.records import Swept
from fastq.transports.base import REVOKED_MAX
from fastq.transports.memory.baton import pass_baton
from fastq.transports.memory.effects import carry_out
from fastq.transports.memory.stores import MemoryStore

__all__ = ["add", "last", "since", "sweep", "terminated"]


def last(memory: MemoryStore) -> int:
    """Return the number of the last revocation, 0 if none is remembered."""
    return next(reversed(memory.revoked.values()))[0] if memory.revoked else 0


def add(memory: MemoryStore, ids: Sequence[str], expires_s: int, signal: str = "") -> int:
    """Remember ids; return the number of this revocation: the clock in ms, or one more than the last."""
    if not ids:
        return 0
    now_ms = memory.now_ms()
    memory.forget_revoked(now_ms)
    number = max(now_ms, last(memory) + 1)
    for id in ids:
        memory.revoked.pop(id, None)  # the newest stand last
        memory.revoked[id] = (number, now_ms + max(expires_s, 1) * 1000)
    for oldest in list(memory.revoked)[: max(0, len(memory.revoked) - REVOKED_MAX)]:
        del memory.revoked[oldest]
    if signal:
        for id in ids:
            memory.terminated.pop(id, None)
            memory.terminated[id] = (number, signal)
    return number


def terminated(memory: MemoryStore, number: int) -> tuple[int, dict[str, str]]:
    """Return the last number of a revocation with a signal, and the signals by id of those after a number."""
    memory.forget_revoked(memory.now_ms())
    newest = next(reversed(memory.terminated.values()))[0] if memory.terminated else 0
    return newest, {id: signal for id, (own, signal) in memory.terminated.items() if own > number}


def since(memory: MemoryStore, number: int) -> tuple[int, list[str]]:
    """Return the last number, and the ids revoked after a number."""
    return last(memory), [id for id, (own, _) in memory.revoked.items() if own > number]


def sweep(memory: MemoryStore, name: str, ids: Collection[str], *, result_expires_s: int | None, results: bool) -> Swept:
    """End what waits in a queue of some tasks."""
    queue, now_ms = memory.queue(name), memory.now_ms()
    found: list[bytes] = []
    for at, level in enumerate(queue.ready):
        mine = [message for message in level if _id(message) in ids]
        if mine:
            found += mine
            queue.ready[at] = type(level)(message for message in level if _id(message) not in ids)
    late = [entry for entry in queue.delayed if _id(entry[3]) in ids]
    if late:
        found += [message for *_, message in sorted(late)]
        queue.delayed = [entry for entry in queue.delayed if _id(entry[3]) not in ids]
        heapq.heapify(queue.delayed)
    ends = [(d.id, ending.revoked(d, now_ms)) for d in map(_core.peek, found)]
    stored = [result for _, end in ends for result in end.results()]
    if results:
        memory.write([(result.inbox, result.id, result.record) for result in stored], result_expires_s)
    pass_baton(memory, carry_out(memory, [end.effects for _, end in ends if end.effects is not None], now_ms))
    ended = frozenset(id for id, _ in ends)
    leased = frozenset(id for held in queue.leased.values() for one in held.values() if (id := _id(one.message)) in ids)
    return Swept(ended, leased - ended, () if results else stored)


def _id(message: bytes) -> str:
    try:
        return _core.task_id(message)
    except EnvelopeError:
        return ""  # no task has this id
