"""Fixtures of the pytest-benchmark cases: a private Redis, an application that sends to it, a worker.

python -m pytest benchmarks --benchmark-only
python -m pytest benchmarks --benchmark-only --benchmark-autosave; ... --benchmark-compare
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from places import RedisPlace, SqlitePlace

from fastq.bench.node import Node
from fastq.bench.shapes import Shape
from fastq.bench.tasks import Bench


@pytest.fixture(scope="module", params=["redis", "sqlite"])
def place(request: pytest.FixtureRequest) -> Iterator[RedisPlace | SqlitePlace]:
    """A broker of its own for each module, empty."""
    made = RedisPlace() if request.param == "redis" else SqlitePlace()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def bench(place: RedisPlace | SqlitePlace) -> Iterator[Bench]:
    """An application whose connection is open."""
    with place.producer() as made:
        made.tasks["noop"].apply_async((0,), queue="elsewhere")
        yield made


@pytest.fixture(scope="module")
def worker(place: RedisPlace | SqlitePlace, bench: Bench) -> Iterator[Node]:
    """A worker that has run a task."""
    with Node(place, Shape("prefork", 1)) as node:
        bench.tasks["noop"].delay(0).get(timeout=30)
        yield node
