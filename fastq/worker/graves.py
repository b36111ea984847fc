"""The names under which something is still leased that nobody runs: of processes that have died, or were fenced."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastq._core import ProcessBoard
from fastq.records import RETURN, Settlement
from fastq.transports.base import Broker
from fastq.worker.queues import Queues
from fastq.worker.reaper import Reaper, Snapshot
from fastq.worker.timeouts import Overrun, Timeouts

__all__ = ["Graves"]

logger = logging.getLogger("fastq.worker")


class Graves:
    """Names that one node is to be rid of.

    What calls the broker raises OperationalError; what is left then is tried at the next call.
    """

    def __init__(self, broker: Broker, reaper: Reaper, timeouts: Timeouts, queues: Queues) -> None:
        self._broker = broker
        self._reaper = reaper
        self._timeouts = timeouts
        self._queues = queues
        #: names whose process was fenced but still settles under them what it was running -> its board
        self.former: dict[str, ProcessBoard] = {}
        #: names of dead processes that are not yet buried, with what is known of them
        self._graves: dict[str, tuple[Snapshot | None, bool, Sequence[Overrun]]] = {}

    def __len__(self) -> int:
        """Return how many dead processes are not yet buried."""
        return len(self._graves)

    def add(self, process: str, snapshot: Snapshot | None, *, charge: bool, overruns: Sequence[Overrun]) -> None:
        """Take in a dead process, see ``Keeper.bury``."""
        self.former.pop(process, None)
        self._graves[process] = (snapshot, charge and not overruns, overruns)

    def dig(self) -> None:
        """Hand back what dead processes had."""
        for process, (snapshot, charge, overruns) in list(self._graves.items()):
            if overruns:
                self._timeouts.settle(process, overruns)
            moved = self._reaper.bury(process, self._queues.leased, snapshot, charge=charge)
            del self._graves[process]
            if moved:
                logger.warning("What process %s held goes back to its queues (%d)", process, moved)

    def drop_former(self) -> None:
        """Give back what fenced processes have dropped, and forget the names under which nothing runs any more."""
        for process, board in list(self.former.items()):
            # the broker is asked first: what is settled in between is then skipped, not returned
            leased = [(queue, tag) for queue in self._queues.leased for tag, _ in self._broker.leased(queue, process)]
            held = {tag for _, tag, *_ in board.held()}
            dropped = [Settlement(queue, tag, "", RETURN) for queue, tag in leased if tag not in held]
            if dropped:
                self._broker.settle(process, dropped, results=False)
            if len(dropped) < len(leased):
                continue
            self._reaper.bury(process, self._queues.leased, Snapshot())
            del self.former[process]
