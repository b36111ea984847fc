"""What nodes, and those who steer them, say to each other in a store."""

from __future__ import annotations

import itertools
import threading
from collections import deque

from fastq.transports.memory.signal import Letterbox

__all__ = ["Talk"]


class Talk:
    """Subscriptions, records of nodes and events of one store. Its methods expect the store's lock to be held."""

    def __init__(self, lock: threading.RLock) -> None:
        #: notified of events; waiting for it lets go of the store's lock
        self.told = threading.Condition(lock)
        #: "" (all nodes) or the name of one who has asked -> who listens
        self.ears: dict[str, list[Letterbox[bytes]]] = {}
        #: node -> (record, when it has said so, when that expires)
        self.nodes: dict[str, tuple[bytes, int, int]] = {}
        #: who listens to events -> until when
        self.listeners: dict[str, int] = {}
        #: (number, batch), the newest last
        self.events: deque[tuple[int, bytes]] = deque()
        self.events_expire_ms = 0
        self._numbers = itertools.count(1)
        #: of the newest batch there ever was
        self.last = 0

    def expire(self, now_ms: int) -> None:
        """Forget what has not been renewed in time."""
        for name in [name for name, (_, _, expires_ms) in self.nodes.items() if expires_ms <= now_ms]:
            del self.nodes[name]
        for name in [name for name, expires_ms in self.listeners.items() if expires_ms <= now_ms]:
            del self.listeners[name]
        if self.events and self.events_expire_ms <= now_ms:
            self.events.clear()

    def add_events(self, batches: list[bytes], keep: int, expires_ms: int) -> None:
        for batch in batches:
            self.last = next(self._numbers)
            self.events.append((self.last, batch))
        while len(self.events) > keep:
            self.events.popleft()
        self.events_expire_ms = expires_ms
