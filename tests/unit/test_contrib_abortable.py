"""Laws of tasks that can be asked to stop."""

from __future__ import annotations

import secrets
import threading

from fastq import FastQ
from fastq.contrib.abortable import ABORTED, AbortableAsyncResult, AbortableTask
from fastq.testing import start_worker


def test_a_task_that_looks_is_stopped_and_its_result_is_what_it_returns() -> None:
    app = FastQ("abort", broker=f"memory://{secrets.token_hex(4)}", set_as_current=False)
    begun, asked = threading.Event(), threading.Event()

    @app.task(bind=True, base=AbortableTask, name="abort.crunch")
    def crunch(self: AbortableTask[..., str]) -> str:
        assert not self.is_aborted()
        begun.set()
        assert asked.wait(20)
        return "stopped early" if self.is_aborted() else "done"

    with start_worker(app):
        result = crunch.delay()
        assert isinstance(result, AbortableAsyncResult)
        assert begun.wait(20)
        result.abort()
        assert result.state == ABORTED
        assert result.is_aborted()
        assert crunch.AsyncResult(result.id).is_aborted()
        asked.set()
        assert result.get(timeout=20) == "stopped early"
        result.abort()
        assert result.state == "SUCCESS"
