"""Real workers, started from the command line, on every pool and both brokers that processes share."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import ModuleType

import pytest

from fastq.exceptions import FastQError
from tests.integration.conftest import ran
from tests.workers import POOLS, Worker, eventually

pytestmark = pytest.mark.parametrize("pool", POOLS)


def test_tasks_run_and_return(pool: str, tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO").wait_ready() as worker:
        assert tasks.add.delay(2, 3).get(timeout=30) == 5
        assert [r.get(timeout=30) for r in tasks.add.delay_many([(i, i) for i in range(300)])] == [2 * i for i in range(300)]
        assert [r.get(timeout=30) for r in [tasks.async_add.delay(i, 1) for i in range(20)]] == list(range(1, 21))
        result = tasks.who.delay()
        assert result.get(timeout=30)[:2] == [result.id, "tasks.who"]
        assert tasks.add.apply_async((1, 1), countdown=0.2).get(timeout=30) == 2
        tasks.say.delay("hello from a task").get(timeout=30)
        worker.wait_log("hello from a task")
        worker.wait_log(f"Task tasks.who[{result.id}] received")
        worker.wait_log(f"Task tasks.who[{result.id}] succeeded in ")
        assert worker.terminate() == 0
        assert "Warm shutdown" in worker.log
        assert "Traceback" not in worker.log


def test_bad_tasks_end_in_clear_errors_and_the_worker_goes_on(pool: str, tasks: ModuleType, tmp_path: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO").wait_ready() as worker:
        with pytest.raises(ValueError, match="broken on purpose") as caught:
            tasks.fail.delay("broken on purpose").get(timeout=30)
        assert 'raise ValueError(text)' in str(caught.value.__cause__)
        with pytest.raises(FastQError, match="object"):
            tasks.unserializable.delay().get(timeout=30)
        with pytest.raises(FastQError, match="result_max_bytes"):
            tasks.large.delay(64 * 1024 * 1024).get(timeout=30)
        with pytest.raises(FastQError, match=r"no\.such\.task"):
            tasks.app.send_task("no.such.task").get(timeout=30)
        worker.wait_log("raised unexpected: ValueError('broken on purpose')")
        worker.wait_log("Received unregistered task of type 'no.such.task'")
        assert tasks.add.delay(1, 1).get(timeout=30) == 2


def test_stopping_finishes_what_runs_and_gives_back_the_rest(pool: str, tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    slots = 1 if pool == "solo" else 2
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO").wait_ready() as worker:
        running = [tasks.wait_for.delay(f"gate-{i}") for i in range(slots)]
        if pool == "asyncio":
            # plain functions run on the loop's own thread, one at a time
            slots = 1
        eventually(lambda: len(ran(folder, "waiting-")) == slots, "tasks running")
        waiting = [tasks.mark.delay(f"later-{i}") for i in range(20)]
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait_log("Warm shutdown")
        for i in range(len(running)):
            (folder / f"gate-{i}").touch()
        assert worker.process.wait(60) == 0, worker.log
        assert set(ran(folder, "waited-")) >= {f"waited-gate-{i}" for i in range(slots)}
    with Worker(tmp_path, "-P", pool, "-c", "2").wait_ready():
        assert [r.get(timeout=30) for r in waiting] == [f"later-{i}" for i in range(20)]
        assert [r.get(timeout=30) for r in running] == [f"gate-{i}" for i in range(len(running))]
    assert ran(folder, "later-") == sorted(f"later-{i}" for i in range(20)), "each exactly once"
