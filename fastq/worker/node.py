"""What the services of a node (control, heartbeat, health, autoscaling) see of it and may do to it.

The supervisor is one, the lease keeper of a solo worker is one, and the worker inside a test's process is one. All of it is called
in the thread of the node's loop; nothing here imports the application or waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fastq._core import ProcessBoard
    from fastq.worker.hello import Hello
    from fastq.worker.loop import Loop
    from fastq.worker.services import Services
    from fastq.worker.shutdown import Stage
    from fastq.worker.steering import Steering
    from fastq.worker.tallies import Tallies
    from fastq.worker.timeouts import Overrun

__all__ = ["Node", "WorkerProcess"]


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """One worker process, at the moment of looking."""

    #: of its region on the board
    index: int
    #: 0: still being forked
    pid: int
    #: as log lines show it
    title: str
    #: it takes tasks
    ready: bool
    #: monotonic
    born_s: float
    #: the names it leases under, the present one first; empty: none yet
    names: Sequence[str]
    board: ProcessBoard
    #: it takes no more tasks, and ends when what it runs has ended
    spent: bool = False


class Node(Protocol):
    """One worker node, seen from its own loop."""

    #: as other nodes see it: name@host
    name: str
    #: of the process that is the worker to others: signals go there
    pid: int
    #: Unix time at which it started
    started_at: float
    loop: Loop
    hello: Hello
    #: what changes its size and its queues
    steering: Steering
    #: heartbeat, station and what else is offered beside running tasks
    services: Services
    #: another process takes the place of one that ends
    replaces: bool
    #: what its processes have counted since it began
    tallies: Tallies

    @property
    def stage(self) -> Stage:
        """Return how far it has stopped."""
        ...

    @property
    def queues(self) -> tuple[str, ...]:
        """Return what it takes from now."""
        ...

    @property
    def known_queues(self) -> Sequence[str]:
        """Return what it takes or took from, by the numbers that its boards use."""
        ...

    @property
    def reachable(self) -> bool:
        """Say whether the broker has answered last time."""
        ...

    @property
    def renewed_s(self) -> float:
        """Return when its leases were last renewed, or the broker first answered, monotonic; 0: not yet."""
        ...

    @property
    def wanted(self) -> int:
        """Return how many processes it is to have."""
        ...

    @property
    def restarts(self) -> Mapping[str, int]:
        """Return how many processes it has replaced, by reason."""
        ...

    def processes(self) -> list[WorkerProcess]:
        """Return the worker processes that have not ended."""
        ...

    def leased(self, names: Sequence[str]) -> list[tuple[str, str, bytes]]:
        """Return (queue, tag, message) of all that is leased under these names, oldest first; OperationalError if the broker
        does not answer."""
        ...

    def terminated(self, since: int) -> tuple[int, dict[str, str]]:
        """See ``Broker.terminated``."""
        ...

    def revoke(self, ids: Sequence[str], signal: str) -> None:
        """Record a revocation, ``signal``: "" or what ends what runs; OperationalError if the broker does not answer."""
        ...

    def kill(self, index: int, runs: Sequence[Overrun]) -> bool:
        """Kill a worker process for the sake of what it runs, which is settled accordingly; False: this node cannot do that."""
        ...

    def revoked(self) -> list[str]:
        """Return the ids that the broker knows as revoked; OperationalError if it does not answer."""
        ...

    def order(self, order: Mapping[str, Any], *, standing: str = "", only: int | None = None) -> int:
        """Send an order (``{"do": name, ...}``, plain values as JSON has them) to every worker process, or to that with the index
        ``only``; return how many were told. With ``standing`` later processes are told too when they start, unless a later order
        of the same key has taken its place."""
        ...

    def ask(self, question: Mapping[str, Any], answer: Callable[[Any], object]) -> None:
        """Ask a process that has the application; ``answer`` is called with its reply, or with an Exception if there is none."""
        ...

    def stop(self, how: str) -> None:
        """Begin to stop, "warm" or "cold", as a signal would make it."""
        ...
