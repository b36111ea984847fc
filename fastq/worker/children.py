"""The worker processes of a node: started, heard, renamed when they are fenced, buried and replaced.

They come from the supervisor (``start``), which also tells of their pids (``forked``) and deaths (``died``). Their leases are the
keeper's; it is there from the moment the broker has answered (``connected``), and until then they wait, ready.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastq._core import ProcessBoard
from fastq.worker.board import Board
from fastq.worker.deaths import describe, explain, kill
from fastq.worker.hello import Hello
from fastq.worker.identity import Identity
from fastq.worker.infancy import Infancy
from fastq.worker.keeper import Keeper
from fastq.worker.link import Link, LinkError
from fastq.worker.loop import Loop
from fastq.worker.node import WorkerProcess
from fastq.worker.overdue import Overdue
from fastq.worker.procname import display_name
from fastq.worker.reaper import Snapshot
from fastq.worker.say import say_ready
from fastq.worker.shutdown import Shutdown, Stage
from fastq.worker.standstill import Standstill
from fastq.worker.stopping import Holdup, running_on
from fastq.worker.timeouts import Overrun

__all__ = ["Children", "receive"]

logger = logging.getLogger("fastq.worker")


@dataclass(slots=True)
class Child:
    """One worker process."""

    #: of its region on the board, and in its names
    index: int
    serial: int
    link: Link
    born_s: float
    #: 0: still being forked
    pid: int
    #: its name to the broker; "" until its lease is entered
    process: str = ""
    #: names it had before it was fenced
    former: list[str] = field(default_factory=list)
    ready: bool = False
    #: it takes no more tasks, and ends when what it runs has ended
    spent: bool = False
    #: its successor was started ahead of its end
    relieved: bool = False
    #: what it said went wrong
    error: str = ""
    #: from its first run with a hard time limit on
    overdue: Overdue | None = None
    #: from its admission on
    standstill: Standstill | None = None


class Children:
    """All worker processes of one node.

    ``start`` takes a request and returns (pid, or 0 if ``forked`` will tell; the link). ``fail`` is told why the node cannot start,
    ``ready`` that all take tasks, ``gone`` that the last process of a stopping node has ended.
    """

    def __init__(
        self,
        loop: Loop,
        hello: Hello,
        identity: Identity,
        board: Board,
        shutdown: Shutdown,
        *,
        start: Callable[[dict[str, Any]], tuple[int, Link]],
        fail: Callable[[str], object],
        ready: Callable[[], object],
        gone: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._hello = hello
        self._identity = identity
        self._board = board
        self._shutdown = shutdown
        self._start_process = start
        self._fail = fail
        self._ready = ready
        self._gone = gone
        self._children: dict[int, Child] = {}  # by serial
        self._serial = 0
        self._keeper: Keeper | None = None
        self._was_ready = False
        #: how many deliveries the processes of a stopping node have given back that had not started
        self.returned = 0
        self._infancy = Infancy()
        #: orders that later processes are given too, by what they are about
        self._standing: dict[str, Mapping[str, Any]] = {}
        #: exit statuses that came before the word of the pid
        self._early: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._children)

    # --- coming to life ---

    def start(self) -> None:
        """Start as many as the application asks for."""
        for index in range(self._hello.processes):
            self._start(index)

    def _start(self, index: int) -> None:
        hello = self._hello
        if self._shutdown.stage is not Stage.RUNNING:
            return
        if not self._unforked():
            self._early.clear()  # orphans of tasks, adopted from dead processes
        self._serial += 1
        self._region(index).clear()
        self._board.deadlines(index, hello.slots).clear()
        self._board.flight(index, hello.slots).clear()
        request = {
            "serial": self._serial,
            "index": index,
            "pool": hello.pool,
            "slots": hello.slots,
            "queues": hello.queues,
            "node": self._identity.node,
        }
        pid, link = self._start_process(request)
        child = Child(index, self._serial, link, time.monotonic(), pid)
        self._children[child.serial] = child
        self._loop.watch(link.fileno(), lambda: self._hear(child))

    def forked(self, serial: int, pid: int) -> None:
        """Take in the pid of a process that was asked for; 0: it could not be forked."""
        child = self._children.get(serial)
        if child is None:
            return
        if not pid:
            self._lose(child, None)
            return
        child.pid = pid
        status = self._early.pop(pid, None)
        if status is not None:
            self._lose(child, status)

    def connected(self, keeper: Keeper) -> None:
        """Let processes take tasks from now on, as they get ready."""
        self._keeper = keeper
        self._admit(keeper, [child for child in self._children.values() if child.ready])

    def _admit(self, keeper: Keeper, children: Sequence[Child]) -> None:
        """Enter the leases of processes, then tell them their names."""
        if not children or self._shutdown.stage is not Stage.RUNNING:
            return
        for child in children:
            child.process = self._identity.new_name(child.index)
        keeper.enter(*(child.process for child in children))
        for child in children:
            for order in self._standing.values():
                child.link.send({"order": order})
            child.link.send({"start": {"process": child.process}})
            self._watch_standstill(keeper, child)
        if not self._was_ready and all(child.process for child in self._children.values()):
            self._was_ready = True
            say_ready(self._identity.node)
            self._ready()

    # --- what they say ---

    def _hear(self, child: Child) -> None:
        for message in receive(child.link):
            self._obey(child, message)
        if child.link.closed:
            # its death is told by waitpid
            self._loop.unwatch(child.link.fileno())

    def _obey(self, child: Child, message: dict[str, Any]) -> None:
        keeper = self._keeper
        if "ready" in message:
            child.ready = True
            if keeper is not None:
                self._admit(keeper, [child])
        elif "holding" in message and keeper is not None and child.process:
            flight = self._board.flight(child.index, self._hello.slots)
            keeper.watch(child.process, self._region(child.index), flight)
        elif "limits" in message:
            self._watch_limits(child)
        elif "answered" in message and child.standstill is not None:
            child.standstill.answered()
        elif "recycle" in message:
            logger.info("Process %r ends (%s), another takes its place", self._title(child.index), message["recycle"])
            child.spent = True
            self._relieve(child)
        elif "fenced" in message and keeper is not None:
            self._rename(keeper, child, message["fenced"])
        elif "error" in message:
            child.error = message["error"]
        elif "stopped" in message:
            self.returned += message.get("returned", 0)
            busy = self._hello.pool == "prefork" and running_on(self._region(child.index), self._hello.queues)
            if busy and message["stopped"] == "cold":
                # its main thread is in the task and nothing settles that any more: the less of it runs twice the better
                kill(child.pid)

    def _rename(self, keeper: Keeper, child: Child, fenced: str) -> None:
        """Give a process whose lease was taken away a new name; under the old one it only settles what it was running."""
        if fenced == child.process:  # if not, an answer to an earlier name: it has been given a new one
            logger.info("Process %s goes on under a new name", fenced)
            keeper.retire(fenced, self._region(child.index))
            child.former.append(fenced)
            child.process = self._identity.new_name(child.index)
            keeper.enter(child.process)
        child.link.send({"process": child.process})

    def _relieve(self, child: Child) -> None:
        """Start the successor of a process of many slots at once: the longest of its tasks may run for hours, and its other slots
        would be idle for as long. Not of one slot: two long tasks would run where one was allowed.

        A place has two indexes, so there are two processes at most: what is spent while its predecessor still runs waits for that.
        """
        if self._hello.slots > 1 and len(self._at(child.index)) == 1 and self._shutdown.stage is Stage.RUNNING:
            child.relieved = True
            processes = self._hello.processes
            self._start(child.index + processes if child.index < processes else child.index - processes)

    def _at(self, index: int) -> list[Child]:
        """Return the processes of one place."""
        processes = self._hello.processes
        return [child for child in self._children.values() if child.index % processes == index % processes]

    def _watch_limits(self, child: Child) -> None:
        """A run with a hard time limit has begun that is due before the next look."""
        if not child.pid:
            return  # it runs nothing before it is admitted, and its pid is told before that
        if child.overdue is None:
            deadlines = self._board.deadlines(child.index, self._hello.slots)
            child.overdue = Overdue(
                self._loop, self._region(child.index), deadlines, self._hello.queues, kill=lambda: kill(child.pid)
            )
        child.overdue.look()

    def _watch_standstill(self, keeper: Keeper, child: Child) -> None:
        """Look from time to time whether the broker answers a process, as long as it takes tasks."""
        hello = self._hello
        foreign = hello.backend_url != hello.broker_url and not hello.backend_url.startswith("disabled:")
        child.standstill = Standstill(hello.lease_ms / 1000, foreign=foreign)
        child.standstill.watch(
            self._loop,
            self._region(child.index),
            self._title(child.index),
            wanted=lambda: child.serial in self._children and not child.spent and self._shutdown.stage is Stage.RUNNING,
            reachable=lambda: keeper.reachable,
            replace=lambda: kill(child.pid),
        )

    def _region(self, index: int) -> ProcessBoard:
        return self._board.region(index, self._hello.slots)

    # --- dying ---

    def died(self, pid: int, status: int) -> None:
        """Take in a death: of one of these, or of an orphan that a task left."""
        child = next((child for child in self._children.values() if child.pid == pid), None)
        if child is not None:
            self._lose(child, status)
        elif self._unforked():
            self._early[pid] = status

    def lose_unforked(self) -> None:
        """Give up those that are still being forked: who was asked for them is dead."""
        for child in self._unforked():
            self._lose(child, None)

    def _unforked(self) -> list[Child]:
        return [child for child in self._children.values() if not child.pid]

    def _lose(self, child: Child, status: int | None) -> None:
        """Bury a process and start another in its place. ``status`` None: it never came to life."""
        if not child.link.closed:
            for message in receive(child.link):
                child.error = message.get("error", child.error)
                self.returned += message.get("returned", 0)
        self._drop(child)
        charge = self._shutdown.stage < Stage.COLD
        overruns: Sequence[Overrun] = ()
        if child.overdue is not None:
            child.overdue.stop()
            overruns = child.overdue.overruns
        if child.process and self._keeper is not None:
            how = f"ended with {explain(status)}" if status else "died"
            snapshot = Snapshot.of(self._region(child.index), self._hello.queues, how)
            for process in (child.process, *child.former):
                self._keeper.bury(process, snapshot, charge=charge, overruns=overruns)
        if status and self._shutdown.stage < Stage.COLD:
            how = f"{describe(status)}, killed: its task was over its hard time limit" if overruns else explain(status)
            logger.error("Process %r pid:%d exited with %s", self._title(child.index), child.pid, how)
            if child.error:
                logger.error("%s", child.error)
        if self._shutdown.stage is not Stage.RUNNING:
            self._tell_if_gone()
        elif child.error and not self._was_ready:
            self._fail(child.error)
        elif child.relieved:
            for successor in self._at(child.index):
                if successor.spent:
                    self._relieve(successor)
        else:
            self._replace(child, in_order=status == 0 or bool(overruns))

    def _replace(self, child: Child, *, in_order: bool) -> None:
        index = child.index
        age_s = time.monotonic() - child.born_s
        deaths, delay_s = self._infancy.died(index, age_s, self._region(index), in_order=in_order)
        if not delay_s:
            self._start(index)
            return
        logger.error("%s died young %d times in a row, the next one starts in %.1f s", self._title(index), deaths, delay_s)
        self._loop.after(delay_s, lambda: self._start(index))

    def _title(self, index: int) -> str:
        return display_name(self._hello.pool, index)

    def _drop(self, child: Child) -> None:
        self._loop.unwatch(child.link.fileno())
        child.link.close()
        del self._children[child.serial]

    def _tell_if_gone(self) -> None:
        if not self._children:
            self._gone()

    # --- orders ---

    def order(self, order: Mapping[str, Any], *, standing: str = "", only: int | None = None) -> int:
        """Send an order to the processes, see ``Node.order``."""
        if standing:
            self._standing[standing] = order
        # those not admitted yet are given what stands when they are
        told = [child for child in self._children.values() if only in (None, child.index) and (child.process or not standing)]
        for child in told:
            child.link.send({"order": order})
        return len(told)

    def processes(self) -> list[WorkerProcess]:
        """Return those that have not ended."""
        return [
            WorkerProcess(
                child.index,
                child.pid,
                self._title(child.index),
                bool(child.process),
                child.born_s,
                (child.process, *child.former) if child.process else (),
                self._region(child.index),
            )
            for child in self._children.values()
        ]

    # --- stopping ---

    def tell(self, how: str, sig: str = "", *, told: str = "") -> None:
        """Ask all to stop, warm or cold. ``sig``: the name of the signal that asked for it, which receivers of signals are told;
        ``told``: what they are told instead of ``how``."""
        message = {"stop": how}
        if sig and self._hello.listened:
            message |= {"sig": sig, "told": told or how}
        for child in self._children.values():
            child.link.send(message)

    def holdups(self) -> list[Holdup]:
        """Return the processes that have not ended, and what they run."""
        return [
            Holdup(
                self._title(child.index),
                child.pid,
                (child.process, *child.former) if child.process else (),
                running_on(self._region(child.index), self._hello.queues) if child.process else (),
            )
            for child in self._children.values()
        ]

    def kill(self) -> None:
        """Kill all, of a node that is stopping; ``died`` tells when."""
        for child in list(self._children.values()):
            if child.pid:
                kill(child.pid)
            else:
                # still being forked: the end of its link tells it, and it has nothing
                self._drop(child)
        self._tell_if_gone()

    def close(self) -> None:
        """Kill and bury those that are left, after the loop: only if the node could not start."""
        for child in list(self._children.values()):
            if child.pid:
                kill(child.pid)
                os.waitpid(child.pid, 0)
            self._shutdown.move(Stage.KILL)  # nobody is to blame
            self._lose(child, None)


def receive(link: Link) -> list[dict[str, Any]]:
    """Return the messages that have come; a link on which something else came is closed."""
    try:
        return link.receive()
    except LinkError as exc:
        # never seen from our own code: a task that writes to descriptors it does not own
        logger.error("A process sent what is no message (%s): its link is closed", exc)
        link.closed = True
        return []
