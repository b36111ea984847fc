"""The tasks that are measured: nothing, CPU, waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastq import FastQ
from fastq.bench.marks import open_marks

__all__ = ["ENV", "Bench", "build", "burn"]

#: environment variable for a worker, a JSON object: broker, backend (null: no results), conf (settings by name)
ENV = "FASTQ_BENCH_APP"

#: rounds of the burning loop between two looks at the clock (about 10 us)
_ROUNDS = 200


def burn(ms: float) -> None:
    """Use the CPU for that long, holding the GIL: this thread's own CPU time, so waiting for a core or the GIL does not count."""
    until = time.thread_time() + ms / 1000
    x = 1
    while time.thread_time() < until:
        for _ in range(_ROUNDS):
            x = x * 1103515245 + 12345 & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Bench:
    """An application and its tasks. The first argument of a task is its number on the board (workflow tasks have none)."""

    app: FastQ
    tasks: Mapping[str, Any]


def build(broker: str, backend: str | None, conf: Mapping[str, Any] | None = None, marks: str | None = None) -> Bench:
    """Make the application; ``marks`` is the board's path in a worker, None in a producer."""
    app = FastQ("fastq-bench", broker=broker, backend=backend)
    for name, value in (conf or {}).items():
        setattr(app.conf, name, value)
    begin, end = open_marks(marks)

    @app.task(name="bench.noop")
    def noop(i: int) -> int:
        end(i)
        return i

    @app.task(name="bench.add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="bench.total")
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(name="bench.stamp")
    def stamp(i: int) -> int:
        begin(i)
        end(i)
        return i

    @app.task(name="bench.cpu")
    def cpu(i: int, ms: float) -> int:
        begin(i)
        burn(ms)
        end(i)
        return i

    @app.task(name="bench.wait")
    def wait(i: int, ms: float) -> int:
        begin(i)
        time.sleep(ms / 1000)
        end(i)
        return i

    @app.task(name="bench.async_wait")
    async def async_wait(i: int, ms: float) -> int:
        begin(i)
        await asyncio.sleep(ms / 1000)
        end(i)
        return i

    tasks = {"noop": noop, "add": add, "total": total, "stamp": stamp, "cpu": cpu, "wait": wait, "async_wait": async_wait}
    return Bench(app, tasks)
