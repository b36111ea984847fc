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
    from fastq.worker.shutdown import Stage

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


class Node(Protocol):
    """One worker node, seen from its own loop."""

    #: as other nodes see it: name@host
    name: str
    #: Unix time at which it started
    started_at: float
    loop: Loop
    hello: Hello

    @property
    def stage(self) -> Stage:
        """Return how far it has stopped."""
        ...

    @property
    def queues(self) -> tuple[str, ...]:
        """Return what it takes from now."""
        ...

    @property
    def reachable(self) -> bool:
        """Say whether the broker has answered last time."""
        ...

    def processes(self) -> list[WorkerProcess]:
        """Return the worker processes that have not ended."""
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
