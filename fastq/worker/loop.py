"""A loop over descriptors and timers for a process of one thread. It sleeps until something happens; nothing polls."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Loop", "Timer"]


class Timer:
    """A call that is due at a time of the monotonic clock."""

    __slots__ = ("call", "when_s")

    def __init__(self, when_s: float, call: Callable[[], object]) -> None:
        self.when_s = when_s
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class Poll(Protocol):
    """The part of ``select.poll`` that a loop uses."""

    def register(self, fd: int, eventmask: int, /) -> object: ...
    def unregister(self, fd: int, /) -> object: ...
    def poll(self, timeout_ms: float | None, /) -> list[tuple[int, int]]: ...


class Loop:
    """Call back when a descriptor is ready or a time has come. Callbacks may add and remove anything."""

    def __init__(self, poll: Poll | None = None) -> None:
        """``poll``: what waits, where ``select.poll`` is not there."""
        self._poll: Poll = select.poll() if poll is None else poll
        self._readers: dict[int, Callable[[], object]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = False

    def watch(self, fd: int, call: Callable[[], object], *, writing: bool = False) -> None:
        """Call when it is readable, or with ``writing`` when it takes bytes again; this takes the place of an earlier watch."""
        self._readers[fd] = call
        self._poll.register(fd, select.POLLOUT if writing else select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; call it before closing."""
        if self._readers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, delay_s: float, call: Callable[[], object]) -> Timer:
        timer = Timer(time.monotonic() + max(0.0, delay_s), call)
        heapq.heappush(self._timers, (timer.when_s, next(self._order), timer))
        return timer

    def run(self) -> None:
        """Run until ``stop``."""
        self._running = True
        while self._running:
            self.turn()

    def stop(self) -> None:
        self._running = False

    def turn(self, longest_s: float | None = None) -> None:
        """Wait once and make the calls that are due."""
        for fd, _ in self._poll.poll(self._wait_ms(longest_s)):
            call = self._readers.get(fd)
            if call is not None:  # an earlier callback of this turn may have removed it
                call()
        now_s = time.monotonic()
        while self._timers and self._timers[0][0] <= now_s:
            timer = heapq.heappop(self._timers)[2]
            if timer.call is not None:
                timer.call()

    def _wait_ms(self, longest_s: float | None) -> int | None:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        waits = [] if longest_s is None else [longest_s]
        if self._timers:
            waits.append(self._timers[0][0] - time.monotonic())
        if not waits:
            return None
        # rounded up: a poll that ends just before its timer would come round again with 0
        return max(0, int(min(waits) * 1000) + 1)
