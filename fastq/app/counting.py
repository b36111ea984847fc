"""``app.clock``: numbers that only rise, in the measure of the ``clock`` of events."""

from __future__ import annotations

import threading
import time

__all__ = ["LogicalClock"]


class LogicalClock:
    """What Celery has as a Lamport clock. There it counts messages; here it follows this machine's time, Unix microseconds, as the
    ``clock`` of events does, and never falls. Any thread."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    @property
    def value(self) -> int:
        """Return where it stands."""
        return self._move(0, 0)

    def forward(self) -> int:
        """Return a number above all that were returned before."""
        return self._move(0, 1)

    def adjust(self, other: int) -> int:
        """Return a number above another clock's, and above all that were returned before."""
        return self._move(other + 1, 1)

    def _move(self, least: int, step: int) -> int:
        with self._lock:
            self._last = max(self._last + step, least, time.time_ns() // 1000)
            return self._last

    def __int__(self) -> int:
        return self.value

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"<LogicalClock: {self.value}>"
