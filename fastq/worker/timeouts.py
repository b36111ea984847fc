"""Settle tasks whose process was killed because they were over their hard time limit.

Done by the supervisor, which knows no application: hooks and retries of the task do not run. After the death is confirmed, so that
the process cannot settle the task itself any more, and before what it held is released, so that the task does not run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastq import _core
from fastq.exceptions import TimeLimitExceeded
from fastq.records import DEAD, Delivery, Registry, Settlement
from fastq.transports.base import Backend, Broker
from fastq.worker.effects import effects_of
from fastq.worker.hello import Hello
from fastq.worker.limits import check

__all__ = ["TIME_LIMIT", "Overrun", "Timeouts"]

logger = logging.getLogger("fastq.worker.trace")

#: reason of a dead letter
TIME_LIMIT = "time-limit"


class Overrun(NamedTuple):
    """A run that was over its hard limit when its process was killed."""

    queue: str
    tag: str
    hard_s: float
    #: of the task id, see ``deadlines``
    check: int


class Timeouts:
    """Settle overruns as FAILURE with TimeLimitExceeded, and what follows from that."""

    def __init__(self, hello: Hello, broker: Broker, backend: Callable[[], Backend | None]) -> None:
        self._hello = hello
        self._broker = broker
        self._backend = backend

    def settle(self, process: str, overruns: Sequence[Overrun]) -> None:
        """Settle what this dead process still has leased of them. Raises OperationalError; call again then."""
        # lazy: needed when a process was killed for a time limit, which most workers never see
        from fastq.worker.settler import Settler

        now_ms = self._broker.now_ms()
        settlements = []
        for queue in {overrun.queue for overrun in overruns}:
            leased = dict(self._broker.leased(queue, process))
            for overrun in overruns:
                message = leased.get(overrun.tag) if overrun.queue == queue else None
                if message is None:
                    continue
                (d,) = _core.deliveries(queue, [overrun.tag], [message], Registry([]))
                if check(d.id) == overrun.check:
                    settlements.append(self._settlement(d, overrun.hard_s, now_ms, process))
        if settlements:
            Settler(self._broker, self._backend()).turn(process, settlements, None)

    def _settlement(self, d: Delivery, hard_s: float, now_ms: int, process: str) -> Settlement:
        # lazy: as above
        from fastq.remote import encode_exception
        from fastq.serialization import Serializers

        logger.warning(
            "Hard time limit (%gs) exceeded for %s[%s]", hard_s, d.name, d.id, extra={"task_id": d.id, "task_name": d.name}
        )
        name = self._hello.result_serializer
        exc = TimeLimitExceeded(hard_s)
        content_type, body, _ = encode_exception(exc, Serializers(task=name, result=name, accept=(name,)))
        record = _core.encode_result("FAILURE", content_type, body, None, now_ms, None)
        error = f"TimeLimitExceeded: it had run for {hard_s:g} s and more, so its process was killed"
        detail = {"id": d.id, "name": d.name, "error": error, "deliveries": d.deliveries, "process": process}
        return Settlement(
            d.queue,
            d.tag,
            d.id,
            DEAD,
            result=record if self._stores(d) else None,
            inbox=d.inbox,
            reason=TIME_LIMIT,
            detail=_core.packb(detail),
            effects=effects_of(d, record, now_ms),
        )

    def _stores(self, d: Delivery) -> bool:
        if self._hello.backend_url.startswith("disabled:"):
            return False
        own = (d.options or {}).get("ignore_result")
        return not own if own is not None else d.name not in self._hello.unstored
