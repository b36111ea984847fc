"""The numbers of one node, for Prometheus. Read when they are asked for: what is counted anyway is in shared memory.

Only this module imports the client library, and it is imported by the first scrape.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from fastq import __version__
from fastq._core import OUTCOMES, RUNTIME_BOUNDS_S, WAIT_BOUNDS_S
from fastq.worker.http.pages import unready
from fastq.worker.http.usage import usage_of

if TYPE_CHECKING:
    from fastq.worker.node import Node, WorkerProcess

__all__ = ["Metrics"]

#: why a process was replaced, see ``Children``; all are shown from the start, so that the first one is an increase
_RESTARTS = ("died", "recycled", "revoked", "stopped", "time-limit")


class Metrics:
    """Write all numbers of one node."""

    def __init__(self, node: Node) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_NodeCollector(node))

    def write(self, accept: str) -> tuple[bytes, str]:
        """Return the text in the format that the header Accept asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _NodeCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def describe(self) -> Iterator[Metric]:
        """Name nothing ahead: the node may not be complete yet when this is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield from self._counted()
        processes = self._node.processes()
        yield from self._state(processes)
        yield from self._broker()
        yield from _used(processes)

    def _counted(self) -> Iterator[Metric]:
        totals = self._node.tallies.totals()
        tasks = CounterMetricFamily("fastq_tasks", "Tasks that have ended here, by how.", labels=("task", "outcome"))
        runtime = HistogramMetricFamily("fastq_task_runtime_seconds", "How long runs took.", labels=("task",))
        for name, task in totals.tasks.items():
            for outcome in OUTCOMES:
                tasks.add_metric((name, outcome), task.outcomes[outcome])
            runtime.add_metric((name,), _buckets(RUNTIME_BOUNDS_S, task.runtimes), task.runtime_s)
        yield tasks
        yield runtime
        started = CounterMetricFamily("fastq_tasks_started", "Runs that have begun, by queue.", labels=("queue",))
        wait = HistogramMetricFamily(
            "fastq_queue_wait_seconds", "From when a task was sent or became due until its run began.", labels=("queue",)
        )
        for name, queue in totals.queues.items():
            started.add_metric((name,), queue.started)
            wait.add_metric((name,), _buckets(WAIT_BOUNDS_S, queue.waits), queue.wait_s)
        yield started
        yield wait
        yield CounterMetricFamily("fastq_given_back", "Deliveries that went back to their queues unstarted.", totals.given_back)
        yield CounterMetricFamily("fastq_fenced", "Outcomes that changed nothing: the lease had been taken away.", totals.fenced)

    def _state(self, processes: Sequence[WorkerProcess]) -> Iterator[Metric]:
        node, hello = self._node, self._node.hello
        yield InfoMetricFamily(
            "fastq_node",
            "Which node this is.",
            {"node": node.name, "host": socket.gethostname(), "pool": hello.pool, "version": __version__, "pid": str(os.getpid())},
        )
        yield GaugeMetricFamily("fastq_node_start_time_seconds", "When the node began, Unix time.", node.started_at)
        yield GaugeMetricFamily("fastq_node_ready", "1 if /ready answers 200.", int(not unready(node)))
        running = sum(process.ready for process in processes)
        yield GaugeMetricFamily("fastq_processes", "Worker processes that take tasks.", running)
        yield GaugeMetricFamily("fastq_processes_wanted", "Worker processes that there should be.", node.wanted)
        restarts = CounterMetricFamily("fastq_process_restarts", "Processes that were replaced, by reason.", labels=("reason",))
        for reason in sorted({*_RESTARTS, *node.restarts}):
            restarts.add_metric((reason,), node.restarts.get(reason, 0))
        yield restarts
        busy = sum(len(process.board.active()) for process in processes)
        total = node.steering.capacity.slots * len(processes)
        slots = GaugeMetricFamily("fastq_slots", "Slots, by whether they run a task now.", labels=("state",))
        slots.add_metric(("busy",), busy)
        slots.add_metric(("free",), max(0, total - busy))
        yield slots
        yield GaugeMetricFamily("fastq_slots_busy", "Slots that run a task now.", busy)

    def _broker(self) -> Iterator[Metric]:
        node = self._node
        yield GaugeMetricFamily("fastq_broker_reachable", "1 if the broker has answered the last call.", int(_reached(node)))
        yield GaugeMetricFamily("fastq_lease_seconds", "How long a lease lasts without being renewed.", node.hello.lease_ms / 1000)
        if node.renewed_s:
            age_s = time.monotonic() - node.renewed_s
            yield GaugeMetricFamily("fastq_lease_age_seconds", "Time since the leases were last renewed.", age_s)


def _reached(node: Node) -> bool:
    return bool(node.renewed_s) and node.reachable


def _used(processes: Sequence[WorkerProcess]) -> Iterator[Metric]:
    cpu = CounterMetricFamily("fastq_process_cpu_seconds", "CPU time used, by process.", labels=("process",))
    rss = GaugeMetricFamily("fastq_process_resident_memory_bytes", "Memory in RAM, by process.", labels=("process",))
    for title, pid in (("supervisor", os.getpid()), *((process.title, process.pid) for process in processes if process.pid)):
        usage = usage_of(pid)
        if usage is not None:
            cpu.add_metric((title,), usage.cpu_s)
            rss.add_metric((title,), usage.rss_bytes)
    yield cpu
    yield rss


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus counts them: each with all that is shorter."""
    names = [*map(floatToGoString, bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))
