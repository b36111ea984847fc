"""Run what is queued, here and now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastq.testing.worker import InProcessWorker

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["drain"]


def drain(app: FastQ, queues: Iterable[str] | str | None = None, *, loglevel: int | str | None = None) -> int:
    """Run what is queued, and what that starts, one task after the other in the calling thread; return how many runs it took.

    For tests without a worker in the background: tasks see the thread, the transaction and the debugger of the test. They go the
    way through the broker all the same (arguments are encoded, results stored, workflows go on). What is due later stays: see
    ``Clock``. ``queues``: None for those that ``fastq worker`` would take without ``-Q``. What a task raises is its result, as
    everywhere.
    """
    return InProcessWorker(app, pool="solo", queues=queues, loglevel=loglevel, until_quiet=True).run_here()
