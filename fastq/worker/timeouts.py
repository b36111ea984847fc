"""Settle tasks for which their process was killed: over their hard time limit, or revoked.

Done by the supervisor, which knows no application: retries of the task do not run, and its hooks are told elsewhere (``untold``).
After the death is confirmed, so that the process cannot settle the task itself any more, and before what it held is released, so
that the task does not run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastq import _core
from fastq.exceptions import TaskRevokedError, TimeLimitExceeded
from fastq.records import DEAD, DONE, Delivery, Registry, Settlement
from fastq.transports.base import Backend, Broker
from fastq.worker.effects import effects_of
from fastq.worker.ends import REVOKED, TIMED_OUT, End
from fastq.worker.hello import Hello
from fastq.worker.limits import check

__all__ = ["TIME_LIMIT", "Overrun", "Timeouts"]

logger = logging.getLogger("fastq.worker.trace")

#: reason of a dead letter
TIME_LIMIT = "time-limit"


class Overrun(NamedTuple):
    """A run for which its process was killed."""

    queue: str
    tag: str
    hard_s: float
    #: of the task id, see ``deadlines``
    check: int
    #: "": it was over its hard limit; else the signal with which it was revoked
    signal: str = ""


class Timeouts:
    """Settle overruns as FAILURE with TimeLimitExceeded, or as REVOKED, and what follows from that."""

    def __init__(self, hello: Hello, broker: Broker, backend: Callable[[], Backend | None]) -> None:
        self._hello = hello
        self._broker = broker
        self._backend = backend
        #: told of every task that is settled here, and of its end: its own process tells of it no more
        self.told: Callable[[Delivery, End], object] | None = None

    def settle(self, process: str, overruns: Sequence[Overrun]) -> None:
        """Settle what this dead process still has leased of them. Raises OperationalError; call again then."""
        # lazy: needed when a process was killed for a time limit, which most workers never see
        from fastq.worker.settler import Settler

        now_ms = self._broker.now_ms()
        settlements = []
        ended: list[tuple[Delivery, End]] = []
        for queue in {overrun.queue for overrun in overruns}:
            leased = dict(self._broker.leased(queue, process))
            for overrun in overruns:
                message = leased.get(overrun.tag) if overrun.queue == queue else None
                if message is None:
                    continue
                (d,) = _core.deliveries(queue, [overrun.tag], [message], Registry([]))
                if check(d.id) == overrun.check:
                    settlements.append(
                        self._terminated(d, overrun.signal, now_ms)
                        if overrun.signal
                        else self._settlement(d, overrun.hard_s, now_ms, process)
                    )
                    kind = REVOKED if overrun.signal else TIMED_OUT
                    ended.append((d, End(kind, queue, overrun.signal, overrun.hard_s)))
        if settlements:
            skipped = Settler(self._broker, self._backend()).turn(process, settlements, None).skipped
            if self.told is not None:
                for d, end in ended:
                    if d.tag not in skipped:
                        self.told(d, end)

    def _settlement(self, d: Delivery, hard_s: float, now_ms: int, process: str) -> Settlement:
        logger.warning(
            "Hard time limit (%gs) exceeded for %s[%s]", hard_s, d.name, d.id, extra={"task_id": d.id, "task_name": d.name}
        )
        record = self._record(TimeLimitExceeded(hard_s), "FAILURE", now_ms)
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

    def _terminated(self, d: Delivery, signal: str, now_ms: int) -> Settlement:
        """Settle a revoked task as its own process does, if it can: no dead letter."""
        logger.warning(
            "Task %s[%s] was terminated (%s): its process was killed", d.name, d.id, signal,
            extra={"task_id": d.id, "task_name": d.name},
        )  # fmt: skip
        record = self._record(TaskRevokedError("terminated"), "REVOKED", now_ms)
        effects = effects_of(d, record, now_ms, errbacks=False)
        result = record if self._stores(d) else None
        return Settlement(d.queue, d.tag, d.id, DONE, result=result, inbox=d.inbox, effects=effects)

    def _record(self, exc: BaseException, state: str, now_ms: int) -> bytes:
        # lazy: as above
        from fastq.remote import encode_exception
        from fastq.serialization import Serializers

        name = self._hello.result_serializer
        content_type, body, _ = encode_exception(exc, Serializers(task=name, result=name, accept=(name,)))
        return _core.encode_result(state, content_type, body, None, now_ms, None)

    def _stores(self, d: Delivery) -> bool:
        if self._hello.backend_url.startswith("disabled:"):
            return False
        own = (d.options or {}).get("ignore_result")
        return not own if own is not None else d.name not in self._hello.unstored
