"""Random canvases through real workers: the distributed result is that of a direct evaluation, and every task runs once.

``FASTQ_CANVAS_EXAMPLES`` says how many canvases for each broker and pool, ``FASTQ_CANVAS_SEED`` which ones.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.canvas_site import Site, deploy, value_of
from tests.canvases import Direct, Shape, live_shapes, plain
from tests.servers import RedisServer
from tests.workers import eventually

EXAMPLES = int(os.environ.get("FASTQ_CANVAS_EXAMPLES") or 100)
SEED = int(os.environ.get("FASTQ_CANVAS_SEED") or 3)

#: pool and slots
POOLS = {"prefork": "2", "threads": "4"}


@pytest.fixture(scope="module", params=[(broker, pool) for broker in ("redis", "sqlite") for pool in POOLS], ids="-".join)
def site(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker for all examples."""
    broker, pool = request.param
    directory = tmp_path_factory.mktemp(f"{broker}-{pool}")
    url = f"sqlite:///{directory / 'fastq.db'}"
    if broker == "redis":
        with redis_server.client() as client:
            client.flushall()
        url = redis_server.url
    with deploy(directory, url) as site, site.worker("-P", pool, "-c", POOLS[pool], "-l", "INFO").wait_ready():
        yield site


def test_a_random_canvas_gives_what_a_direct_evaluation_gives_and_runs_each_task_once(site: Site) -> None:
    print(f"FASTQ_CANVAS_SEED={SEED} FASTQ_CANVAS_EXAMPLES={EXAMPLES}")
    expected_of: dict[str, tuple[Shape, Counter[str]]] = {}

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        # a canvas that went wrong once may have left something: smaller ones would not be told from it
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(shape=live_shapes, lazily=st.booleans(), args=st.lists(st.integers(-9, -1), max_size=2).map(tuple))
    def law(shape: Shape, lazily: bool, args: tuple[int, ...]) -> None:
        root = f"canvas-{len(expected_of)}"
        direct = Direct()
        value = direct.value(shape, args)
        expected = Counter(repr(run) for run in direct.runs)
        expected_of[root] = (shape, expected)
        result = site.send(shape, root, args, lazily=lazily)
        assert plain(value_of(result)) == plain(value)
        wanted = sum(expected.values())
        eventually(
            lambda: sum(site.counted(root).values()) >= wanted, lambda: f"all runs\n{expected - site.counted(root)}", every_s=0.003
        )

    law()
    site.wait_idle()
    print(f"{len(expected_of)} canvases, {len(site.runs())} runs")
    for root, (shape, expected) in expected_of.items():
        assert site.counted(root) == expected, shape
