"""The worker processes of a node that have not ended: who they are, what they do, and what all of them are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastq._core import ProcessBoard
from fastq.worker.board import Board
from fastq.worker.child import Child
from fastq.worker.hello import Hello
from fastq.worker.node import WorkerProcess
from fastq.worker.procname import display_name
from fastq.worker.queues import Queues
from fastq.worker.stopping import Holdup, running_on

__all__ = ["Roster"]


class Roster:
    """All worker processes of one node. What begins and ends them is ``Children``."""

    def __init__(self, hello: Hello, board: Board, queues: Queues) -> None:
        self._hello = hello
        self._board = board
        self._queues = queues
        self._children: dict[int, Child] = {}  # by serial
        #: orders that later processes are given too, by what they are about
        self._standing: dict[str, Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children.values())

    def __contains__(self, child: object) -> bool:
        return isinstance(child, Child) and child.serial in self._children

    def add(self, child: Child) -> None:
        """Take in a process that was asked for."""
        self._children[child.serial] = child

    def remove(self, child: Child) -> None:
        """Forget a process that has ended."""
        del self._children[child.serial]

    # --- who is there ---

    def get(self, serial: int) -> Child | None:
        """Return the process with this number, which no other had before it."""
        return self._children.get(serial)

    def at(self, place: int) -> list[Child]:
        """Return the processes of one place, but those that it was taken away from."""
        return [child for child in self._children.values() if child.place == place and not child.retired]

    def unforked(self) -> list[Child]:
        """Return those that have no pid yet."""
        return [child for child in self._children.values() if not child.pid]

    def worth(self, place: int) -> tuple[int, int]:
        """Order places by how little is lost with them: nobody there, idle, running; of these the last one first."""
        here = self.at(place)
        boards = [self.region(child.index) for child in here if child.process]
        busy = any(board.counter("held") or board.active() for board in boards)
        return (2 if busy else 1 if here else 0), -place

    def region(self, index: int) -> ProcessBoard:
        """Return the region of the board that the process with this index writes to."""
        return self._board.region(index, self._hello.room)

    def title(self, index: int) -> str:
        """Return a process' name in log lines."""
        return display_name(self._hello.pool, index)

    # --- what they do ---

    def processes(self) -> list[WorkerProcess]:
        """Return those that have not ended."""
        return [
            WorkerProcess(
                child.index,
                child.pid,
                self.title(child.index),
                bool(child.process),
                child.born_s,
                (child.process, *child.former) if child.process else (),
                self.region(child.index),
                child.spent,
            )
            for child in self._children.values()
        ]

    def holdups(self) -> list[Holdup]:
        """Return the processes that have not ended, and what they run."""
        return [
            Holdup(
                self.title(child.index),
                child.pid,
                (child.process, *child.former) if child.process else (),
                running_on(self.region(child.index), self._queues.known) if child.process else (),
            )
            for child in self._children.values()
        ]

    # --- what they are told ---

    def order(self, order: Mapping[str, Any], *, standing: str = "", only: int | None = None) -> int:
        """Send an order to the processes, see ``Node.order``."""
        if standing:
            self._standing[standing] = order
        # those not admitted yet are given what stands when they are
        told = [child for child in self._children.values() if only in (None, child.index) and (child.process or not standing)]
        for child in told:
            child.link.send({"order": order})
        return len(told)

    def give_standing(self, child: Child) -> None:
        """Give a process that is being admitted the orders that stand."""
        for order in self._standing.values():
            child.link.send({"order": order})

    def took_in(self, change: int) -> bool:
        """Say whether all processes that take tasks know of a change of the queues."""
        return all(child.takes >= change for child in self._children.values() if child.process)

    def tell(self, how: str, sig: str = "", *, told: str = "") -> None:
        """Ask all to stop, warm or cold. ``sig``: the name of the signal that asked for it, which receivers of signals are told;
        ``told``: what they are told instead of ``how``."""
        message = {"stop": how}
        if sig and self._hello.listened:
            message |= {"sig": sig, "told": told or how}
        for child in self._children.values():
            child.link.send(message)
