"""Whether there may be anything to fetch: after an empty fetch only when woken, when something is due, or after a while."""

from __future__ import annotations

import time

from fastq.transports.base import Broker

__all__ = ["Idleness"]


class Idleness:
    """Keep the wake channel of the name, and what the last fetch said. Owned by the consumer's loop."""

    def __init__(self, broker: Broker, check_s: float) -> None:
        """``check_s``: how long an idle process believes that it is registered as such."""
        self._broker = broker
        self._check_s = check_s
        self._checked_at = 0.0
        self.wake = broker.wake("")
        #: the wake channel is open
        self.open = False
        #: registered as idle: nothing to fetch until woken or something is due
        self.idle = False
        #: monotonic time at which a delayed message is due that this process keeps time for; 0: none
        self.due_at = 0.0
        #: woken since the last fetch was sent
        self.woken = False

    def rename(self, process: str) -> None:
        """Listen to what wakes another name, from the next ``subscribe`` on."""
        self.wake.close()
        self.wake = self._broker.wake(process)
        self.open = False

    def subscribe(self) -> None:
        """Open the wake channel, then fetch at once: a wake sent before it was open is lost."""
        self.wake.open()
        self.open = True
        self._checked_at = time.monotonic()
        self.idle = False

    def close(self) -> None:
        """Close the wake channel."""
        self.wake.close()
        self.open = False

    def begin(self, next_due_ms: int | None, now_ms: int) -> None:
        """Note that the process is registered as idle now, and what the broker says is due next."""
        self.idle = True
        self.due_at = time.monotonic() + max(1, next_due_ms - now_ms) / 1000 if next_due_ms else 0.0

    def end(self) -> None:
        """Note that a fetch may bring something."""
        self.idle = False
        self.due_at = 0.0

    def look(self, readable: bool) -> None:
        """After a sleep, see whether it is over; ``readable``: the wake channel was."""
        woken = readable and self.wake.drain()
        if self.idle:
            now = time.monotonic()
            if self.due_at and now >= self.due_at:
                self.idle = False
            elif now - self._checked_at >= self._check_s:
                self._checked_at = now
                self.wake.check()
                self.wake.drain()  # a wake that came meanwhile is kept inside, and makes nothing readable
                # then fetch, whether woken or not: a process that was taken for dead, or that the broker has forgotten, is not
                # registered as idle any more, and nobody would ever wake it
                self.idle = False
        if woken:
            self.idle = False
            self.woken = True
