"""The embedded broker's file: locked by another program, removed and replaced under a running worker."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.integration.conftest import ran
from tests.workers import Worker, eventually


@pytest.fixture
def broker_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'fastq.db'}"


@pytest.mark.parametrize("pool", ["prefork", "gevent", "solo"])
def test_a_file_that_is_locked_for_a_while_costs_nothing(pool: str, tasks: ModuleType, folder: Path, tmp_path: Path) -> None:
    """Another program holds the write lock for longer than two leases. Nobody can renew, fetch, settle or publish meanwhile."""
    with Worker(tmp_path, "-P", pool, "-c", "2" if pool != "solo" else "1").wait_ready() as worker:
        before = worker.pool_pids()
        results = [tasks.work.delay(i, 30) for i in range(40)]
        eventually(lambda: ran(folder, "work-"), "the first task has run")
        with sqlite3.connect(tmp_path / "fastq.db", isolation_level=None, timeout=30) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(5)
            other.execute("ROLLBACK")
        other.close()
        assert [result.get(timeout=60) for result in results] == list(range(40))
        assert ran(folder, "work-") == sorted(f"work-{i}" for i in range(40))
        assert worker.pool_pids() == before
        assert "Traceback" not in worker.log
        assert tasks.add.delay(1, 2).get(timeout=60) == 3
        assert worker.terminate() == 0, worker.log


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_worker_goes_over_to_the_file_that_is_there_and_says_so(
    how: str, tasks: ModuleType, folder: Path, tmp_path: Path
) -> None:
    """Whoever kept the old file open would share nothing with those who open the new one, and not notice."""
    with Worker(tmp_path, "-P", "threads", "-c", "2").wait_ready() as worker:
        assert tasks.add.delay(1, 2).get(timeout=60) == 3
        tasks.app.close()
        for path in (tmp_path / "fastq.db", tmp_path / "fastq.db-wal", tmp_path / "fastq.db-shm"):
            if how == "removed":
                path.unlink(missing_ok=True)
            elif path.exists():
                path.rename(tmp_path / f"old-{path.name}")
        assert tasks.add.delay(3, 4).get(timeout=60) == 7
        worker.wait_log("was removed or replaced")
        assert worker.terminate() == 0, worker.log
