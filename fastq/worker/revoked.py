"""Know which tasks were revoked, and what is paused: read from the broker when a fetch tells of news, at no other time."""

from __future__ import annotations

from fastq.records import Paused
from fastq.transports.base import REVOKED_MAX, Broker

__all__ = ["Revoked"]


class Revoked:
    """Keep a set of revoked ids up to date. Owned by the consumer's loop."""

    def __init__(self, broker: Broker, ids: set[str]) -> None:
        """``ids``: the set that is kept up to date."""
        self._broker = broker
        self._ids = ids
        #: of the last revocation that is known here
        self.number = 0

    def paused(self) -> Paused:
        """Read what is paused. Raises OperationalError."""
        return self._broker.paused()

    def hear(self, number: int) -> bool:
        """Read what was revoked since the last time; say whether anything was. Raises OperationalError: nothing is known anew."""
        newest, ids, since = 0, list[str](), 0
        if number:
            if 0 < self.number < number and len(self._ids) <= 2 * REVOKED_MAX:
                since = self.number
            newest, ids = self._broker.revoked(since)
        if not since:  # the first ones; or the broker has forgotten some, and so may this process
            self._ids.clear()
        self._ids.update(ids)
        self.number = newest
        return bool(ids)
