"""Whether the periodic tasks of an application are sent from its timetable in the broker."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from fastq.beat.service import scheduler_class
from fastq.beat.shared import SharedScheduler
from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["sends_from_the_broker"]

#: seconds since the file of a schedule was written within which its beat is alive: it is written every 180 s
FILE_ALIVE_S = 600


def sends_from_the_broker(app: FastQ) -> bool:
    """Say whether a beat of this application is to send what its timetable says: not if it keeps its schedule in a file, by its
    settings or by the looks of the directory, or with a class of its own."""
    try:
        scheduler = scheduler_class(app.conf.beat_scheduler)
    except ImproperlyConfigured:  # beat says so when it is started
        return False
    if not (isinstance(scheduler, type) and issubclass(scheduler, SharedScheduler)):
        return False
    with suppress(OSError):
        # fastq beat -S persistent
        return time.time() - os.stat(app.conf.beat_schedule_filename).st_mtime > FILE_ALIVE_S
    return True
