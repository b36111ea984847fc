"""When periodic tasks run: ``crontab``, ``schedule`` (an interval), ``solar``, and what a schedule of one's own must do.

A configuration module imports this package, so it loads nothing but the standard library; ``solar`` loads ``ephem`` when one is
made.
"""

from __future__ import annotations

from fastq.schedules.base import BaseSchedule, schedstate
from fastq.schedules.crontab import crontab
from fastq.schedules.fields import ParseException, crontab_parser
from fastq.schedules.interval import maybe_schedule, schedule
from fastq.schedules.plain import from_plain, to_plain
from fastq.schedules.solar import solar

__all__ = [
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "from_plain",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
    "to_plain",
]
