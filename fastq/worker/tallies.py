"""What all processes of a node have counted since it began, added up: by task, by queue."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fastq._core import OUTCOMES, Tally

__all__ = ["QueueTotals", "Tallies", "TaskTotals", "Totals"]


#: task names of what the supervisor settles itself
OWN_ROWS = 512


@dataclass(frozen=True, slots=True)
class TaskTotals:
    """The runs of one task."""

    #: by outcome, see ``OUTCOMES``
    outcomes: Mapping[str, int]
    #: sum of how long they had waited in their queues, as far as that is known
    wait_s: float
    #: sum of how long they ran
    runtime_s: float
    #: runs by how long they took: one number per bound of RUNTIME_BOUNDS_S, and one for longer ones
    runtimes: tuple[int, ...]

    @property
    def ran(self) -> int:
        """Return how many runs there were: what was refused before it ran is not among them."""
        return sum(self.runtimes)


@dataclass(frozen=True, slots=True)
class QueueTotals:
    """What was started from one queue."""

    started: int
    #: how long they had waited, of those of which it is known: how many are in ``waits``
    wait_s: float
    #: by how long: one number per bound of WAIT_BOUNDS_S, and one for longer ones
    waits: tuple[int, ...]

    @property
    def waited(self) -> int:
        """Return of how many the wait is known."""
        return sum(self.waits)


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything that a node has counted, at one moment. Counts never shrink."""

    tasks: Mapping[str, TaskTotals] = field(default_factory=dict)
    queues: Mapping[str, QueueTotals] = field(default_factory=dict)
    #: deliveries that went back to their queues because they would have waited behind a running task, or the node stopped
    given_back: int = 0
    #: settlements that changed nothing because the lease had been taken away
    fenced: int = 0

    @property
    def ended(self) -> int:
        """Return how many tasks have ended here, in whatever way."""
        return sum(sum(task.outcomes.values()) for task in self.tasks.values())

    def outcome(self, outcome: str) -> int:
        """Return how many tasks have ended in that way."""
        return sum(task.outcomes[outcome] for task in self.tasks.values())

    def wait_since(self, earlier: Totals, queues: Iterable[str] | None = None) -> tuple[int, float]:
        """Return of how many tasks started since then the wait is known, and the mean of these, seconds (0: of none)."""
        names = self.queues if queues is None else [name for name in queues if name in self.queues]
        count, sum_s = 0, 0.0
        for name in names:
            now, before = self.queues[name], earlier.queues.get(name)
            count += now.waited - (before.waited if before is not None else 0)
            sum_s += now.wait_s - (before.wait_s if before is not None else 0.0)
        return count, sum_s / count if count else 0.0

    def for_record(self) -> dict[str, list[float]]:
        """Return ``tasks`` of a node's record: name -> [succeeded, failed, seconds run, seconds waited]."""
        return {
            name: [task.outcomes["succeeded"], task.outcomes["failed"], round(task.runtime_s, 6), round(task.wait_s, 3)]
            for name, task in self.tasks.items()
        }


class Tallies:
    """Read the tallies of a node, from its loop."""

    def __init__(self, read: Callable[[], Iterable[Tally]]) -> None:
        """``read``: returns the tallies of all processes that there ever were (``Board.tallies``)."""
        self._read = read
        # what the supervisor settles itself: no process is left to count it
        # a map and not a bytearray: memory is taken for the rows that are used
        self.own = Tally(memoryview(mmap.mmap(-1, Tally.size(OWN_ROWS, 1))), OWN_ROWS, 1)

    def totals(self) -> Totals:
        """Add everything up. A few microseconds per task name and process."""
        tasks: dict[str, list[list[int]]] = {}
        queues: dict[str, list[list[int]]] = {}
        given_back = fenced = 0
        for tally in (self.own, *self._read()):
            for name, ends, wait_ms, runtime_ns, runtimes in tally.task_totals():
                tasks.setdefault(name, []).append([*ends, wait_ms, runtime_ns, *runtimes])
            for name, started, wait_ms, waits in tally.queue_totals():
                queues.setdefault(name, []).append([started, wait_ms, *waits])
            given_back += tally.counter("given_back") + tally.counter("taken_back")
            fenced += tally.counter("fenced")
        return Totals(
            {name: _task_totals(row) for name, row in _summed(tasks)},
            {name: QueueTotals(row[0], row[1] / 1e3, tuple(row[2:])) for name, row in _summed(queues)},
            given_back,
            fenced,
        )


def _task_totals(row: list[int]) -> TaskTotals:
    kinds = len(OUTCOMES)
    wait_ms, runtime_ns, *runtimes = row[kinds:]
    return TaskTotals(dict(zip(OUTCOMES, row[:kinds], strict=True)), wait_ms / 1e3, runtime_ns / 1e9, tuple(runtimes))


def _summed(rows: Mapping[str, list[list[int]]]) -> list[tuple[str, list[int]]]:
    return [(name, [sum(column) for column in zip(*several, strict=True)]) for name, several in sorted(rows.items())]
