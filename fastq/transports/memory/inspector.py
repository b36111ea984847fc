"""Look into the queues of a store and clean them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from fastq import _core, ending
from fastq.ending import FAILURE, kept_join
from fastq.exceptions import FastQError
from fastq.records import DeadLetter, Revival, Swept
from fastq.transports.base import TransportOptions
from fastq.transports.memory import pausing, revocations
from fastq.transports.memory.baton import pass_baton
from fastq.transports.memory.effects import carry_out
from fastq.transports.memory.marks import unmarked
from fastq.transports.memory.stores import MemoryStore

__all__ = ["MemoryInspector"]

#: as the core writes it among a message's options: what does not contain it has none
FLOW = _core.packb("flow")


class MemoryInspector:
    """``Inspector`` of dictionaries."""

    def __init__(self, url: str, memory: MemoryStore, options: TransportOptions) -> None:
        self.url = url
        self._store = memory
        self._options = options

    def queues(self) -> list[str]:
        with self._store.lock:
            return sorted(name for name, queue in self._store.queues.items() if queue.used)

    def depth(self, queue: str) -> dict[str, int]:
        with self._store.lock:
            here = self._store.queue(queue)
            leased = sum(map(len, here.leased.values()))
            return {"ready": len(here), "delayed": len(here.delayed), "leased": leased, "dead": len(here.dead)}

    def listeners(self, queue: str) -> list[str]:
        with self._store.lock:
            leases = self._store.queue(queue).leases
            return [process for process, lease in leases.items() if lease.beat and not lease.gone]

    def peek(self, queue: str, n: int) -> list[bytes]:
        with self._store.lock:
            return [message for level in reversed(self._store.queue(queue).ready) for message in level][:n]

    def delayed(self, queue: str, n: int, offset: int = 0) -> list[tuple[int, int, bytes]]:
        with self._store.lock:
            entries = sorted(self._store.queue(queue).delayed)[offset : offset + n]
        return [(due_ms, level, message) for due_ms, _, level, message in entries]

    def purge(self, queue: str) -> int:
        with self._store.lock:
            here = self._store.queue(queue)
            purged = [message for level in reversed(here.ready) for message in level]
            purged += [message for *_, message in sorted(here.delayed)]
            here.delayed.clear()
            for level in here.ready:
                level.clear()
            self._end(purged)
        return len(purged)

    def _end(self, messages: Iterable[bytes]) -> None:
        """End steps of workflows as REVOKED, for what was to come after them; plain messages just go."""
        now_ms = self._store.now_ms()
        ends: list[ending.End] = []
        for message in messages:
            if FLOW not in message:
                continue
            try:
                d = _core.peek(message)
                if d.flow is None:
                    continue
            except FastQError:
                # No envelope: nobody waits for it.
                continue
            ends.append(ending.revoked(d, now_ms))
        told = [(result.inbox, result.id, result.record) for end in ends for result in end.results()]
        self._store.write(told, self._options.result_expires_s)
        pass_baton(self._store, carry_out(self._store, [end.effects for end in ends if end.effects is not None], now_ms))

    def revoke_waiting(self, queue: str, ids: Iterable[str], *, results: bool = True, most: int = 100_000) -> Swept:
        expires_s = self._options.result_expires_s
        with self._store.lock:
            return revocations.sweep(self._store, queue, frozenset(ids), result_expires_s=expires_s, results=results)

    def parked(self, queue: str) -> dict[str, int]:
        with self._store.lock:
            return pausing.count(self._store, queue)

    def dead(self, queue: str, *, limit: int = 100, offset: int = 0, before: DeadLetter | None = None) -> list[DeadLetter]:
        with self._store.lock:
            letters = (letter for _, letter in reversed(self._store.queue(queue).dead.values()))
            older = letters if before is None else (letter for letter in letters if letter.place < before.place)
            return list(islice(older, offset, offset + max(limit, 0)))

    def retry_dead(
        self, queue: str, keys: Iterable[str], *, changes: Mapping[str, Revival] | None = None, to: str | None = None
    ) -> int:
        store, changes = self._store, changes or {}
        with store.lock:
            here, there = store.queue(queue), store.queue(to or queue)
            letters = [here.dead.pop(key) for key in keys if key in here.dead]
            now_ms = store.now_ms()
            for level, letter in letters:
                change = changes.get(letter.key, Revival())
                # A new message: what it was charged with is forgotten.
                store.put(there, level, 0, unmarked(change.message or letter.message), now_ms)
                if (join := kept_join(letter.reason, letter.message)) is not None:
                    store.joins.keep(join)
                for id in change.forget:
                    if store.record(id, now_ms).startswith(FAILURE):
                        del store.results[id]
            pass_baton(store, [there])
        return len(letters)

    def delete_dead(self, queue: str, keys: Iterable[str]) -> int:
        with self._store.lock:
            return self._store.unbury(self._store.queue(queue), keys, self._store.now_ms())

    def close(self) -> None:
        """Nothing is open."""
