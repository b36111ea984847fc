"""What follows a delivery that has not succeeded, as the worker and its supervisor settle it."""

from __future__ import annotations

import logging
from typing import Any

from fastq import _core, flow, states
from fastq.exceptions import FastQError
from fastq.records import DONE, Delivery, Effects, Settlement

__all__ = ["effects_of", "ended"]

logger = logging.getLogger("fastq.worker.trace")


def effects_of(d: Delivery, record: bytes, now_ms: int, **how: Any) -> Effects | None:
    """Return ``flow.failed``, None where the message says what follows in a form that nobody can read."""
    if d.flow is None:
        return None
    try:
        return flow.failed(d, record, now_ms, **how)
    except Exception:  # whatever is damaged there, the delivery itself must end
        logger.exception("Task %s[%s]: what follows it cannot be read, so nothing does", d.name, d.id)
        return None


def ended(d: Delivery, record: bytes | None, now_ms: int, *, queue: str, tag: str) -> Settlement | None:
    """Return the settlement of a delivery whose task has this result already; None if the result is not final, or unreadable."""
    if record is None:
        return None
    try:
        state, content_type, body, *_ = _core.decode_result(record)
        if state not in states.READY_STATES:
            return None
        if state == states.SUCCESS:
            effects = flow.succeeded(d, (content_type, body), record, now_ms)
        else:
            effects = effects_of(d, record, now_ms)
    except FastQError:
        return None
    return Settlement(queue, tag, d.id, DONE, record=d.record, effects=effects)
