"""A process that the broker does not answer, while it answers its supervisor: replaced once it has nothing in hand."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

from fastq.transports.redis.scripts import script
from tests.integration.conftest import ran
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.workers import Worker, eventually


@pytest.fixture
def broker_url(redis_url: str) -> str:
    return redis_url


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_process_that_cannot_reach_the_broker_is_replaced(
    pool: str, tasks: ModuleType, folder: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Whatever asks for tasks is swallowed; the supervisor's calls are not. It says so, replaces the process, and that goes on once
    calls are answered."""
    with (
        Proxy(redis_server.port) as proxy,
        Worker(tmp_path, "-P", pool, "-c", "1", env={"TEST_BROKER": proxy.url}).wait_ready() as worker,
    ):
        assert tasks.add.delay(1, 2).get(timeout=60) == 3
        before = worker.pool_pids()
        proxy.freeze(script("fetch").sha)
        waits = tasks.mark.delay("waits")
        worker.wait_log("replacing it")
        proxy.thaw()
        assert waits.get(timeout=60) == "waits"
        assert worker.pool_pids() != before
        assert ran(folder, "waits") == ["waits"]
        assert worker.terminate() == 0, worker.log


def test_a_process_that_runs_a_task_is_left_alone(
    tasks: ModuleType, folder: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """It has no way to report its outcome for longer than that; then it has, and the task ran once."""
    with (
        Proxy(redis_server.port) as proxy,
        Worker(tmp_path, "-P", "threads", "-c", "2", env={"TEST_BROKER": proxy.url}).wait_ready() as worker,
    ):
        runs = tasks.wait_for.delay("gate")
        eventually(lambda: ran(folder, "waiting-gate"), "the task running")
        before = worker.pool_pids()
        with redis_server.client() as client:
            silent = proxy.freeze(script("fetch").sha)
            assert silent == 1
            # the time in which it would be replaced, counted by what the supervisor does meanwhile: three renewals a lease
            renewals = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
            eventually(
                lambda: client.info("commandstats")["cmdstat_evalsha"]["calls"] > renewals + 24, "eight leases", deadline_s=120
            )
        (folder / "gate").touch()
        eventually(lambda: ran(folder, "waited-gate"), "the task's end")
        proxy.thaw()
        assert runs.get(timeout=60) == "gate"
        assert worker.pool_pids() == before and "replacing it" not in worker.log
        assert ran(folder, "waited-gate") == ["waited-gate"]
        assert os.listdir(folder)
