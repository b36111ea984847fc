"""End processes whose task is over its hard time limit: the supervisor's side of ``deadlines``.

Nothing is looked at before a process says that it runs something with a hard limit, and then only when the next deadline has come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from fastq._core import STARTED, ProcessBoard
from fastq.worker.deadlines import Deadline, Deadlines
from fastq.worker.loop import Loop, Timer
from fastq.worker.timeouts import Overrun

__all__ = ["Overdue"]

logger = logging.getLogger("fastq.worker")


class Overdue:
    """Watch the deadlines of one process. ``kill`` is called once, when a run is over its own; ``overruns`` says which."""

    def __init__(
        self, loop: Loop, board: ProcessBoard, deadlines: Deadlines, queues: Sequence[str], kill: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._board = board
        self._deadlines = deadlines
        self._queues = queues
        self._kill = kill
        self._timer: Timer | None = None
        #: what the process is, or was, killed for
        self.overruns: list[Overrun] = []

    def look(self) -> None:
        """Kill the process if a run is overdue, else look again when the next one is due."""
        self.stop()
        if self.overruns:
            return
        now_ns = time.monotonic_ns()
        overdue, next_ns = self._deadlines.look(now_ns)
        self.overruns = self._running(overdue) if overdue else []
        if self.overruns:
            self._kill()
        elif next_ns:
            self._timer = self._loop.after((next_ns - now_ns) / 1e9, self.look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _running(self, overdue: Sequence[Deadline]) -> list[Overrun]:
        """Return those that have not ended on the board: one that ends at the last moment is left to its process."""
        started = {record: (tag, at) for record, tag, at, state, _, _ in self._board.held() if state == STARTED}
        found = []
        for row in overdue:
            tag, at = started.get(row.record, ("", len(self._queues)))
            if at < len(self._queues):
                found.append(Overrun(self._queues[at], tag, row.hard_s, row.check))
        return found
