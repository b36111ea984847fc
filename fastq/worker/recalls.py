"""Recall turns under a rate limit that has changed, for a whole node: in its loop, one bounded step after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastq.exceptions import OperationalError

if TYPE_CHECKING:
    from fastq.worker.keeper import Keeper
    from fastq.worker.loop import Loop, Timer

__all__ = ["Recalls"]

logger = logging.getLogger("fastq.worker.control")

#: seconds between attempts while the broker does not answer
RETRY_S = 1.0
#: seconds of steps at a time: the loop has others to serve
TURN_S = 0.02


@dataclass(slots=True)
class _Recall:
    """What is being recalled of one limit."""

    kept: str
    left: set[str]
    #: those that remain, the first is being looked at
    queues: list[str]
    place: str = ""
    recalled: int = 0


class Recalls:
    """Recall what waits in the queues of a node, whoever gave it its turn: processes and nodes that are no more included."""

    def __init__(self, loop: Loop, keeper: Keeper, queues: Callable[[], Sequence[str]], node: str) -> None:
        """``queues``: what the node takes or took from; ``node``: whose limits they are, "": the fleet's."""
        self._loop = loop
        self._keeper = keeper
        self._queues = queues
        self._node = node
        #: task name -> the bucket that it has now
        self._kept: dict[str, str] = {}
        #: task name -> what is to be done
        self._open: dict[str, _Recall] = {}
        self._timer: Timer | None = None

    def begin(self, task: str, rate: float) -> None:
        """Recall all turns of a task but those at ``rate`` (a second, 0: no limit), which it has from now on."""
        # lazy: brings what makes messages, and in most nodes no limit ever changes
        from fastq.worker.rates import bucket_name, limit_name

        limit = limit_name(task, self._node)
        kept = bucket_name(limit, rate)
        left = {self._kept.get(task, limit)}
        if (unfinished := self._open.get(task)) is not None:
            left |= unfinished.left
        self._kept[task] = kept
        self._open[task] = _Recall(kept, left - {kept, ""}, list(self._queues()))
        if self._timer is None:
            self._step()

    def _step(self) -> None:
        # lazy: as above
        from fastq.worker.rates import limit_name

        self._timer = None
        until_s = time.monotonic() + TURN_S
        while self._open:
            task, work = next(iter(self._open.items()))
            if not work.queues:
                del self._open[task]
                if work.recalled:
                    logger.info("%d of %s that waited for a turn under another limit go back to their queues", work.recalled, task)
                continue
            limit = limit_name(task, self._node)
            try:
                recalled, work.place = self._keeper.recall(
                    work.queues[0], limit, kept=work.kept, left=tuple(work.left), place=work.place
                )
            except OperationalError as exc:
                # that it does not answer has been said
                logger.debug("Turns of %s are recalled when the broker answers again: %s", task, exc)
                self._timer = self._loop.after(RETRY_S, self._step)
                return
            work.recalled += recalled
            if not work.place:
                del work.queues[0]
            if time.monotonic() >= until_s:
                self._timer = self._loop.after(0, self._step)
                return
