"""One worker, one measurement: drain a filled queue, then watch single tasks under a steady load."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastq.bench import proctree
from fastq.bench.marks import Board
from fastq.bench.node import START_S, Node
from fastq.bench.place import BorrowedPlace, Place

__all__ = ["Drained", "drain", "latencies"]


@dataclass(frozen=True, slots=True)
class Drained:
    """What draining a queue took."""

    #: from the start of the command to the first completed task
    start_s: float
    #: tasks completed while the clock ran: those seen at its first look are not among them
    tasks: int
    seconds: float
    #: CPU of the worker's process tree in that time
    cpu_s: float
    #: CPU of the broker in that time, where it is known
    broker_cpu_s: float | None
    #: the tree afterwards, still alive
    pss_mib: float | None
    processes: int
    #: tasks that never completed, that the broker still held at the end, or (of a sample) whose result was not stored
    lost: int
    repeated: int

    @property
    def per_s(self) -> float:
        return self.tasks / self.seconds


def drain(place: Place, node: Node, board: Board, within_s: float = 120.0) -> Drained:
    """Wait until the worker has run everything that the place was filled with and the broker holds nothing more."""
    n = board.counted
    begun = node.wait_for(board.finished, "the first task", START_S)
    first = board.finished()
    begun_cpu, begun_broker = proctree.cpu_s(node.tree()), place.cpu_s()
    node.wait_for(lambda: board.finished() >= n, f"{n} tasks", within_s, every_s=0.005)
    ended = time.perf_counter()
    deadline = ended + 10
    while True:
        # before asking: the asking takes time too
        ended = time.perf_counter()
        pending = place.pending()
        if not pending or ended > deadline:
            break
        time.sleep(0.002)
    pids = node.tree()
    broker = place.cpu_s()
    lost, repeated = board.lost_and_repeated()
    return Drained(
        start_s=begun - node.spawned_at,
        tasks=n - first,
        seconds=ended - begun,
        cpu_s=proctree.cpu_s(pids) - begun_cpu,
        broker_cpu_s=None if broker is None or begun_broker is None else broker - begun_broker,
        pss_mib=proctree.pss_mib(pids),
        processes=len(pids),
        lost=lost + pending + _without_result(place),
        repeated=repeated,
    )


def _without_result(place: Place) -> int:
    """Return how many of the place's sample have no stored result."""
    if place.backend_url is None:
        return 0
    with place.producer() as bench:
        backend = bench.app.open_backend()
        assert backend is not None, "a backend's URL was given"
        try:
            return list(backend.get(place.sample)).count(None)
        finally:
            backend.close()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out: this process has filled the queue before, which is no task's latency."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def latencies(place: Place, node: Node, board: Board, task: str, ms: float | None, per_s: float) -> list[float]:
    """Send the board's timed tasks one by one at a steady rate; return for each the seconds from when it was due to be sent
    to its last step.

    Due, not sent: a producer or worker that stands still for a moment delays every task of that moment, not one (known as
    coordinated omission).
    """
    due: list[int] = []
    with place.producer() as bench:
        call = bench.tasks[task].apply_async
        bench.app.producer.now_ms()  # connects: the client library's import and the handshake are no task's latency
        ids = []
        every_ns = int(1e9 / per_s)
        with _no_collection():
            at = time.monotonic_ns() + 50_000_000
            for i in range(board.timed):
                wait_ns = at - time.monotonic_ns()
                if wait_ns > 0:
                    time.sleep(wait_ns / 1e9)
                due.append(at)
                number = board.counted + i
                ids.append(call((number,) if ms is None else (number, ms), queue=place.queue).id)
                at += every_ns
    if isinstance(place, BorrowedPlace):
        place.sent(ids)
    node.wait_for(lambda: board.finished_timed() >= board.timed, f"{board.timed} single tasks", 30.0, every_s=0.005)
    return [(board.stamps(i)[1] - due[i]) / 1e9 for i in range(board.timed)]
