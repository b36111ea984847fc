"""How many tasks a node runs at once, and how that is changed while it runs.

The unit is that of ``-c``: processes of prefork, slots in each process of the other pools. Both have a limit. The records of slots
on the status board are laid out when the node starts (``Hello.room``); processes cost the machine's memory
(``Hello.most_processes``).
"""

from __future__ import annotations

from collections.abc import Callable

from fastq.worker.consuming import Order
from fastq.worker.hello import Hello

__all__ = ["Capacity", "CapacityError"]


class CapacityError(Exception):
    """A size that this node cannot have; the text says why and what to do."""


class Capacity:
    """The size of one node. Called in its loop."""

    def __init__(self, hello: Hello, *, order: Order, processes: Callable[[int], object], slots: Callable[[int], object]) -> None:
        """``processes`` makes the node have so many; ``slots`` is told how many a later process begins with."""
        self._pool = hello.pool
        self._order = order
        self._processes = processes
        self._slots = slots
        #: the size counts processes, not slots in each of them
        self.counts_processes = prefork = hello.pool == "prefork"
        #: what it is now
        self.size = hello.processes if prefork else hello.slots
        #: what it can be at most
        self.room = hello.most_processes if prefork else hello.room
        self._began = self.size

    @property
    def slots(self) -> int:
        """Return how many slots each process has now."""
        return 1 if self.counts_processes else self.size

    def check(self, size: int) -> None:
        """Raise CapacityError for a size that this node cannot have."""
        if self._pool == "solo":
            raise CapacityError(
                "the solo pool runs one task at a time, in the main process: start the worker with another pool to scale it "
                "(-P prefork, threads, gevent, asyncio)"
            )
        if size < 1:
            raise CapacityError(
                f"the pool has {self.size}, so this would leave {size}: at least 1 is needed. To let a node rest, cancel its "
                "consumers (cancel_consumer), or stop it (shutdown)"
            )
        if size > self.room:
            what = "processes" if self.counts_processes else "slots in each process"
            raise CapacityError(
                f"{size} {what} are more than the {self.room} that this worker has room for (it was started with "
                f"{self._began}): start it with --autoscale={size},{self._began} or a higher -c"
            )

    def resize(self, size: int) -> None:
        """Grow or shrink. What runs is finished, what had not started goes back to its queue."""
        self.check(size)
        if size == self.size:
            return
        self.size = size
        if self.counts_processes:
            self._processes(size)
        else:
            self._slots(size)
            self._order({"do": "slots", "n": size}, standing="slots")
