"""While the broker is away a worker keeps what it cannot report, starts nothing more, and does not grow."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.integration.conftest import ran
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.workers import Worker, eventually

SLOTS = 500


@pytest.fixture
def broker_url(redis_url: str) -> str:
    return redis_url


def resident_kib(pids: list[int]) -> int:
    lines = [line for pid in pids for line in Path("/proc", str(pid), "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_outcomes_are_kept_and_nothing_is_started_while_the_broker_is_away(
    tasks: ModuleType, folder: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    with (
        Proxy(redis_server.port) as proxy,
        Worker(tmp_path, "-P", "gevent", "-c", str(SLOTS), env={"TEST_BROKER": proxy.url}).wait_ready() as worker,
    ):
        results = [tasks.wait_for.delay("gate") for _ in range(SLOTS)]
        eventually(lambda: len(ran(folder, "waiting-gate")) == SLOTS, "all slots busy", every_s=0.1)
        later = [tasks.mark.delay(f"later-{i}") for i in range(1_000)]
        before = resident_kib(worker.pool_pids())
        proxy.refusing = True
        proxy.cut()
        (folder / "gate").touch()
        eventually(lambda: len(ran(folder, "waited-gate")) == SLOTS, "all outcomes waiting", every_s=0.1)
        time.sleep(1)
        assert resident_kib(worker.pool_pids()) - before < 20 * 1024
        assert ran(folder, "later-") == [], "started while no outcome could be reported"
        proxy.refusing = False
        assert [result.get(timeout=60) for result in results] == ["gate"] * SLOTS
        assert [result.get(timeout=60) for result in later] == [f"later-{i}" for i in range(1_000)]
        assert len(ran(folder, "waited-gate")) == SLOTS
        assert len(ran(folder, "later-")) == 1_000
        assert worker.terminate() == 0, worker.log


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_process_that_dies_while_the_broker_is_away_is_buried_when_it_is_back(
    pool: str, tasks: ModuleType, folder: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """The supervisor keeps what it knows of the dead until the broker answers; the task then runs again, and is charged once."""
    with (
        Proxy(redis_server.port) as proxy,
        Worker(tmp_path, "-P", pool, "-c", "1", env={"TEST_BROKER": proxy.url}).wait_ready() as worker,
    ):
        result = tasks.wait_for.delay("gate")
        eventually(lambda: ran(folder, "waiting-gate"), "the task running")
        proxy.refusing = True
        proxy.cut()
        worker.wait_log("Lost the broker")
        (pid,) = worker.pool_pids()
        os.kill(pid, signal.SIGKILL)
        worker.wait_log(f"pid:{pid} exited")
        proxy.refusing = False
        eventually(lambda: len(ran(folder, "waiting-gate")) == 2, lambda: f"it runs again:\n{worker.log}")
        (folder / "gate").touch()
        assert result.get(timeout=60) == "gate"
        assert ran(folder, "waited-gate") == ["waited-gate"]
        assert worker.terminate() == 0, worker.log


@pytest.mark.parametrize("pool", ["prefork", "gevent", "solo"])
def test_a_worker_that_is_stopped_while_the_broker_is_away_ends_and_its_outcome_is_not_lost(
    pool: str, tasks: ModuleType, folder: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Nobody takes its report, so it gives up after a while; the task runs again elsewhere."""
    with Proxy(redis_server.port) as proxy:
        worker = Worker(tmp_path, "-P", pool, "-c", "1", env={"TEST_BROKER": proxy.url}).wait_ready()
        with worker:
            result = tasks.wait_for.delay("gate")
            eventually(lambda: ran(folder, "waiting-gate"), "the task running")
            proxy.refusing = True
            proxy.cut()
            os.kill(worker.pid, signal.SIGTERM)
            (folder / "gate").touch()
            worker.process.wait(60)
            assert len(ran(folder, "waited-gate")) == 1
        proxy.refusing = False
        with Worker(tmp_path, "-P", pool, "-c", "1", env={"TEST_BROKER": proxy.url}):
            assert result.get(timeout=60) == "gate"
        assert len(ran(folder, "waited-gate")) == 2
