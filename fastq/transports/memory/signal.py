"""What a waiting thread selects on."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

__all__ = ["Letterbox", "Signal"]

T = TypeVar("T")


class Signal:
    """A descriptor that is readable while the signal is set."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._lock = threading.Lock()
        # One byte is in the pipe while it is set. Counted here, because eventlet's os.read and os.write wait on any descriptor.
        self._is_set = False
        self.closed = False

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        with self._lock:
            if not self._is_set and not self.closed:
                self._is_set = True
                os.write(self._write, b"!")

    def clear(self) -> bool:
        """Clear it; True if it was set."""
        with self._lock:
            was_set, self._is_set = self._is_set, False
            if was_set:
                os.read(self._read, 1)
        return was_set

    def wait(self, timeout_s: float | None) -> None:
        select.select([self._read], [], [], None if timeout_s is None else max(timeout_s, 0.0))

    def close(self) -> None:
        with self._lock:
            if not self.closed:
                self.closed = True
                os.close(self._read)
                os.close(self._write)


class Letterbox(Signal, Generic[T]):
    """A signal with what has set it: what has come (results, messages) and was not read, oldest first."""

    def __init__(self, letters: deque[T]) -> None:
        super().__init__()
        self._letters = letters

    def deliver(self, letters: Sequence[T]) -> None:
        self._letters.extend(letters)
        self.set()
