"""Finish what a resume of task names has begun, should the one who said it be gone: see ``Broker.unpark``."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastq.exceptions import OperationalError
from fastq.transports.base import Broker
from fastq.worker.loop import Loop

__all__ = ["Unparking"]

#: seconds at a time, so that a node with much to put back still hears its processes and renews its leases
TURN_S = 0.05


class Unparking:
    """One node's part in it. Nobody is asked whether the client still does it: steps of several do no harm."""

    def __init__(self, loop: Loop, broker: Broker, fail: Callable[[OperationalError], object]) -> None:
        """``fail`` is told when the broker does not answer; the next ``look`` goes on."""
        self._loop = loop
        self._broker = broker
        self._fail = fail
        self._busy = False

    def look(self) -> None:
        """Take steps if there are any to take, now and in the next turns of the loop."""
        if not self._busy:
            self._busy = True
            self._turn()

    def _turn(self) -> None:
        until_s = time.monotonic() + TURN_S
        try:
            while more := self._broker.unpark():
                if time.monotonic() >= until_s:
                    break
        except OperationalError as exc:
            self._busy = False
            self._fail(exc)
            return
        if more:
            self._loop.after(0, self._turn)
        else:
            self._busy = False
