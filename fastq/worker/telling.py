"""Tell of tasks that ended with their process: their hooks and the receivers of signals, in a process that has the application.

What belongs to the process of a run (``after_return``, task_postrun) is not told: that process is gone.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastq import _core, signals
from fastq.context import Context
from fastq.records import Delivery
from fastq.running import current
from fastq.worker import hooks
from fastq.worker.ends import REVOKED, End

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["tell_ends", "wanted"]

logger = logging.getLogger("fastq.worker.trace")

#: a message, then the fields of an ``End``
Told = Sequence[Any]


def wanted(app: FastQ, ends: Sequence[Told]) -> bool:
    """Say whether anybody is to be told of one of these."""
    return any(_wanted(app, *_read(app, told)) for told in ends)


def tell_ends(app: FastQ, ends: Sequence[Told]) -> None:
    """Tell all of them, one after the other. Never raises."""
    for told in ends:
        try:
            d, end = _read(app, told)
            if _wanted(app, d, end):
                _tell(app, d, end)
        except Exception:  # the next one must be told too
            logger.exception("The end of a task could not be told")


def _read(app: FastQ, told: Told) -> tuple[Delivery, End]:
    message, *fields = told
    end = End(*fields)
    (d,) = _core.deliveries(end.queue, ["0"], [message], app.registry())
    return d, end


def _wanted(app: FastQ, d: Delivery, end: End) -> bool:
    if not d.id:
        return False  # it cannot be read
    if end.kind == REVOKED:
        return bool(signals.task_revoked.receivers)
    return bool(signals.task_failure.receivers) or (d.entry is not None and hooks.Hooks(d.entry.task).on_failure is not None)


def _tell(app: FastQ, d: Delivery, end: End) -> None:
    task = d.entry.task if d.entry is not None else None
    if end.kind == REVOKED:
        signals.task_revoked.send(
            sender=task, request=Context(task, d), terminated=True, signum=getattr(signal, end.text, None), expired=False
        )
        return
    args, kwargs = _call_of(app, d)
    # the hook asks for the request of the run that it is told of
    token = current.set(d)
    try:
        hooks.lost(task, None if task is None else hooks.Hooks(task), d, args, kwargs, end.error())
    finally:
        current.reset(token)


def _call_of(app: FastQ, d: Delivery) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return what it was called with, what came before it in its chain included; of the body of a chord without the results."""
    serializers = app.serializers
    try:
        args, kwargs = serializers.loads(d.content_type, d.body)
        before = [serializers.loads_result(content_type, body) for content_type, body in (d.flow or {}).get("args", ())]
        return (*before, *args), dict(kwargs)
    except Exception:  # what cannot be read is told without: the failure says so
        return (), {}
