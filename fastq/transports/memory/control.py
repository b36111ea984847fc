"""The Channel inside one process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from fastq.transports.channel import Beat, NodeRecord
from fastq.transports.memory.channels import MemoryEar
from fastq.transports.memory.stores import MemoryStore

__all__ = ["MemoryChannel"]

#: of all nodes; a name that a client gives itself is never empty
EVERY_NODE = ""


class MemoryChannel:
    """``Channel`` in dictionaries."""

    def __init__(self, url: str, memory: MemoryStore) -> None:
        self.url = url
        self._store = memory
        self._talk = memory.talk
        #: told of events; waiting lets go of the store's lock
        self._told = memory.talk.told

    def broadcast(self, message: bytes) -> int:
        return self._say(EVERY_NODE, message)

    def ear(self, node: str) -> MemoryEar:
        return MemoryEar(self._store, EVERY_NODE)

    def reply(self, to: str, payload: bytes) -> None:
        if to:
            self._say(to, payload)

    def replies(self, name: str) -> MemoryEar:
        return MemoryEar(self._store, name)

    def _say(self, topic: str, message: bytes) -> int:
        with self._store.lock:
            ears = self._talk.ears.get(topic, [])
            for ear in ears:
                ear.deliver([message])
            return len(ears)

    def beat(self, node: str, info: bytes, expires_ms: int) -> Beat:
        with self._store.lock:
            now_ms = self._store.now_ms()
            self._talk.expire(now_ms)
            self._talk.nodes[node] = (info, now_ms, now_ms + expires_ms)
            return Beat(now_ms, bool(self._talk.listeners))

    def leave(self, node: str) -> None:
        with self._store.lock:
            self._talk.nodes.pop(node, None)

    def nodes(self) -> dict[str, NodeRecord]:
        with self._store.lock:
            now_ms = self._store.now_ms()
            self._talk.expire(now_ms)
            return {name: NodeRecord(info, now_ms - said_ms) for name, (info, said_ms, _) in sorted(self._talk.nodes.items())}

    def send_events(self, batches: Sequence[bytes], *, keep: int, expires_s: int) -> None:
        with self._told:
            now_ms = self._store.now_ms()
            self._talk.expire(now_ms)
            self._talk.add_events(list(batches), keep, now_ms + expires_s * 1000)
            self._told.notify_all()

    def events(self, after: str, timeout_s: float, n: int = 1000) -> list[tuple[str, bytes]]:
        deadline = time.monotonic() + timeout_s
        with self._told:
            position = int(after) if after else self._talk.last
            while True:
                self._talk.expire(self._store.now_ms())
                found = itertools.islice((one for one in self._talk.events if one[0] > position), n)
                if batches := [(str(number), batch) for number, batch in found]:
                    return batches
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return [] if after else [(str(position), b"")]
                self._told.wait(left_s)

    def listen(self, name: str, expires_s: float) -> None:
        with self._store.lock:
            now_ms = self._store.now_ms()
            self._talk.expire(now_ms)
            if expires_s > 0:
                self._talk.listeners[name] = now_ms + round(expires_s * 1000)
            else:
                self._talk.listeners.pop(name, None)

    def listened(self) -> bool:
        with self._store.lock:
            self._talk.expire(self._store.now_ms())
            return bool(self._talk.listeners)

    def close(self) -> None:
        """Nothing is open."""
