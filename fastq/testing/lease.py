"""Keep the lease of a worker inside this process: what its supervisor does elsewhere, in a thread.

Nothing here kills anything, and nothing takes a signal. A task that holds the GIL for longer than a lease may therefore be taken
for dead by other nodes, as no thread can renew meanwhile; on a memory broker there are none.
"""

from __future__ import annotations

import select
import threading
from typing import Any

from fastq.worker.board import Board
from fastq.worker.hello import Hello
from fastq.worker.identity import Identity
from fastq.worker.keeper import Keeper, open_store
from fastq.worker.link import Link
from fastq.worker.loop import Loop
from fastq.worker.reaper import Snapshot

__all__ = ["LeaseThread"]


class LeaseThread:
    """Enter, renew and end the lease of one worker. Ends when the worker's end of the link is closed."""

    def __init__(self, hello: Hello, node: str, link: Link, board: Board) -> None:
        """``board``: that of a process with the index 0 and as many slots as ``hello`` says."""
        self._hello = hello
        self._link = link
        self._board = board
        self._identity = Identity(node)
        self._loop = Loop() if hasattr(select, "poll") else Loop(_Select())
        self._names: list[str] = []
        self._keeper: Keeper | None = None
        #: why the broker could not be reached at the start, "" if it was
        self.refused = ""
        #: what it failed with later
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fastq-test-lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; False after the timeout. What the worker still had has then gone back to its queues."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._keep()
        except BaseException as exc:  # surfaces where the worker is stopped
            self.error = exc
        finally:
            self._link.close()  # a worker without a lease stops

    def _keep(self) -> None:
        broker, reaper = open_store(self._hello)
        keeper = self._keeper = Keeper(self._loop, self._hello, self._identity, broker, reaper)
        try:
            self._loop.watch(self._link.fileno(), self._hear)
            keeper.connect(self._begin, self._give_up)
            if not self.refused:
                self._loop.run()
            self._bury(keeper)
        finally:
            keeper.close()

    def _begin(self) -> None:
        self._link.send({"start": {"process": self._new_name()}})

    def _give_up(self, reason: str) -> None:
        self.refused = reason

    def _new_name(self) -> str:
        assert self._keeper is not None
        self._names.append(self._identity.new_name(0))
        self._keeper.enter(self._names[-1])
        return self._names[-1]

    def _hear(self) -> None:
        for message in self._link.receive():
            self._obey(message)
        if self._link.closed:
            self._loop.stop()

    def _obey(self, message: dict[str, Any]) -> None:
        keeper = self._keeper
        assert keeper is not None
        region = self._board.region(0, self._hello.slots)
        if "holding" in message and self._names:
            keeper.watch(self._names[-1], region)
        elif "fenced" in message:
            if message["fenced"] == self._names[-1]:
                keeper.retire(self._names[-1], region)
                self._new_name()
            self._link.send({"process": self._names[-1]})

    def _bury(self, keeper: Keeper) -> None:
        """Hand back, uncharged, what the worker has left, and end its lease."""
        snapshot = Snapshot.of(self._board.region(0, self._hello.slots), self._hello.queues)
        for name in self._names:
            keeper.bury(name, snapshot, charge=False)
        keeper.bury_the_rest()


class _Select:
    """Wait as ``select.poll`` does, in a process where eventlet has taken that away; its ``select`` lets other greenlets run."""

    def __init__(self) -> None:
        self._fds: set[int] = set()

    def register(self, fd: int, eventmask: int, /) -> None:
        self._fds.add(fd)

    def unregister(self, fd: int, /) -> None:
        self._fds.discard(fd)

    def poll(self, timeout_ms: float | None, /) -> list[tuple[int, int]]:
        readable = select.select(list(self._fds), [], [], None if timeout_ms is None else timeout_ms / 1000)[0]
        return [(fd, 0) for fd in readable]
