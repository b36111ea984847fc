"""One cell of the comparison: one worker shape, one kind of work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastq.bench.marks import Board
from fastq.bench.node import Node
from fastq.bench.place import Place
from fastq.bench.shapes import Shape, Work
from fastq.bench.stats import percentile, round_up
from fastq.bench.trial import Drained, drain, latencies
from fastq.exceptions import FastQError

__all__ = ["Cell", "measure"]

#: tasks a second while latency is measured, at most: one producer can send several times as many
LATENCY_RATE = 200.0
#: the share of the measured tasks/s that the latency is measured under
LOAD = 0.5


@dataclass(frozen=True, slots=True)
class Cell:
    """The numbers of one cell; with ``error`` there are none."""

    pool: str
    concurrency: int
    work: str
    #: tasks counted, and in how many seconds
    tasks: int = 0
    seconds: float = 0.0
    per_s: float = 0.0
    #: from due to done under a steady load of ``load_per_s``
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    load_per_s: float = 0.0
    samples: int = 0
    #: CPU seconds of the worker's process tree per 1,000 tasks; of the broker where it is known
    cpu_s: float = 0.0
    broker_cpu_s: float | None = None
    pss_mib: float | None = None
    processes: int = 0
    start_s: float = 0.0
    lost: int = 0
    repeated: int = 0
    error: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        return self.pool, self.concurrency, self.work

    @property
    def label(self) -> str:
        return str(Shape(self.pool, self.concurrency))


def measure(place: Place, shape: Shape, work: Work, seconds: float, latency_s: float = 2.0) -> Cell:
    """Measure one cell: a pilot for the rate, then a drain of about ``seconds``, then single tasks for about ``latency_s``."""
    if shape.missing:
        return Cell(shape.pool, shape.concurrency, work.key, error=f"{shape.missing} is not installed")
    counted, timed = work.names(shape.pool)
    try:
        pilot = _pilot(place, shape, work, counted)
        # from 50 tasks on, or two per slot, a rate means something
        least = max(50, 2 * shape.slots)
        n = round_up(pilot.per_s * seconds, least)
        load = min(LATENCY_RATE, LOAD * pilot.per_s)
        samples = max(20, math.ceil(load * latency_s))
        place.fill(counted, [work.args(i) for i in range(n)])
        with Board(n, samples) as board, Node(place, shape, board) as node:
            drained = drain(place, node, board)
            waits = latencies(place, node, board, timed, work.ms, load)
    except FastQError as exc:
        return Cell(shape.pool, shape.concurrency, work.key, error=str(exc))
    broker = drained.broker_cpu_s
    return Cell(
        shape.pool,
        shape.concurrency,
        work.key,
        tasks=drained.tasks,
        seconds=drained.seconds,
        per_s=drained.per_s,
        p50_ms=percentile(waits, 0.5) * 1e3,
        p99_ms=percentile(waits, 0.99) * 1e3,
        load_per_s=load,
        samples=samples,
        cpu_s=drained.cpu_s / drained.tasks * 1e3,
        broker_cpu_s=None if broker is None else broker / drained.tasks * 1e3,
        pss_mib=drained.pss_mib,
        processes=drained.processes,
        start_s=drained.start_s,
        lost=drained.lost,
        repeated=drained.repeated,
    )


def _pilot(place: Place, shape: Shape, work: Work, task: str) -> Drained:
    """Drain a few tasks, to know how many a cell needs."""
    n = work.pilot(shape)
    place.fill(task, [work.args(i) for i in range(n)])
    with Board(n) as board, Node(place, shape, board) as node:
        drained = drain(place, node, board)
    if drained.tasks < n / 10:
        # all but done at the first look: the start tells nothing, the whole is at least a bound
        return Drained(drained.start_s, n, max(drained.seconds, 1e-3), 0.0, None, None, 0, 0, 0)
    return drained
