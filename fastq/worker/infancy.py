"""How long the successor of a process that died young has to wait, so that a sick application is not started all the time."""

from __future__ import annotations

from fastq._core import ProcessBoard
from fastq.worker.reconnect import Backoff

__all__ = ["Infancy"]

#: a process that dies younger than this died of something that its successor will meet too
YOUNG_S = 5.0
#: so many young deaths in a row are replaced at once: chaos, or a poisonous task on its way to the dead letters
FREE_DEATHS = 3
#: seconds to the next start at most, after more of them, if no task had begun
SICK_S = 15.0
#: and if one had: that each task is allowed so many deaths ends poisonous ones, and others wait behind them
POISONED_S = 0.5


class Infancy:
    """Count the young deaths of each place."""

    def __init__(self) -> None:
        self._deaths: dict[int, int] = {}
        self._delays: dict[int, Backoff] = {}

    def died(self, index: int, age_s: float, board: ProcessBoard, *, in_order: bool) -> tuple[int, float]:
        """Take in a death; return how many were young in a row, and the seconds to wait. One that has finished a task, or ended in
        order, was healthy, however young."""
        if in_order or age_s > YOUNG_S or board.counter("done") + board.counter("failed"):
            self._deaths.pop(index, None)
            self._delays.pop(index, None)
            return 0, 0.0
        deaths = self._deaths[index] = self._deaths.get(index, 0) + 1
        if deaths <= FREE_DEATHS:
            return deaths, 0.0
        delay_s = self._delays.setdefault(index, Backoff(longest_s=SICK_S, first_s=0.5)).next_s()
        return deaths, min(delay_s, POISONED_S) if board.counter("started") else delay_s
