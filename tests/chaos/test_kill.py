"""kill -9 in the middle of 500 tasks: every task runs, counted by effect."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.integration.conftest import ran
from tests.workers import POOLS, Worker, eventually

#: every kill so many times on each pool: ``make chaos`` asks for ten
ROUNDS = int(os.environ.get("FASTQ_CHAOS_ROUNDS") or 1)
TASKS = 500
LEASE_S = 2.0


def slots(pool: str) -> str:
    return {"prefork": "2", "solo": "1"}.get(pool, "10")


@pytest.mark.parametrize("pool", ROUNDS * [p for p in POOLS if p != "solo"])
def test_killed_child_loses_nothing_and_its_tasks_run_within_a_second(
    pool: str, tasks: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", pool, "-c", slots(pool), "-l", "INFO").wait_ready() as worker:
        tasks.work.delay_many([(i, 5) for i in range(TASKS)])
        eventually(lambda: len(ran(folder, "work-")) >= TASKS // 10, "a tenth of the tasks")
        victim = worker.pool_pids()[0]
        before = len(ran(folder, "work-"))
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        eventually(lambda: len(ran(folder, "work-")) > before + 20, "work going on", every_s=0.005)
        resumed = time.monotonic() - killed
        eventually(
            lambda: set(ran(folder, "work-")) == {f"work-{i}" for i in range(TASKS)}, lambda: f"all tasks run\n{worker.log[-2000:]}"
        )
        print(f"{pool}: going on {resumed * 1000:.0f} ms after the kill")
        assert resumed < (6 if pool in ("gevent", "eventlet") else 3), "a second is promised on an idle machine"
    assert len(ran(folder, "work-")) <= TASKS + 2 * 10, "only what ran at the kill may have run twice"


@pytest.mark.parametrize("pool", ROUNDS * POOLS)
def test_killed_worker_loses_nothing(pool: str, tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", slots(pool), "-l", "INFO").wait_ready() as first:
        tasks.work.delay_many([(i, 5) for i in range(TASKS)])
        eventually(lambda: len(ran(folder, "work-")) >= TASKS // 10, "a tenth of the tasks")
        first.kill_all()
    done = set(ran(folder, "work-"))
    assert len(done) < TASKS, "the kill came too late to prove anything"
    killed = time.monotonic()
    with Worker(tmp_path, "-P", pool, "-c", slots(pool), "-l", "INFO").wait_ready() as second:
        eventually(
            lambda: set(ran(folder, "work-")) == {f"work-{i}" for i in range(TASKS)}, lambda: f"all tasks run\n{second.log[-2000:]}"
        )
    print(f"{pool}: all run {time.monotonic() - killed:.1f} s after the kill (lease {LEASE_S:g} s)")
    assert len(ran(folder, "work-")) <= TASKS + 2 * 10, "only what ran at the kill may have run twice"
