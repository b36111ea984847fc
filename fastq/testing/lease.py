"""Keep the lease of a worker inside this process: what its supervisor does elsewhere, in a thread.

Nothing here kills anything, and nothing takes a signal. A task that holds the GIL for longer than a lease may therefore be taken
for dead by other nodes, as no thread can renew meanwhile; on a memory broker there are none.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastq.worker.answering import answer_of
from fastq.worker.board import Board
from fastq.worker.hello import Hello
from fastq.worker.identity import Identity
from fastq.worker.keeper import Keeper
from fastq.worker.link import Link
from fastq.worker.local import LocalNode
from fastq.worker.loop import Loop
from fastq.worker.node import WorkerProcess
from fastq.worker.opening import open_store
from fastq.worker.queues import Queues
from fastq.worker.reaper import Snapshot
from fastq.worker.shutdown import Shutdown, Stage
from fastq.worker.tallies import Tallies

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["LeaseThread"]


class LeaseThread:
    """Enter, renew and end the lease of one worker. Ends when the worker's end of the link is closed."""

    def __init__(self, hello: Hello, node: str, link: Link, board: Board, app: FastQ | None = None) -> None:
        """``board``: that of a process with the index 0 and as many slots as ``hello`` says. ``app``: asked by the node's services;
        None: there are no services."""
        self._app = app
        self._shutdown = Shutdown()
        self._born_s = time.monotonic()
        #: orders that stand until the worker takes its first task, and longer, by what they are about
        self._standing: dict[str, Mapping[str, Any]] = {}
        self._hello = hello
        self._link = link
        self._board = board
        self._identity = Identity(node)
        self._loop = Loop() if hasattr(select, "poll") else Loop(_Select())
        self._names: list[str] = []
        self._keeper: Keeper | None = None
        self._node: LocalNode | None = None
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
        queues = Queues(self._hello.queues)
        keeper = self._keeper = Keeper(self._loop, self._hello, self._identity, broker, reaper, queues)
        node = self._node = None if self._app is None else self._node_of(self._app, keeper, queues)
        try:
            self._loop.watch(self._link.fileno(), self._hear)
            keeper.connect(lambda: self._begin(node), self._give_up)
            if not self.refused:
                self._loop.run()
            if node is not None:
                node.services.stop()
            self._bury(keeper)
        finally:
            keeper.close()

    def _begin(self, node: LocalNode | None) -> None:
        if node is not None:
            node.services.start()
        name = self._new_name()
        for order in self._standing.values():
            self._link.send({"order": order})
        self._link.send({"start": {"process": name}})

    # --- what the services of the node see ---

    def _node_of(self, app: FastQ, keeper: Keeper, queues: Queues) -> LocalNode:
        return LocalNode(
            self._identity.node,
            loop=self._loop,
            hello=self._hello,
            shutdown=self._shutdown,
            keeper=keeper,
            queues=queues,
            processes=self._processes,
            order=self._order,
            asking=_Direct(app, self._identity.node),
            stop=self._stop,
            tallies=Tallies(self._board.tallies),
        )

    def _processes(self) -> list[WorkerProcess]:
        region = self._board.region(0, self._hello.room)
        return [WorkerProcess(0, os.getpid(), "MainProcess", bool(self._names), self._born_s, self._names[::-1], region)]

    def _order(self, order: Mapping[str, Any], *, standing: str = "", only: int | None = None) -> int:
        if standing:
            self._standing[standing] = order
        if only not in (None, 0) or not self._names:
            return 0
        return int(self._link.send({"order": order}))

    def _stop(self, how: str) -> None:
        if self._shutdown.move(Stage.COLD if how == "cold" else Stage.WARM) is not None:
            self._link.send({"stop": how})

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
        region = self._board.region(0, self._hello.room)
        if "holding" in message and self._names:
            keeper.watch(self._names[-1], region)
        elif "takes" in message and self._node is not None:
            self._node.steering.took(message["takes"])
        elif "receipt" in message and self._node is not None:
            self._node.services.events.confirmed(message["receipt"])
        elif "fenced" in message:
            if message["fenced"] == self._names[-1]:
                keeper.retire(self._names[-1], region)
                self._new_name()
            self._link.send({"process": self._names[-1]})

    def _bury(self, keeper: Keeper) -> None:
        """Hand back, uncharged, what the worker has left, and end its lease."""
        snapshot = Snapshot.of(
            self._board.region(0, self._hello.room), self._hello.queues if self._node is None else self._node.known_queues
        )
        for name in self._names:
            keeper.bury(name, snapshot, charge=False)
        keeper.bury_the_rest()


class _Direct:
    """Ask the application that is here, in the thread of the lease."""

    def __init__(self, app: FastQ, node: str) -> None:
        self._app = app
        self._node = node

    def ask(self, question: Mapping[str, Any], answer: Callable[[Any], object]) -> None:
        try:
            reply = answer_of(question, self._app, self._node)
        except Exception as exc:  # a command of the application; who asked is told
            reply = exc
        answer(reply)


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
