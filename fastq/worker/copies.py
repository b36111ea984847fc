"""Copies of Broadcast messages that nobody will take: dropped with the node they were for.

A node takes tasks from a Broadcast queue's own name, to which nothing is ever sent, and from ``<name>.<node>``, to which the copies
go. So the leases on the name tell which nodes listen, and any of them sees when one has died, whose own queue no other node knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from fastq.queues import copy_queue, node_of
from fastq.records import Lease
from fastq.transports import open_inspector
from fastq.transports.base import Broker, Inspector, TransportOptions

__all__ = ["Copies"]


class Copies:
    """The Broadcast queues of one node, for its supervisor. Every method raises OperationalError where the broker is away."""

    def __init__(self, names: Sequence[str], broker: Broker, url: str, options: TransportOptions) -> None:
        self._names = set(names)
        self._broker = broker
        self._url = url
        self._options = options
        self._opened: Inspector | None = None

    def bury(self, dead: Iterable[Lease]) -> None:
        """Drop the copies of nodes that have no process left; ``dead``: leases that were just reaped."""
        for name, process in {(lease.queue, lease.process) for lease in dead if lease.queue in self._names}:
            own = copy_queue(name, node_of(process))
            self._broker.condemn([Lease(own, process, "")])
            self._broker.release(own, process, {})
            self._drop(name, node_of(process))

    def add(self, names: Sequence[str]) -> None:
        """Look after more of them."""
        self._names.update(names)

    def leave(self, node: str, queues: Collection[str] | None = None) -> None:
        """Drop this node's copies, if it has no process left there: it stops, and copies are for nodes that run.

        ``queues``: it only takes nothing from these any more.
        """
        for name in self._names if queues is None else self._names.intersection(queues):
            self._drop(name, node)

    def _drop(self, name: str, node: str) -> None:
        if all(node_of(process) != node for process in self._inspector.listeners(name)):
            self._inspector.purge(copy_queue(name, node))

    @property
    def _inspector(self) -> Inspector:
        if self._opened is None:
            self._opened = open_inspector(self._url, self._options)
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
