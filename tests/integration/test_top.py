"""``fastq top --once`` of a real node: what is on the screen is so."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.integration.conftest import ran
from tests.workers import Worker, eventually


@pytest.fixture
def broker_url(redis_url: str) -> str:
    return redis_url


def test_top_shows_nodes_queues_tasks_and_what_runs(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", "threads", "-c", "2", "-n", "w1@h").wait_ready():
        assert [tasks.add.delay(n, 1).get(timeout=60) for n in range(5)] == [1, 2, 3, 4, 5]
        running = tasks.hold.delay("gate")
        eventually(lambda: ran(folder, "holding-gate"), "the task runs")
        tasks.app.control.pause_queue("mail")
        tasks.add.apply_async((1, 1), queue="mail")
        tasks.add.apply_async((1, 1), countdown=1000)
        done = Worker.command(tmp_path, "top", "--once")
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines()]
        assert done.stdout.startswith("1 node, 1 of 2 slots busy")
        assert next(row for row in rows if row[:1] == ["w1@h"])[:5] == ["w1@h", "running", "threads", "x1", "2"]
        assert ["default", "0", "1", "1", "0", "1"] in rows and ["mail", "1", "0", "0", "0", "0", "PAUSED"] in rows
        assert next(row for row in rows if row[:1] == ["tasks.add"])[-2:] == ["5", "0"]
        assert next(row for row in rows if running.id in row)[1:4] == ["tasks.hold", running.id, "w1@h"]
        (folder / "gate").touch()
        assert running.get(timeout=60) == "gate"
