"""End tasks in a worker process because they were terminated: what has not started is settled, what runs is interrupted."""

from __future__ import annotations

from typing import Any

from fastq.pools.base import Pool
from fastq.worker.feeder import Feeder
from fastq.worker.gate import Gate
from fastq.worker.holdings import Holdings
from fastq.worker.intake import Intake

__all__ = ["SOFT", "Cancels"]

#: the signals that a task may catch: with any other a BaseException is raised in it
SOFT = frozenset({"SIGUSR1"})


class Cancels:
    """Carry out the order ``{"do": "cancel", "ids": {id: signal}}``. Owned by the consumer's loop."""

    def __init__(self, *, pool: Pool, feeder: Feeder, holdings: Holdings, intake: Intake, gate: Gate) -> None:
        self._pool = pool
        self._feeder = feeder
        self._holdings = holdings
        self._intake = intake
        self._gate = gate

    def obey(self, order: dict[str, Any]) -> None:
        signals: dict[str, str] = order["ids"]
        self._gate.terminate(signals)
        self._intake.end_revoked()
        for id, signal in signals.items():
            # the rest of its batch must not start: an exception could come a moment late, in the next one
            batch = self._feeder.batch_of(id)
            others = [d for d in batch if d.id != id]
            if others:
                self._holdings.give_back([d for d in others if d.record >= 0 and d in self._holdings.held])
            alone = all(d.record >= 0 for d in others)
            self._pool.cancel(id, hard=signal not in SOFT, alone=alone)
