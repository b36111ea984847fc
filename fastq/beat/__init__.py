"""Periodic tasks: what sends them when they are due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastq.beat.entry import BeatLazyFunc, ScheduleEntry
    from fastq.beat.persistent import PersistentScheduler
    from fastq.beat.scheduler import Scheduler, SchedulingError

__all__ = ["BeatLazyFunc", "PersistentScheduler", "ScheduleEntry", "Scheduler", "SchedulingError"]

#: name -> module: imported at their first use
_LATER = {
    "BeatLazyFunc": "fastq.beat.entry",
    "PersistentScheduler": "fastq.beat.persistent",
    "ScheduleEntry": "fastq.beat.entry",
    "Scheduler": "fastq.beat.scheduler",
    "SchedulingError": "fastq.beat.scheduler",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib  # lazy: see _LATER

        value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return value
    raise AttributeError(f"module 'fastq.beat' has no attribute {name!r}")
