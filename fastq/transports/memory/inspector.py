"""Look into the queues of a store and clean them."""

from __future__ import annotations

from collections.abc import Iterable

from fastq.records import DeadLetter
from fastq.transports.base import TransportOptions
from fastq.transports.memory.baton import pass_baton
from fastq.transports.memory.marks import unmarked
from fastq.transports.memory.stores import MemoryStore

__all__ = ["MemoryInspector"]


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
                here.ready[level].append(unmarked(letter.message))
            pass_baton(self._store, [here])
        return len(letters)

    def delete_dead(self, queue: str, keys: Iterable[str]) -> int:
        with self._store.lock:
            here = self._store.queue(queue)
            return sum(here.dead.pop(key, None) is not None for key in keys)

    def close(self) -> None:
        """Nothing is open."""
