"""Where Celery's tutorials import task loggers from; the code is in ``fastq.log``."""

from __future__ import annotations

from fastq.log import get_logger, get_task_logger

__all__ = ["get_logger", "get_task_logger"]
