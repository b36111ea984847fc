"""Time limits of running tasks, as a worker process sees them.

Each pool interrupts in its own way (``Pool.alarm``). What it cannot interrupt, the supervisor ends: it kills the process when a
hard limit has passed and its run has not ended (``deadlines``, ``overdue``). Runs without limits never come here.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fastq.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from fastq.pools.base import Alarm, Pool, TaskKilled
from fastq.records import Delivery
from fastq.worker.deadlines import Deadline, Deadlines

if TYPE_CHECKING:
    from fastq.worker.link import Link

__all__ = ["KILL_AFTER_S", "Limits"]

logger = logging.getLogger("fastq.worker.trace")

#: seconds after a hard limit at which the supervisor kills the process; None: never.
#: prefork: at once, nothing else is tried, as the process has no other task. threads: never, its other tasks are well and would run
#: again. Elsewhere the pool interrupts first; what has not ended a second later blocks all others too, or refuses to end
KILL_AFTER_S: dict[str, float | None] = {
    "prefork": 0.0, "solo": 1.0, "gevent": 1.0, "eventlet": 1.0, "asyncio": 1.0, "threads": None,
}  # fmt: skip


class TaskTimedOut(TaskKilled):
    """Raised inside a running task at its hard limit; outside it is a TimeLimitExceeded (see ``Limits.end``)."""

    def __init__(self, message: str = "its hard time limit has passed") -> None:
        super().__init__(message)


class _Run:
    """A run with limits, from begin to end."""

    __slots__ = ("due_s", "hard", "hard_s", "row", "soft", "soft_s")

    def __init__(self, soft_s: float | None, hard_s: float | None) -> None:
        self.soft_s = soft_s
        self.hard_s = hard_s
        #: monotonic: when its hard limit passes; 0: never
        self.due_s = time.monotonic() + hard_s if hard_s else 0.0
        self.soft: Alarm | None = None
        self.hard: Alarm | None = None
        self.row = -1


class Limits:
    """Begin and end the limits of runs. Called in the slots."""

    def __init__(
        self,
        pool: Pool,
        *,
        kill_after_s: float | None = None,
        deadlines: Deadlines | None = None,
        call: Callable[[], object] = lambda: None,
    ) -> None:
        """``kill_after_s``: see KILL_AFTER_S; 0 means that the pool does not interrupt at a hard limit itself. ``call`` wakes the
        supervisor; any slot may call it."""
        self._pool = pool
        self._kill_after_s = kill_after_s
        self._deadlines = deadlines
        self._call = call
        self._runs: dict[Delivery, _Run] = {}

    @classmethod
    def open(cls, pool: Pool, name: str, *, board_fd: int, index: int, slots: int, link: Link) -> Limits:
        """Make the limits of a worker process; ``name`` is its pool's."""
        # lazy: only a worker process maps the board
        from fastq.worker.board import open_deadlines

        return cls(
            pool,
            kill_after_s=KILL_AFTER_S[name],
            deadlines=open_deadlines(board_fd, index, slots),
            call=lambda: link.interject({"limits": True}),
        )

    def begin(self, d: Delivery, soft_s: float | None, hard_s: float | None) -> None:
        """Start the clock of a run, right before the task's function is called in this slot."""
        if soft_s and hard_s and soft_s >= hard_s:
            soft_s = None
        self._runs[d] = run = _Run(soft_s, hard_s)
        awaited = d.entry is not None and d.entry.is_async
        if hard_s:
            if self._kill_after_s is not None and self._deadlines is not None and d.record >= 0:
                due_ns = time.monotonic_ns() + round((hard_s + self._kill_after_s) * 1e9)
                run.row, unseen = self._deadlines.put(Deadline(due_ns, d.record, hard_s, check(d.id)))
                if unseen:
                    self._call()
            if run.row < 0 or self._kill_after_s != 0:
                run.hard = self._pool.alarm(hard_s, TaskTimedOut, hard=True, awaited=awaited)
        if soft_s:
            run.soft = self._pool.alarm(soft_s, soft_error(soft_s), hard=False, awaited=awaited)

    def end(self, d: Delivery, exc: BaseException | None = None) -> BaseException | None:
        """Stop the clock of a run, first thing after the task's function has returned, or has raised ``exc``.

        Return what the run has raised: TimeLimitExceeded if its hard limit had passed, whatever the task made of that, else
        ``exc``. Does nothing for a run that has no limits.
        """
        run = self._runs.get(d)
        if run is None:
            return exc
        while True:
            try:
                return self._end(d, run, exc)
            except (SoftTimeLimitExceeded, TaskTimedOut):  # struck while on its way out; each alarm rings only once
                continue

    def _end(self, d: Delivery, run: _Run, exc: BaseException | None) -> BaseException | None:
        early = run.soft is not None and run.soft.cancel()
        # by the clock too: an alarm could not ring while C code held the GIL
        late = (run.hard is not None and run.hard.cancel()) or 0 < run.due_s <= time.monotonic()
        # from here on nothing is raised in this slot
        self._runs.pop(d, None)
        if run.row >= 0 and self._deadlines is not None:
            self._deadlines.drop(run.row)
            run.row = -1
        if late or isinstance(exc, TaskTimedOut):
            _log("Hard", run.hard_s, d)
            error = TimeLimitExceeded(run.hard_s)
            return error if exc is None else error.with_traceback(exc.__traceback__)
        if early:
            _log("Soft", run.soft_s, d)
        return exc


def _log(which: str, limit_s: float | None, d: Delivery) -> None:
    logger.warning(
        "%s time limit (%gs) exceeded for %s[%s]", which, limit_s, d.name, d.id, extra={"task_id": d.id, "task_name": d.name}
    )


def check(task_id: str) -> int:
    """Return what tells one task id from another on the board."""
    return zlib.crc32(task_id.encode("utf-8", "surrogatepass"))


@lru_cache(maxsize=64)
def soft_error(soft_s: float) -> type[SoftTimeLimitExceeded]:
    """Return SoftTimeLimitExceeded as a class that knows its argument: a thread can only be struck with a class."""

    def init(self: SoftTimeLimitExceeded, *args: Any) -> None:
        Exception.__init__(self, soft_s)

    name = SoftTimeLimitExceeded.__name__
    made = type(name, (SoftTimeLimitExceeded,), {"__init__": init, "__module__": SoftTimeLimitExceeded.__module__})
    made.__qualname__ = name
    return made
