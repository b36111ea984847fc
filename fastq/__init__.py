"""A distributed task queue for Python: Celery's programming model, a compiled core, no lost tasks.

from fastq import FastQ

app = FastQ("tasks", broker="redis://localhost", backend="redis://localhost")

@app.task
def add(x: int, y: int) -> int:
    return x + y

add.delay(2, 2).get(timeout=5)
"""

from __future__ import annotations

from fastq.app import FastQ
from fastq.result import AsyncResult, ResultSet
from fastq.shared import current_app, current_task, shared_task
from fastq.task import Task

__version__ = "0.1.0"

__all__ = ["AsyncResult", "FastQ", "ResultSet", "Task", "__version__", "current_app", "current_task", "shared_task"]
