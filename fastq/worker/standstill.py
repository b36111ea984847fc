"""Processes that stand still: they run nothing, and have not been answered by the broker for long, though it answers here.

A call to the broker ends after about a lease, answered or not, and an idle process makes one in every lease. What is left has
no end of its own: a process that cannot open a connection any more (its tasks leaked every descriptor), a consumer that waits
for a lock, or for a log that nobody reads. Its lease is renewed all the same, for it lives; what it holds would wait for ever.

Stories thought through:
- The broker is away. Nobody is answered, the supervisor neither: nothing counts from then on until it has been answered again.
- A task runs for hours, holds the GIL or blocks the hub. It has started, the board says so: nothing counts.
- The supervisor itself was stopped. It finds its looks late, and starts over.
- The process has outcomes that it could not report. Ending it runs these tasks again, so it gets far longer; and it is not ended
  at all where results are kept on another server: that one may be away, and a new process would meet it too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastq._core import FINISHED, STARTED, ProcessBoard
from fastq.worker.loop import Loop

__all__ = ["Standstill", "Stillness"]

logger = logging.getLogger("fastq.worker")

#: seconds that count as a lease at least: what a call may take (see ``assembly``)
SHORTEST_LEASE_S = 2.0
#: leases between two looks
EVERY = 1 / 3
#: leases that a process may go without an answer if it has nothing in hand. Half-open connections alone are found within 3.3: one
#: until it looks, one until the wake channel is given up, one for the other connection, and the pauses
IDLE_LEASES = 6.0
#: and one that has outcomes to report
LADEN_LEASES = 20.0
#: a look later than this share of its interval starts over
LATE = 3.0


@dataclass(frozen=True, slots=True)
class Stillness:
    """Why a process is to be replaced."""

    seconds: float
    #: outcomes it could not report: their tasks run again
    outcomes: int


class Standstill:
    """Watch one process. Pure but for the board: the caller says when, and whether the broker answers here."""

    def __init__(self, lease_s: float, *, foreign: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """``foreign``: results are kept on another server than messages."""
        self._lease_s = max(lease_s, SHORTEST_LEASE_S)
        self._foreign = foreign
        self._clock = clock
        self._since_s = self._last_look_s = clock()
        self._told = False

    def watch(
        self,
        loop: Loop,
        board: ProcessBoard,
        title: str,
        *,
        wanted: Callable[[], bool],
        reachable: Callable[[], bool],
        replace: Callable[[], object],
    ) -> None:
        """Look from time to time, as long as ``wanted``; ``replace`` the process at most once. ``reachable``: the broker answers
        here."""

        def look() -> None:
            if not wanted():
                return
            found = self.look(board, reachable=reachable(), title=title)
            if found is None:
                loop.after(self.every_s, look)
                return
            logger.error(
                "Process %r runs nothing, and the broker has not answered it for %.0f s though it answers here: replacing it%s",
                *(title, found.seconds),
                f" ({found.outcomes} tasks whose outcomes it could not report run again)" if found.outcomes else "",
            )
            replace()

        loop.after(self.every_s, look)

    @property
    def every_s(self) -> float:
        """Seconds between two looks."""
        return EVERY * self._lease_s

    def answered(self) -> None:
        """Take in that the broker has answered the process."""
        self._since_s = self._clock()
        self._told = False

    def look(self, board: ProcessBoard, *, reachable: bool, title: str) -> Stillness | None:
        """Look, ``every_s`` after the last look; return why the process is to be replaced, None if it is not."""
        now_s = self._clock()
        late = now_s - self._last_look_s > LATE * self.every_s
        self._last_look_s = now_s
        still_s = now_s - self._since_s
        if late or not reachable:
            self._since_s = now_s
            return None
        if still_s < IDLE_LEASES * self._lease_s:
            return None
        states = [state for _, _, _, state, _, _ in board.held()]
        if STARTED in states or board.active():
            self._since_s = now_s
            return None
        outcomes = states.count(FINISHED)
        if outcomes and (self._foreign or still_s < LADEN_LEASES * self._lease_s):
            if not self._told:
                self._told = True
                what_then = (
                    "It goes on trying"
                    if self._foreign
                    else f"After {LADEN_LEASES * self._lease_s:.0f} s it is replaced, and these tasks run again"
                )
                logger.error(
                    "Process %r could not report %d outcomes for %.0f s, though the broker answers here (its log says more). %s",
                    *(title, outcomes, still_s, what_then),
                )
            return None
        return Stillness(still_s, outcomes)
