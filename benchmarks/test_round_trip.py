"""delay() and get() through a worker that waits."""

from __future__ import annotations

from typing import Any

from fastq.bench.node import Node
from fastq.bench.tasks import Bench


def test_round_trip(benchmark: Any, bench: Bench, worker: Node) -> None:
    noop = bench.tasks["noop"]
    assert benchmark(lambda: noop.delay(7).get(timeout=10)) == 7


def test_1000_results(benchmark: Any, bench: Bench, worker: Node) -> None:
    noop, calls = bench.tasks["noop"], [(i,) for i in range(1000)]

    def send_and_get() -> list[int]:
        return [result.get(timeout=30) for result in noop.delay_many(calls)]

    assert benchmark(send_and_get) == list(range(1000))
