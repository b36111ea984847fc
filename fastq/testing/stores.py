"""The memory broker's own side: what is in it, and its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastq.transports import memory
from fastq.transports.base import TransportOptions

if TYPE_CHECKING:
    from fastq.transports.memory import MemoryStore

__all__ = ["has_work", "store_of"]


def store_of(url: str) -> MemoryStore:
    """Return the store that a ``memory://`` URL names."""
    return memory.open_broker(url, TransportOptions()).store


def has_work(store: MemoryStore, queues: set[str]) -> bool:
    """Say whether anything in these queues can run now, or does."""
    with store.lock:
        now_ms = store.now_ms()
        for name in queues:
            queue = store.queues.get(name)
            if queue is not None and (len(queue) or 0 < queue.due_ms() <= now_ms or any(queue.leased.values())):
                return True
    return False
