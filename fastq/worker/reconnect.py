"""Wait between attempts to reach the broker."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Give growing, jittered delays: 50 ms at first, doubling, at most ``longest_s``."""

    def __init__(self, longest_s: float, first_s: float = 0.05) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self.attempts = 0

    def next_s(self) -> float:
        """Return how long to wait before the next attempt, in seconds."""
        delay_s = min(self._longest_s, self._first_s * 2.0 ** min(self.attempts, 16))
        self.attempts += 1
        return delay_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start over after a success."""
        self.attempts = 0
