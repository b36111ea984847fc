"""Keep results in a dictionary."""

from __future__ import annotations

from collections.abc import Sequence

from fastq.records import Joined, StoredResult
from fastq.transports.base import Broker, TransportOptions
from fastq.transports.memory.broker import MemoryBroker
from fastq.transports.memory.channels import MemoryInbox
from fastq.transports.memory.stores import MemoryStore

__all__ = ["MemoryBackend"]


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

    def joined(self, queue: str, join: str) -> Joined | None:
        with self._store.lock:
            return self._store.joins.load(queue, join, self._store.now_ms())

    def inbox(self, name: str) -> MemoryInbox:
        return MemoryInbox(self._store, name)

    def close(self) -> None:
        """Nothing is open."""
