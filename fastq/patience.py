"""How long the calls of this thread or greenlet may take: those who wait set a deadline, transports keep it.

Without it a ``get(timeout=1)`` would end when a server that went silent has been given up, half a minute later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["GRACE_S", "deadline", "is_over", "limit_s", "until"]

#: seconds that a call has which is made when the time is nearly or already over: the last look before a timeout
GRACE_S = 0.5

_deadline: ContextVar[float | None] = ContextVar("fastq-deadline", default=None)

#: the deadline of the caller (monotonic clock), None: there is none
deadline = _deadline.get


@contextmanager
def until(at: float | None) -> Iterator[None]:
    """Let calls made inside end at a time of the monotonic clock, or soon after; None: as long as they take."""
    token = _deadline.set(at)
    try:
        yield
    finally:
        _deadline.reset(token)


def is_over() -> bool:
    """Say whether the caller's time is over."""
    at = _deadline.get()
    return at is not None and time.monotonic() >= at


def limit_s(longest_s: float) -> float:
    """Return how long a call may wait that would wait ``longest_s`` where nobody is in a hurry."""
    at = _deadline.get()
    return longest_s if at is None else min(longest_s, max(GRACE_S, at - time.monotonic()))
