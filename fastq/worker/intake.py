"""What becomes of the answer to a fetch: leased, sorted, and handed to the feeder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fastq import _core, signals
from fastq._core import ProcessBoard, Registry
from fastq.records import Delivery, Fetched, Paused
from fastq.stamps import MARK
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
        #: of the last change of what is paused that is known here
        self._pauses = 0

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

    def hear(self, revocations: int, pauses: int = 0) -> None:
        """Read which tasks were revoked, where that is news, and end those that are held; and likewise what is paused."""
        if revocations != self._revoked.number and self._revoked.hear(revocations):
            self._gate.stamped = any(id.startswith(MARK) for id in self._gate.revoked)
            self.end_revoked()
        if pauses != self._pauses:
            paused = self._revoked.paused()
            self._pauses = paused.number
            self._gate.paused = frozenset(paused.tasks)
            names = ", ".join([*(f"queue {name}" for name in paused.queues), *(f"task {name}" for name in paused.tasks)])
            logger.info("Paused now: %s", names or "nothing")
            self._put_off(paused)

    def _put_off(self, paused: Paused) -> None:
        """Put back what is held of paused queues and task names, and has not started."""
        held = [d for d in self._holdings.held if d.queue in paused.queues or d.name in paused.tasks]
        for d in self._unstarted(held):
            self._settler.emit(self._gate.park(d))

    def _unstarted(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Take those out that no slot has started. The board decides that, so a slot that was given such a delivery skips it."""
        waiting = self._feeder.take_out(held) if held else ()
        board, unstarted = self._board, []
        for d in held:
            if board.claim(d.record, 0) if d.record >= 0 else d in waiting:
                self._holdings.taken -= 1
                board.finish(d.record)
                unstarted.append(d)
        return unstarted

    def end_revoked(self) -> None:
        """End what is held of revoked tasks and has not started."""
        for d in self._unstarted([d for d in self._holdings.held if self._gate.is_revoked(d)]):
            settlement = self._gate.revoke(d)
            self._holdings.tell(settlement)
            self._settler.emit(settlement)
