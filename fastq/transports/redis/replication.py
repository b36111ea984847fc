"""Wait until replicas have what was written, where ``broker_wait_replicas`` asks for it.

Replication is asynchronous: what a primary has acknowledged and not yet passed on is gone if it dies. ``WAIT``, sent behind a call,
is answered when n replicas have confirmed all that was written before, or after a time, with how many had. It undoes nothing.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from fastq.exceptions import OperationalError
from fastq.transports.base import TransportOptions

__all__ = ["Replicas"]

logger = logging.getLogger("fastq.transports.redis")

#: how long settlements are not waited for once replicas were missing, seconds: they slow workers down now and then, not at
#: every call (Redis looks at waits that are over ten times a second, so even the shortest costs 100 ms)
REST_S = 5.0


class Replicas:
    """The replicas that must confirm. Owned by one broker."""

    def __init__(self, options: TransportOptions, display: str) -> None:
        self.wanted = options.wait_replicas
        #: below the socket timeout: silence must stay distinguishable from waiting
        self._wait_ms = max(1, round(min(options.wait_replicas_s, options.socket_timeout_s / 2) * 1000))
        self._display = display
        #: settle calls that fewer confirmed, or that were not waited for because fewer would have
        self.unconfirmed = 0
        self._missing = False
        self._rests_until = 0.0

    def after_publish(self) -> tuple[Any, ...]:
        """Return the command that goes behind the last part of a publish call."""
        return ("WAIT", self.wanted, self._wait_ms)

    def check_published(self, confirmed: int) -> None:
        """Raise if too few replicas have what was published."""
        if confirmed < self.wanted:
            raise OperationalError(
                f"Redis at {self._display} has kept this, but it is not confirmed by {self.wanted} replicas "
                f"(broker_wait_replicas): {confirmed} answered within {self._wait_ms / 1000:g} s. Sent again with the same number "
                "it keeps nothing twice; bring the replicas back, or lower broker_wait_replicas."
            )

    def after_settle(self) -> list[tuple[Any, ...]]:
        """Return the command that goes behind a settle call, if one does."""
        if self._missing and time.monotonic() < self._rests_until:
            self.unconfirmed += 1
            return []
        return [("WAIT", self.wanted, self._wait_ms)]

    def note_settled(self, confirmed: int) -> None:
        """Take in how many replicas have what was settled: a failover now would run these tasks again, and lose none."""
        missing = confirmed < self.wanted
        self.unconfirmed += missing
        if missing and not self._missing:
            logger.warning(
                "Settled at Redis %s, but confirmed by %d of %d replicas (broker_wait_replicas): tasks that ended now run again if "
                "this server is lost",
                self._display,
                confirmed,
                self.wanted,
            )
        elif self._missing and not missing:
            logger.info("Settlements at Redis %s are confirmed by %d replicas again", self._display, self.wanted)
        self._missing = missing
        self._rests_until = time.monotonic() + REST_S
