"""Sending: one by one, many in one call, from event loops."""

from __future__ import annotations

import asyncio
from typing import Any

from fastq.bench.tasks import Bench


def test_delay(benchmark: Any, bench: Bench) -> None:
    benchmark(bench.tasks["noop"].delay, 1)


def test_apply_async_with_options(benchmark: Any, bench: Bench) -> None:
    benchmark(bench.tasks["noop"].apply_async, (1,), priority=3, expires=3600, headers={"tenant": "a"})


def test_countdown(benchmark: Any, bench: Bench) -> None:
    benchmark(bench.tasks["noop"].apply_async, (1,), countdown=3600)


def test_delay_many_1000(benchmark: Any, bench: Bench) -> None:
    calls = [(i,) for i in range(1000)]
    results = benchmark(bench.tasks["noop"].delay_many, calls)
    assert len(results) == 1000


def test_adelay_100_at_once(benchmark: Any, bench: Bench) -> None:
    noop = bench.tasks["noop"]

    async def send() -> None:
        await asyncio.gather(*[noop.adelay(i) for i in range(100)])

    with asyncio.Runner() as runner:
        benchmark(lambda: runner.run(send()))
