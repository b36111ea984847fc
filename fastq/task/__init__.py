"""Tasks: ``options`` says what a task may say about itself, ``task`` is what is sent and called."""

from __future__ import annotations

from fastq.context import Context
from fastq.running import current, directly_called
from fastq.task.task import CoroutineTask, Task

__all__ = ["Context", "CoroutineTask", "Task", "current", "directly_called"]
