"""What is compared: worker shapes and kinds of work."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

__all__ = ["POOLS", "WORKS", "Shape", "Work", "shapes"]

#: pool -> the library it needs
POOLS = {"solo": None, "prefork": None, "threads": None, "gevent": "gevent", "eventlet": "eventlet", "asyncio": None}


@dataclass(frozen=True, slots=True)
class Shape:
    """A pool and its size, as on the command line."""

    pool: str
    concurrency: int
    processes: int | None = None

    def __str__(self) -> str:
        size = "" if self.pool == "solo" else f" {self.concurrency}"
        return f"{self.pool}{size}" + (f" x {self.processes}" if self.processes else "")

    @property
    def missing(self) -> str | None:
        """The library that this pool needs and that is not installed."""
        needed = POOLS[self.pool]
        return needed if needed is not None and importlib.util.find_spec(needed) is None else None

    @property
    def slots(self) -> int:
        return self.concurrency * (1 if self.processes is None or self.pool == "prefork" else self.processes)

    @property
    def cores(self) -> int:
        """How many processes run tasks, so how many cores it can use at most."""
        return self.concurrency if self.pool == "prefork" else self.processes or 1


def shapes(cpus: int) -> tuple[Shape, ...]:
    """Return one shape of each pool, as its users would size it."""
    return (
        Shape("solo", 1),
        Shape("prefork", max(2, cpus)),
        Shape("threads", 10),
        Shape("gevent", 100),
        Shape("eventlet", 100),
        Shape("asyncio", 100),
    )


@dataclass(frozen=True, slots=True)
class Work:
    """What one task does."""

    key: str
    title: str
    #: names of the task in ``fastq.bench.tasks``: counted, the same with stamps, and both on the asyncio pool
    task: str
    timed_task: str
    async_task: str
    #: its argument besides its number; None: it has none
    ms: float | None = None

    def names(self, pool: str) -> tuple[str, str]:
        """Return the tasks that are counted and timed on this pool."""
        if pool == "asyncio":
            return self.async_task, self.timed_task if self.async_task == self.task else self.async_task
        return self.task, self.timed_task

    def args(self, i: int) -> tuple[float, ...]:
        return (i,) if self.ms is None else (i, self.ms)

    def pilot(self, shape: Shape) -> int:
        """Return how many tasks give a first idea of the rate."""
        if self.ms is None:
            return 20_000
        return 15 * (shape.cores if self.task == "cpu" else shape.slots)


WORKS = (
    Work("noop", "no-op", "noop", "stamp", "noop"),
    Work("cpu5", "5 ms of CPU", "cpu", "cpu", "cpu", 5.0),
    Work("wait20", "20 ms of waiting", "wait", "wait", "async_wait", 20.0),
)
