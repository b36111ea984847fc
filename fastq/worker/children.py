"""The lives of a node's worker processes: started, heard, renamed when they are fenced, buried and replaced.

They come from the supervisor (``start``), which also tells of their pids (``forked``) and deaths (``died``). Their leases are the
keeper's; it is there from the moment the broker has answered (``connected``), and until then they wait, ready. Who is alive, and
what all of them are told, is the ``roster``'s.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastq.worker.board import Board
from fastq.worker.child import Child
from fastq.worker.deaths import describe, explain, kill
from fastq.worker.hello import Hello
from fastq.worker.identity import Identity
from fastq.worker.infancy import Infancy
from fastq.worker.keeper import Keeper
from fastq.worker.link import Link, LinkError
from fastq.worker.loop import Loop
from fastq.worker.overdue import Overdue
from fastq.worker.places import Places
from fastq.worker.queues import Queues
from fastq.worker.reaper import Snapshot
from fastq.worker.roster import Roster
from fastq.worker.say import say_ready
from fastq.worker.shutdown import Shutdown, Stage
from fastq.worker.standstill import Standstill
from fastq.worker.stopping import running_on
from fastq.worker.timeouts import Overrun

__all__ = ["Children", "receive"]

logger = logging.getLogger("fastq.worker")


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
        queues: Queues | None = None,
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
        self._queues = queues or Queues(hello.queues)
        self._roster = roster = Roster(hello, board, self._queues)
        self.processes, self.holdups, self.took_in = roster.processes, roster.holdups, roster.took_in
        self.order, self.tell = roster.order, roster.tell
        #: slots of a process, as far as it has more than one
        self.slots = hello.slots
        self._places = Places()
        self._serial = 0
        self._keeper: Keeper | None = None
        self._was_ready = False
        #: how many processes were replaced, by reason
        self.restarts: Counter[str] = Counter()
        #: how many deliveries the processes of a stopping node have given back that had not started
        self.returned = 0
        self._infancy = Infancy()
        #: takes what a process answers (see ``asking``)
        self.answered: Callable[[Mapping[str, Any]], object] = lambda message: None
        #: called with the number of an order that a process has carried out
        self.confirmed: Callable[[int], object] = lambda number: None
        #: exit statuses that came before the word of the pid
        self._early: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._roster)

    # --- coming to life ---

    def start(self) -> None:
        """Start as many as the application asks for."""
        self.resize(self._hello.processes)

    def resize(self, processes: int) -> None:
        """Have so many from now on. What is too many, the idle ones first, finishes what it runs and ends: nothing goes back but
        what had not started."""
        if self._shutdown.stage is not Stage.RUNNING:
            return
        while len(self._places) < processes:
            self._start(self._places.add())
        surplus = len(self._places) - processes
        if surplus > 0:
            for place in sorted(self._places, key=self._roster.worth)[:surplus]:
                self._places.remove(place)
                for child in self._roster.at(place):
                    child.spent = child.retired = True
                    child.link.send({"stop": "warm"})

    def _start(self, place: int) -> None:
        hello = self._hello
        if self._shutdown.stage is not Stage.RUNNING:
            return
        if not self._roster.unforked():
            self._early.clear()  # orphans of tasks, adopted from dead processes
        self._serial += 1
        index = self._places.take_index()
        self._roster.region(index).clear()
        self._board.deadlines(index, hello.room).clear()
        self._board.flight(index, hello.room).clear()
        request = {
            "serial": self._serial,
            "index": index,
            "pool": hello.pool,
            "slots": self.slots,
            "room": hello.room,
            "queues": tuple(self._queues.known),
            "node": self._identity.node,
        }
        pid, link = self._start_process(request)
        child = Child(index, place, self._serial, link, time.monotonic(), pid)
        self._roster.add(child)
        self._loop.watch(link.fileno(), lambda: self._hear(child))

    def forked(self, serial: int, pid: int) -> None:
        """Take in the pid of a process that was asked for; 0: it could not be forked."""
        child = self._roster.get(serial)
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
        self._admit(keeper, [child for child in self._roster if child.ready])

    def _admit(self, keeper: Keeper, children: Sequence[Child]) -> None:
        """Enter the leases of processes, then tell them their names."""
        children = [child for child in children if not child.retired]
        if not children or self._shutdown.stage is not Stage.RUNNING:
            return
        for child in children:
            child.process = self._identity.new_name(child.index)
        keeper.enter(*(child.process for child in children))
        for child in children:
            self._roster.give_standing(child)
            child.takes = self._queues.changes  # it takes nothing before it has read that
            child.link.send({"start": {"process": child.process}})
            self._watch_standstill(keeper, child)
        self._tell_if_ready()

    def _tell_if_ready(self) -> None:
        if not self._was_ready and all(child.process or child.retired for child in self._roster):
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
            flight = self._board.flight(child.index, self._hello.room)
            keeper.watch(child.process, self._roster.region(child.index), flight)
        elif "limits" in message:
            self._watch_limits(child)
        elif "answered" in message and child.standstill is not None:
            child.standstill.answered()
        elif "answer" in message:
            self.answered(message)
        elif "receipt" in message:
            self.confirmed(message["receipt"])
        elif "takes" in message:
            child.takes = message["takes"]
        elif "recycle" in message:
            logger.info("Process %r ends (%s), another takes its place", self._roster.title(child.index), message["recycle"])
            child.spent = True
            if not child.retired:
                self._relieve(child)
        elif "fenced" in message and keeper is not None:
            self._rename(keeper, child, message["fenced"])
        elif "error" in message:
            child.error = message["error"]
        elif "stopped" in message:
            if not child.retired:
                self.returned += message.get("returned", 0)
            busy = self._hello.pool == "prefork" and running_on(self._roster.region(child.index), self._queues.known)
            if busy and message["stopped"] == "cold":
                # its main thread is in the task and nothing settles that any more: the less of it runs twice the better
                kill(child.pid)

    def _rename(self, keeper: Keeper, child: Child, fenced: str) -> None:
        """Give a process whose lease was taken away a new name; under the old one it only settles what it was running."""
        if fenced == child.process:  # if not, an answer to an earlier name: it has been given a new one
            logger.info("Process %s goes on under a new name", fenced)
            keeper.retire(fenced, self._roster.region(child.index))
            child.former.append(fenced)
            child.process = self._identity.new_name(child.index)
            keeper.enter(child.process)
        child.link.send({"process": child.process})

    def _relieve(self, child: Child) -> None:
        """Start the successor of a process of many slots at once: the longest of its tasks may run for hours, and its other slots
        would be idle for as long. Not of one slot: two long tasks would run where one was allowed.

        There are two processes in a place at most: what is spent while its predecessor still runs waits for that.
        """
        if self.slots > 1 and len(self._roster.at(child.place)) == 1 and self._shutdown.stage is Stage.RUNNING:
            child.relieved = True
            self._start(child.place)

    def _watch_limits(self, child: Child) -> None:
        """A run with a hard time limit has begun that is due before the next look."""
        if not child.pid:
            return  # it runs nothing before it is admitted, and its pid is told before that
        if child.overdue is None:
            deadlines = self._board.deadlines(child.index, self._hello.room)
            child.overdue = Overdue(
                self._loop, self._roster.region(child.index), deadlines, self._queues.known, kill=lambda: kill(child.pid)
            )
        child.overdue.look()

    def _watch_standstill(self, keeper: Keeper, child: Child) -> None:
        """Look from time to time whether the broker answers a process, as long as it takes tasks."""
        hello = self._hello
        foreign = hello.backend_url != hello.broker_url and not hello.backend_url.startswith("disabled:")
        child.standstill = Standstill(hello.lease_ms / 1000, foreign=foreign)
        child.standstill.watch(
            self._loop,
            self._roster.region(child.index),
            self._roster.title(child.index),
            wanted=lambda: child in self._roster and not child.spent and self._shutdown.stage is Stage.RUNNING,
            reachable=lambda: keeper.reachable,
            replace=lambda: kill(child.pid),
        )

    # --- dying ---

    def died(self, pid: int, status: int) -> None:
        """Take in a death: of one of these, or of an orphan that a task left."""
        child = next((child for child in self._roster if child.pid == pid), None)
        if child is not None:
            self._lose(child, status)
        elif self._roster.unforked():
            self._early[pid] = status

    def lose_unforked(self) -> None:
        """Give up those that are still being forked: who was asked for them is dead."""
        for child in self._roster.unforked():
            self._lose(child, None)

    def _lose(self, child: Child, status: int | None) -> None:
        """Bury a process and start another in its place. ``status`` None: it never came to life."""
        if not child.link.closed:
            for message in receive(child.link):
                child.error = message.get("error", child.error)
                self.returned += message.get("returned", 0) if not child.retired else 0
        self._drop(child)
        charge = self._shutdown.stage < Stage.COLD
        overruns: Sequence[Overrun] = ()
        if child.overdue is not None:
            child.overdue.stop()
            overruns = child.overdue.overruns
        overruns = [*overruns, *child.ended_for]
        if child.process and self._keeper is not None:
            how = f"ended with {explain(status)}" if status else "died"
            snapshot = Snapshot.of(self._roster.region(child.index), self._queues.known, how)
            for process in (child.process, *child.former):
                self._keeper.bury(process, snapshot, charge=charge, overruns=overruns)
        if status and self._shutdown.stage < Stage.COLD:
            over = "was revoked" if child.ended_for else "was over its hard time limit"
            how = f"{describe(status)}, killed: its task {over}" if overruns else explain(status)
            logger.error("Process %r pid:%d exited with %s", self._roster.title(child.index), child.pid, how)
            if child.error:
                logger.error("%s", child.error)
        if self._shutdown.stage is not Stage.RUNNING:
            self._tell_if_gone()
        elif child.error and not self._was_ready:
            self._fail(child.error)
        elif child.retired:
            logger.info("Process %r has ended: the node has shrunk", self._roster.title(child.index))
            self._tell_if_ready()
        elif child.relieved:
            for successor in self._roster.at(child.place):
                if successor.spent:
                    self._relieve(successor)
        else:
            self._replace(child, in_order=status == 0 or bool(overruns))
        if self._shutdown.stage is Stage.RUNNING and not child.retired:
            self.restarts[_reason(child, status, overruns)] += 1

    def _replace(self, child: Child, *, in_order: bool) -> None:
        place, index = child.place, child.index
        age_s = time.monotonic() - child.born_s
        deaths, delay_s = self._infancy.died(place, age_s, self._roster.region(index), in_order=in_order)
        if not delay_s:
            self._start(place)
            return
        logger.error("%s died young %d times in a row, the next one starts in %.1f s", self._roster.title(index), deaths, delay_s)
        self._loop.after(delay_s, lambda: self._start_if_empty(place))

    def _start_if_empty(self, place: int) -> None:
        """Start a successor that was held back, unless the node has shrunk meanwhile, or shrunk and grown again."""
        if place in self._places and not self._roster.at(place):
            self._start(place)

    def _drop(self, child: Child) -> None:
        self._loop.unwatch(child.link.fileno())
        child.link.close()
        self._places.free_index(child.index)
        self._roster.remove(child)

    def _tell_if_gone(self) -> None:
        if not self._roster:
            self._gone()

    # --- stopping ---

    def end(self, index: int, runs: Sequence[Overrun]) -> bool:
        """Kill a process because of what it runs, which was revoked; False: it is not there any more."""
        child = next((child for child in self._roster if child.index == index and child.pid), None)
        if child is None:
            return False
        child.ended_for = runs
        kill(child.pid)
        return True

    def kill(self) -> None:
        """Kill all, of a node that is stopping; ``died`` tells when."""
        for child in list(self._roster):
            if child.pid:
                kill(child.pid)
            else:
                # still being forked: the end of its link tells it, and it has nothing
                self._drop(child)
        self._tell_if_gone()

    def close(self) -> None:
        """Kill and bury those that are left, after the loop: only if the node could not start."""
        for child in list(self._roster):
            if child.pid:
                kill(child.pid)
                os.waitpid(child.pid, 0)
            self._shutdown.move(Stage.KILL)  # nobody is to blame
            self._lose(child, None)


def _reason(child: Child, status: int | None, overruns: Sequence[Overrun]) -> str:
    """Say in a word why a process has ended that another is to take the place of."""
    if overruns:
        return "revoked" if any(overrun.signal for overrun in overruns) else "time-limit"
    return "recycled" if child.spent else "stopped" if status == 0 else "died"


def receive(link: Link) -> list[dict[str, Any]]:
    """Return the messages that have come; a link on which something else came is closed."""
    try:
        return link.receive()
    except LinkError as exc:
        # never seen from our own code: a task that writes to descriptors it does not own
        logger.error("A process sent what is no message (%s): its link is closed", exc)
        link.closed = True
        return []
