"""What steers the processes of a node while it runs: its size, its queues, rate limits, and the autoscaler, in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from fastq.worker.autoscale import Autoscaler
from fastq.worker.capacity import Capacity
from fastq.worker.consuming import Consuming, Order
from fastq.worker.recalls import Recalls

if TYPE_CHECKING:
    from fastq.transports.base import Inspector
    from fastq.worker.hello import Hello
    from fastq.worker.keeper import Keeper
    from fastq.worker.loop import Loop
    from fastq.worker.node import WorkerProcess
    from fastq.worker.queues import Queues

__all__ = ["Crew", "Single", "Steering"]


class Crew(Protocol):
    """The processes of a node, as far as their number is concerned."""

    #: slots that a process starts with
    slots: int

    def resize(self, processes: int) -> None:
        """Have so many processes from now on."""
        ...

    def took_in(self, change: int) -> bool:
        """Say whether all processes know of a change of the queues."""
        ...


class Single:
    """The crew of a node of one process that is never replaced."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        #: the last change of the queues that the process has told it knows of
        self.takes = 0

    def resize(self, processes: int) -> None:
        raise AssertionError("its size does not count processes")

    def took_in(self, change: int) -> bool:
        return self.takes >= change


class Steering:
    """Steer one node. Called in its loop."""

    def __init__(
        self,
        loop: Loop,
        hello: Hello,
        node: str,
        *,
        queues: Queues,
        keeper: Keeper,
        crew: Crew,
        order: Order,
        processes: Callable[[], Sequence[WorkerProcess]],
    ) -> None:
        def set_slots(slots: int) -> None:
            crew.slots = slots

        self._crew = crew
        self.consuming = Consuming(loop, hello, node, queues, keeper, order=order, took_in=crew.took_in)
        self.recalls = Recalls(loop, keeper, lambda: queues.known, node if hello.rates_own else "")
        self.capacity = Capacity(hello, order=order, processes=crew.resize, slots=set_slots)
        self.autoscaler = Autoscaler(
            loop,
            self.capacity,
            bounds=hello.autoscale,
            processes=processes,
            queues=lambda: queues.taken,
            reachable=lambda: keeper.reachable,
            inspector=lambda: _open_inspector(hello),
            paused=keeper.paused,
        )

    def took(self, change: int) -> None:
        """Take in that the one process of this node knows of a change of the queues."""
        assert isinstance(self._crew, Single)
        self._crew.takes = change


def _open_inspector(hello: Hello) -> Inspector:
    # lazy: most nodes do not scale themselves
    from fastq.transports import open_inspector
    from fastq.worker.opening import transport_options

    return open_inspector(hello.broker_url, transport_options(hello))
