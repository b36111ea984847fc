"""What a node asks of the broker, and records there, for its services and for what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from fastq._core import peek
from fastq.exceptions import EnvelopeError, OperationalError
from fastq.stamps import shown
from fastq.transports.base import Broker
from fastq.worker.queues import Queues

__all__ = ["Consulting"]

#: seconds for which a revocation is remembered that a node was asked for; clients know ``worker_revoke_expires``
REVOKED_S = 10_800


class Consulting:
    """Calls to a node's broker beside the renewal of its leases, by its connection. Errors are the caller's."""

    def __init__(self, broker: Broker, queues: Queues, *, where: str, trouble: Callable[[], bool]) -> None:
        """``where``: the broker's address as it is shown; ``trouble`` says whether the last call to it has failed."""
        self._broker = broker
        self._queues = queues
        self._where = where
        self._trouble = trouble

    def leased(self, names: Sequence[str]) -> list[tuple[str, str, bytes]]:
        """Return (queue, tag, message) of what is leased under these names; OperationalError if the broker does not answer."""
        if self._trouble():
            raise OperationalError(f"the broker {self._where} does not answer")
        return [
            (queue, tag, message)
            for process in names
            for queue in self._queues.leased
            for tag, message in self._broker.leased(queue, process)
        ]

    def revoked(self) -> list[str]:
        """Return the ids that the broker knows as revoked; OperationalError if it does not answer."""
        return [shown(id) for id in self._broker.revoked()[1]]

    def paused(self) -> Mapping[str, int]:
        """Return the queues that are paused; OperationalError as above."""
        return self._broker.paused().queues

    def terminated(self, since: int) -> tuple[int, dict[str, str]]:
        """See ``Broker.terminated``."""
        return self._broker.terminated(since)

    def revoke(self, ids: Sequence[str], signal: str) -> None:
        """Record a revocation that was asked for without one."""
        self._broker.revoke(ids, REVOKED_S, signal=signal)

    def look_up(self, names: Sequence[str]) -> dict[tuple[str, str], str]:
        """Return names and ids of the tasks that processes have leased, by queue and tag; {} if the broker does not answer."""
        if self._trouble():
            return {}
        try:
            leased = [
                (queue, tag, message)
                for process in names
                for queue in self._queues.leased
                for tag, message in self._broker.leased(queue, process)
            ]
        except OperationalError:
            return {}
        found = {}
        for queue, tag, message in leased:
            with suppress(EnvelopeError):
                delivery = peek(message)
                found[queue, tag] = f"{delivery.name}[{delivery.id}]"
        return found
