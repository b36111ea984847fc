"""The wake channel of a process, the inbox of a producer and the ear of a node, each on a pipe."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from fastq.exceptions import OperationalError
from fastq.transports.memory.signal import Letterbox, Signal
from fastq.transports.memory.stores import MemoryStore

__all__ = ["MemoryEar", "MemoryInbox", "MemoryWake"]

T = TypeVar("T")
S = TypeVar("S", bound=Signal)


class _Channel(Generic[S]):
    """A subscription: while it is open its signal stands in the store, under the name that senders use."""

    def __init__(self, memory: MemoryStore, subscribers: dict[str, list[S]], name: str, title: str, make: Callable[[], S]) -> None:
        self._store = memory
        self._subscribers = subscribers
        self._name = name
        self._title = title
        self._make = make
        self._signal: S | None = None

    def open(self) -> None:
        with self._store.lock:
            if self._signal is None:
                self._signal = self._make()
                self._subscribers.setdefault(self._name, []).append(self._signal)

    def fileno(self) -> int:
        return self._opened().fileno()

    def _opened(self) -> S:
        if self._signal is None:
            raise OperationalError(f"{self._title} {self._name} is not open.")
        return self._signal

    def close(self) -> None:
        with self._store.lock:
            if self._signal is not None:
                signals = self._subscribers[self._name]
                signals.remove(self._signal)
                if not signals:
                    del self._subscribers[self._name]
                self._signal.close()
                self._signal = None


class MemoryWake(_Channel[Signal]):
    """``Wake`` on a pipe."""

    def __init__(self, memory: MemoryStore, process: str) -> None:
        super().__init__(memory, memory.wakes, process, "The wake channel of", Signal)

    def drain(self) -> bool:
        return self._opened().clear()

    def check(self) -> None:
        self._opened()


class _Box(_Channel[Letterbox[T]]):
    """A subscription whose signal comes with what was sent."""

    def __init__(self, memory: MemoryStore, subscribers: dict[str, list[Letterbox[T]]], name: str, title: str) -> None:
        self._letters: deque[T] = deque()
        super().__init__(memory, subscribers, name, title, lambda: Letterbox(self._letters))

    def read(self, timeout_s: float | None) -> list[T]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        signal = self._opened()
        while True:
            signal.clear()
            letters: list[T] = []
            while self._letters:
                letters.append(self._letters.popleft())
            if letters:
                return letters
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return []
            signal.wait(left_s)


class MemoryInbox(_Box[tuple[str, bytes | None]]):
    """``Inbox`` on a pipe."""

    def __init__(self, memory: MemoryStore, name: str) -> None:
        super().__init__(memory, memory.inboxes, name, "The inbox")


class MemoryEar(_Box[bytes]):
    """``Ear`` on a pipe."""

    def __init__(self, memory: MemoryStore, topic: str) -> None:
        super().__init__(memory, memory.talk.ears, topic, "The ear")

    def check(self) -> None:
        self._opened()
