"""Report tasks as STARTED before they run, where they ask for it (``track_started``)."""

from __future__ import annotations

import logging
import os
from typing import Protocol

from fastq import states
from fastq._core import Delivery, encode_result, packb
from fastq.exceptions import OperationalError
from fastq.records import StoredResult
from fastq.transports.base import Backend

__all__ = ["Started"]

logger = logging.getLogger("fastq.worker.trace")


class _Clock(Protocol):
    def now_ms(self) -> int: ...


class Started:
    """Write STARTED, with the process and the node: one call of the backend for each task that asks for it."""

    def __init__(self, backend: Backend, node: str, clock: _Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._body = packb({"pid": os.getpid(), "hostname": node})

    def note(self, d: Delivery) -> None:
        if d.entry is None or not d.entry.track_started or d.ignore_result:
            return
        record = encode_result(states.STARTED, "application/x-msgpack", self._body, None, self._clock.now_ms(), None)
        try:
            self._backend.store([StoredResult(d.id, record)], final=False)
        except OperationalError as exc:  # a report that did not arrive is no reason to fail the task
            logger.warning("Could not report %s[%s] as started: %s", d.name, d.id, exc)
