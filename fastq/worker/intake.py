"""What becomes of the answer to a fetch: leased, sorted, and handed to the feeder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fastq import _core, signals
from fastq._core import ProcessBoard, Registry
from fastq.records import Delivery, Fetched
from fastq.worker.feeder import Feeder
from fastq.worker.finished import Finished
from fastq.worker.gate import Gate
from fastq.worker.holdings import Holdings
from fastq.worker.rates import Rates
from fastq.worker.revoked import Revoked
from fastq.worker.settler import Settler

__all__ = ["Intake"]

logger = logging.getLogger("fastq.worker.consumer")


class Intake:
    """Take in what was fetched, a batch at a time. Owned by the consumer's loop."""

    def __init__(
        self,
        *,
        sender: object,
        registry: Callable[[], Registry],
        board: ProcessBoard,
        settler: Settler,
        holdings: Holdings,
        feeder: Feeder,
        gate: Gate,
        revoked: Revoked,
        rates: Rates | None,
        finished: Finished | None,
    ) -> None:
        """``sender``: of the signal task_received."""
        self._sender = sender
        self._registry = registry
        self._board = board
        self._settler = settler
        self._holdings = holdings
        self._feeder = feeder
        self._gate = gate
        self._revoked = revoked
        self._rates = rates
        self._finished = finished

    def accept(self, fetched: Fetched) -> int:
        """Take in what was leased; return how many."""
        count = 0
        holdings, refuse = self._holdings, self._holdings.refuse
        registry = self._registry()
        rates = self._rates if self._rates is not None and self._rates.limits(registry) else None
        info = logger.isEnabledFor(logging.INFO)
        for leased in fetched.leased:
            if not leased.tags:
                continue
            batch = _core.deliveries(leased.queue, leased.tags, leased.messages, registry)
            count += len(batch)
            holdings.add(leased, batch, fetched.now_ms)
            passed = self._gate.sort(batch, fetched.now_ms, refuse)
            if self._finished is not None:
                passed = self._finished.sort(passed, refuse)
            if rates is not None and passed:
                passed = rates.sort(passed, refuse)
            holdings.taken += len(passed)
            if info:
                for d in passed:
                    logger.info("Task %s[%s] received", d.name, d.id)
            if signals.task_received.receivers:
                self._tell_received(passed)
            self._feeder.add(passed)
        return count

    def _tell_received(self, batch: Sequence[Delivery]) -> None:
        from fastq.context import Context  # lazy: only where somebody listens

        for d in batch:
            task = d.entry.task if d.entry is not None else None
            signals.task_received.send(sender=self._sender, request=Context(task, d))

    def hear(self, revocations: int) -> None:
        """Read which tasks were revoked, where that is news, and end those that are held."""
        if revocations != self._revoked.number and self._revoked.hear(revocations):
            self.end_revoked()

    def end_revoked(self) -> None:
        """End what is held of revoked tasks and has not started. The board decides that, so a slot that was given such a delivery
        skips it."""
        gate, board = self._gate, self._board
        found = [d for d in self._holdings.held if d.id in gate.revoked]
        waiting = self._feeder.take_out(found) if found else ()
        for d in found:
            if board.claim(d.record, 0) if d.record >= 0 else d in waiting:
                self._holdings.taken -= 1
                board.finish(d.record)
                self._settler.emit(gate.revoke(d))
