"""What runs here: the delivery, and a task called like a function."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.task import Context

__all__ = ["current", "directly_called"]

#: the delivery that runs here; set by the core around each run
current: ContextVar[Delivery | None] = ContextVar("fastq_current", default=None)

#: the request of a task that was called like a function, where it runs
directly_called: ContextVar[Context | None] = ContextVar("fastq_directly_called", default=None)
