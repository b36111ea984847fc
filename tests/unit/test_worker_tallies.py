"""Every way in which a task can end is counted as what it is, in a worker that really runs it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from fastq import FastQ
from fastq.exceptions import FastQError, Ignore, Reject
from fastq.testing import start_worker
from fastq.worker.tallies import Tallies, Totals
from tests.workers import eventually


@pytest.fixture
def app() -> FastQ:
    url = f"memory://{uuid.uuid4().hex}"
    app = FastQ("tests", broker=url, backend=url, set_as_current=False)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def fail() -> None:
        raise ValueError

    @app.task(bind=True, max_retries=3)
    def retried(self: Any, **options: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0, **options)
        return int(self.request.retries)

    @app.task
    def ignored() -> None:
        raise Ignore

    @app.task(ignore_result=True)
    def rejected() -> None:
        raise Reject("no")

    @app.task(bind=True)
    def requeued(self: Any) -> int:
        if not self.request.delivery_info.get("redelivered"):
            raise Reject("once more", requeue=True)
        return 1

    @app.task(bind=True)
    def replaced(self: Any) -> None:
        raise self.replace(add.s(1, 1))

    return app


def test_every_end_of_a_task_is_counted_as_what_it_is(app: FastQ) -> None:
    with start_worker(app, pool="threads", queues="default,other") as worker:
        for result in (
            _task(app, "add").delay(1, 1),
            _task(app, "retried").delay(),
            _task(app, "retried").delay(queue="other"),
            _task(app, "requeued").delay(),
            _task(app, "replaced").delay(),
        ):
            result.get(timeout=20)
        refused = [_task(app, "fail").delay(), _task(app, "add").apply_async((1, 1), expires=-1), app.send_task("tests.unknown")]
        for result in refused:
            with pytest.raises((ValueError, FastQError)):
                result.get(timeout=20)
        _task(app, "ignored").delay()
        _task(app, "rejected").delay()
        tallies = Tallies(worker._board.tallies)
        eventually(lambda: _ends(tallies.totals(), "ignored") and _ends(tallies.totals(), "rejected"), "all have ended", 20)
        totals = tallies.totals()
    assert _ends(totals, "add") == {"succeeded": 2, "expired": 1}
    assert _ends(totals, "fail") == {"failed": 1}
    assert _ends(totals, "retried") == {"succeeded": 2, "retried": 4}
    assert _ends(totals, "ignored") == {"ignored": 1}
    assert _ends(totals, "rejected") == {"rejected": 1}
    assert _ends(totals, "requeued") == {"succeeded": 1, "returned": 1}
    assert _ends(totals, "replaced") == {"ignored": 1}
    assert _ends(totals, "(unregistered)") == {"failed": 1}
    started = sum(queue.started for queue in totals.queues.values())
    assert started == sum(task.ran for task in totals.tasks.values())
    assert totals.queues["other"].started == 2
    count, mean_s = totals.wait_since(Totals())
    assert count == started - 1  # the requeued one does not know since when
    assert 0 <= mean_s < 5


def _task(app: FastQ, name: str) -> Any:
    return next(task for full, task in app.tasks.items() if full.rpartition(".")[2] == name)


def _ends(totals: Totals, name: str) -> dict[str, int]:
    found = {full: task for full, task in totals.tasks.items() if full.rpartition(".")[2] == name}
    return {outcome: n for task in found.values() for outcome, n in task.outcomes.items() if n}
