"""Revoking with real workers: before a task starts, while it waits for its time, within a workflow, and while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fastq import chord
from fastq.exceptions import ChordError, TaskRevokedError
from tests.integration.conftest import ran
from tests.workers import Worker, eventually


@pytest.fixture
def worker(tasks: ModuleType, tmp_path: Path) -> Iterator[Worker]:
    with Worker(tmp_path, "-P", "threads", "-c", "1", "-l", "INFO").wait_ready() as worker:
        yield worker


def test_what_was_revoked_while_no_worker_was_online_never_runs(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    waiting, late = tasks.mark.delay("waiting"), tasks.mark.apply_async(("late",), countdown=1)
    coming = tasks.app.AsyncResult("coming")
    for result in (waiting, late, coming):
        result.revoke()
        assert result.state == "REVOKED"
    tasks.mark.apply_async(("coming",), task_id="coming")
    after = tasks.mark.apply_async(("after",), countdown=2)
    with Worker(tmp_path, "-P", "prefork", "-c", "1", "-l", "INFO").wait_ready() as worker:
        assert after.get(timeout=30) == "after"
        worker.wait_log("Discarding revoked task: tasks.mark[coming]")
        with pytest.raises(TaskRevokedError):
            coming.get(timeout=30)
    assert [name for name in ran(folder, "") if name in ("waiting", "late", "coming", "after")] == ["after"]


def test_a_running_worker_hears_of_it(tasks: ModuleType, worker: Worker, folder: Path) -> None:
    running = tasks.hold.delay("gate")
    eventually(lambda: ran(folder, "holding-gate"), "the task to start")
    behind = [tasks.mark.delay(f"behind-{i}") for i in range(3)]
    behind[1].revoke()
    running.revoke()
    assert running.state == "PENDING"
    (folder / "gate").touch()
    assert running.get(timeout=30) == "gate"
    assert [behind[0].get(timeout=30), behind[2].get(timeout=30)] == ["behind-0", "behind-2"]
    with pytest.raises(TaskRevokedError):
        behind[1].get(timeout=30)
    assert ran(folder, "behind-") == ["behind-0", "behind-2"]


def test_a_started_task_keeps_its_state(tasks: ModuleType, worker: Worker, folder: Path) -> None:
    result = tasks.tracked.delay("gate")
    eventually(lambda: result.state == "STARTED", "the task to start")
    result.revoke()
    assert result.state == "STARTED"
    (folder / "gate").touch()
    assert result.get(timeout=30) == "done"


def test_the_body_of_a_chord_hears_of_a_revoked_member(tasks: ModuleType, worker: Worker) -> None:
    running = tasks.hold.delay("gate")
    body = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)])(tasks.add.s(1))
    body.parent[0].revoke()
    with pytest.raises(TaskRevokedError):
        body.parent[0].get(timeout=30)
    Path(tasks.FOLDER, "gate").touch()
    assert running.get(timeout=30) == "gate"
    with pytest.raises(ChordError):
        body.get(timeout=30, follow_parents=False)
