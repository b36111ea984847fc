"""The supervisor of a worker node: starts, watches and replaces its processes. It runs no user code and has one thread.

Where what happens: the broker's side is ``keeper``, stopping is decided in ``shutdown``, processes come from ``starters``.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from fastq._core import ProcessBoard
from fastq.exceptions import FastQError, ImproperlyConfigured
from fastq.worker.banner import banner
from fastq.worker.board import Board
from fastq.worker.hello import Hello, set_up_logging, unshared
from fastq.worker.identity import Identity
from fastq.worker.keeper import Keeper, open_store
from fastq.worker.kinship import adopt_orphans
from fastq.worker.link import Link, LinkError
from fastq.worker.loop import Loop, Timer
from fastq.worker.nursery import STOP_SIGNALS
from fastq.worker.options import WorkerOptions
from fastq.worker.procname import display_name, expand_node
from fastq.worker.reaper import Snapshot
from fastq.worker.reconnect import Backoff
from fastq.worker.shutdown import Shutdown, Stage
from fastq.worker.starters import NurseryHouse, spawn_green

__all__ = ["Supervisor", "run"]

logger = logging.getLogger("fastq.worker")

#: a process that dies younger than this died of something that its successor will meet too
YOUNG_S = 5.0
#: so many young deaths in a row are replaced at once: chaos, or a poisonous task on its way to the dead letters
FREE_DEATHS = 3
#: seconds a cold stop leaves for settling what has finished
COLD_GRACE_S = 1.0


def run(options: WorkerOptions) -> int:
    """Run a worker node in this process until it is stopped; return its exit code.

    0: stopped warm. 1: stopped cold, or it could not start (the reason is on stderr).
    """
    return Supervisor(options).run()


@dataclass(slots=True)
class Child:
    """One worker process."""

    index: int
    serial: int
    link: Link
    born_s: float
    pid: int = 0
    #: its name to the broker; "" until its lease is entered
    process: str = ""
    #: names it had before it was fenced
    former: list[str] = field(default_factory=list)
    ready: bool = False
    #: why it asked to be replaced
    recycle: str = ""
    #: what it said went wrong
    error: str = ""


class Supervisor:
    """One node. ``start_nursery`` is replaced in tests."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._loop = Loop()
        self._shutdown = Shutdown()
        self._board = Board()
        self._children: dict[int, Child] = {}  # by serial
        self._serial = 0
        self._young_deaths: dict[int, int] = {}
        self._delays: dict[int, Backoff] = {}
        #: exit statuses that came before the nursery's word of the pid
        self._early: dict[int, int] = {}
        self._nursery: NurseryHouse | None = None
        #: the first green interpreter, until it has said hello
        self._first_green: tuple[int, Link] | None = None
        self._hello: Hello | None = None
        self._keeper: Keeper | None = None
        self._connected = False
        self._was_ready = False
        self._exit_code: int | None = None
        self._kill_timer: Timer | None = None
        self._handover = False
        self._node = ""
        self._signals: tuple[socket.socket, socket.socket] | None = None
        #: what handled the signals before
        self._handlers: dict[int, Any] = {}

    # --- the life of a node ---

    def run(self) -> int:
        try:
            self._node = expand_node(self._options.hostname)
            self._identity = Identity(self._node)
            self._take_signals()
            self._start_first()
        except ImproperlyConfigured as exc:
            print(f"Error: {exc}", file=sys.stderr)
            return 1
        self._loop.run()
        self._leave()
        if self._handover:
            # lazy: only when the setting worker_pool says solo, which is known after the application was imported
            from fastq.worker.solo import run as run_solo

            return run_solo(replace(self._options, pool="solo"))
        return self._shutdown.exit_code if self._exit_code is None else self._exit_code

    def _start_first(self) -> None:
        # lazy: imports nothing else
        from fastq.pools import check_installed, needs_patching

        pool = self._options.pool
        if pool is not None and needs_patching(pool):
            check_installed(pool)
            self._start_green(pool)
        else:
            self._start_nursery()

    def _start_nursery(self) -> None:
        assert self._signals is not None
        if not adopt_orphans():
            raise ImproperlyConfigured(
                f"prefork, threads and asyncio need Linux ({sys.platform} has no way to adopt processes); "
                "here use -P solo, gevent or eventlet"
            )
        self._nursery = NurseryHouse(self._options)
        self._nursery.fork([s.fileno() for s in self._signals])
        self._loop.watch(self._nursery.link.fileno(), self._hear_nursery)

    def _start_green(self, pool: str) -> None:
        """Start the first process of a green pool: its hello is the node's."""
        pid, link = spawn_green(pool, self._options, self._board.fd)
        self._first_green = (pid, link)
        self._loop.watch(link.fileno(), self._hear_first_green)

    def _hear_nursery(self) -> None:
        nursery = self._nursery
        assert nursery is not None
        for message in self._receive(nursery.link):
            if "hello" in message:
                self._greet(message["hello"])
            elif "error" in message:
                self._fail(message["error"])
            elif "forked" in message:
                self._forked(message["forked"], message["pid"])
        if nursery.link.closed:
            self._loop.unwatch(nursery.link.fileno())

    def _hear_first_green(self) -> None:
        assert self._first_green is not None
        _, link = self._first_green
        for message in self._receive(link):
            if "hello" in message:
                self._loop.unwatch(link.fileno())
                self._greet(message["hello"])
                return
            if "error" in message:
                self._fail(message["error"])
        if link.closed:
            self._loop.unwatch(link.fileno())

    def _greet(self, message: dict[str, Any]) -> None:
        """Go on with what the application says."""
        if self._hello is not None:
            return  # a nursery that replaces one that died: the node goes on as it began
        hello = Hello.from_message(message)
        if hello.pool == "solo":
            self._handover = True
            self._loop.stop()
            return
        try:
            unshared(hello)
            # lazy: as above
            from fastq.pools import check_installed, needs_patching

            green = needs_patching(hello.pool)
            if green:
                check_installed(hello.pool)
                self._drop_nursery()
        except ImproperlyConfigured as exc:
            self._fail(str(exc))
            return
        self._hello = hello
        set_up_logging(self._options.loglevel, hello)
        print(banner(hello, self._node), flush=True)
        # ahead of the connection: processes come to life while the broker is being reached
        for index in range(hello.processes):
            self._start_child(index)
        try:
            broker, reaper = open_store(hello)
        except FastQError as exc:
            self._fail(str(exc))
            return
        self._keeper = Keeper(self._loop, hello, self._identity, broker, reaper)
        self._keeper.connect(self._on_connected, self._fail)

    def _on_connected(self) -> None:
        self._connected = True
        self._admit([child for child in self._children.values() if child.ready])

    def _admit(self, children: Sequence[Child]) -> None:
        """Let processes take tasks: enter their leases, then tell them their names."""
        assert self._keeper is not None
        if not children or self._shutdown.stage is not Stage.RUNNING:
            return
        for child in children:
            child.process = self._identity.new_name(child.index)
        self._keeper.enter(*(child.process for child in children))
        for child in children:
            child.link.send({"start": {"process": child.process}})
        self._announce()

    def _announce(self) -> None:
        """Say that the node is ready, once, when its first processes are."""
        if not self._was_ready and all(c.process for c in self._children.values()):
            self._was_ready = True
            say_ready(self._node)

    def _fail(self, text: str) -> None:
        """Give up at start."""
        print(f"Error: {text}", file=sys.stderr, flush=True)
        self._exit_code = 1
        self._loop.stop()

    # --- processes ---

    def _start_child(self, index: int) -> None:
        hello = self._hello
        assert hello is not None
        if self._shutdown.stage is not Stage.RUNNING:
            return
        self._serial += 1
        region = self._board.region(index, hello.slots)
        region.clear()
        request = {
            "serial": self._serial,
            "index": index,
            "pool": hello.pool,
            "slots": hello.slots,
            "queues": hello.queues,
            "node": self._node,
        }
        if self._nursery is not None:
            link, theirs = Link.pair(patience_s=0)
            with theirs:
                self._nursery.request(request, theirs, self._board.fd)
            pid = 0
        else:
            if self._first_green is not None:
                (pid, link), self._first_green = self._first_green, None
            else:
                pid, link = spawn_green(hello.pool, self._options, self._board.fd)
            link.send({"live": request})
        child = Child(index, self._serial, link, time.monotonic(), pid)
        self._children[child.serial] = child
        self._loop.watch(link.fileno(), lambda: self._hear(child))

    def _forked(self, serial: int, pid: int) -> None:
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

    def _hear(self, child: Child) -> None:
        for message in self._receive(child.link):
            self._obey(child, message)
        if child.link.closed:
            # its death is told by waitpid
            self._loop.unwatch(child.link.fileno())

    def _obey(self, child: Child, message: dict[str, Any]) -> None:
        if "ready" in message:
            child.ready = True
            if self._connected:
                self._admit([child])
        elif "holding" in message and self._keeper is not None and child.process:
            self._keeper.watch(child.process, self._region(child))
        elif "fenced" in message and self._keeper is not None:
            self._rename(child, message["fenced"])
        elif "recycle" in message:
            child.recycle = message["recycle"]
        elif "error" in message:
            child.error = message["error"]

    def _region(self, child: Child) -> ProcessBoard:
        assert self._hello is not None
        return self._board.region(child.index, self._hello.slots)

    def _rename(self, child: Child, fenced: str) -> None:
        """Give a process whose lease was taken away a new name; under the old one it only settles what it was running."""
        assert self._keeper is not None
        if fenced != child.process:
            child.link.send({"process": child.process})  # an answer to an earlier name: it has been given a new one
            return
        logger.info("Process %s goes on under a new name", fenced)
        self._keeper.retire(fenced, self._region(child))
        child.former.append(fenced)
        child.process = self._identity.new_name(child.index)
        self._keeper.enter(child.process)
        child.link.send({"process": child.process})

    def _reap_children(self) -> None:
        """Take in every death; more than one may stand behind one signal."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if self._nursery is not None and pid == self._nursery.pid:
                self._lose_nursery()
                continue
            if self._first_green is not None and pid == self._first_green[0]:
                self._hear_first_green()
                if self._exit_code is None:
                    self._fail(f"the first process ended before it said hello ({describe(status)})")
                continue
            child = next((c for c in self._children.values() if c.pid == pid), None)
            if child is not None:
                self._lose(child, status)
            elif any(not c.pid for c in self._children.values()):
                self._early[pid] = status
        if not any(not c.pid for c in self._children.values()):
            self._early.clear()  # orphans of tasks, adopted from dead processes

    def _lose(self, child: Child, status: int | None) -> None:
        """Bury a process and start another in its place. ``status`` None: it never came to life."""
        hello = self._hello
        assert hello is not None
        if not child.link.closed:
            for message in self._receive(child.link):
                if "error" in message or "recycle" in message:
                    self._obey(child, message)
        self._loop.unwatch(child.link.fileno())
        child.link.close()
        del self._children[child.serial]
        in_order = status == 0
        charge = self._shutdown.stage < Stage.COLD
        if child.process and self._keeper is not None:
            snapshot = Snapshot.of(self._region(child), hello.queues)
            for process in (child.process, *child.former):
                self._keeper.bury(process, snapshot, charge=charge)
        if status is not None and not in_order and self._shutdown.stage < Stage.COLD:
            name = display_name(hello.pool, child.index)
            logger.error("Process %r pid:%d exited with %s", name, child.pid, describe(status))
            if child.error:
                logger.error("%s", child.error)
        if self._shutdown.stage is not Stage.RUNNING:
            self._maybe_done()
        elif child.error and not self._was_ready:
            self._fail(child.error)
        else:
            self._replace(child, in_order)

    def _replace(self, child: Child, in_order: bool) -> None:
        index = child.index
        if in_order or time.monotonic() - child.born_s > YOUNG_S:
            self._young_deaths.pop(index, None)
            self._delays.pop(index, None)
            self._start_child(index)
            return
        deaths = self._young_deaths[index] = self._young_deaths.get(index, 0) + 1
        if deaths <= FREE_DEATHS:
            self._start_child(index)
            return
        delay_s = self._delays.setdefault(index, Backoff(longest_s=15.0, first_s=0.5)).next_s()
        logger.error("%s died young %d times in a row, the next one starts in %.1f s", self._title(index), deaths, delay_s)
        self._loop.after(delay_s, lambda: self._start_child(index))

    def _title(self, index: int) -> str:
        assert self._hello is not None
        return display_name(self._hello.pool, index)

    def _lose_nursery(self) -> None:
        nursery = self._nursery
        assert nursery is not None
        self._hear_nursery()  # it may have said why
        nursery.pid = 0
        if self._exit_code is not None or self._shutdown.stage is not Stage.RUNNING or self._handover:
            return
        if self._hello is None:
            self._fail("the application's process ended while it was importing the application")
            return
        logger.error("The nursery died: starting another, running tasks are not touched")
        self._loop.unwatch(nursery.link.fileno())
        nursery.respawn()
        self._loop.watch(nursery.link.fileno(), self._hear_nursery)
        # what the old one left undone is asked of the new one; a process it did fork, and did not tell, reads the end of its link
        for child in [child for child in self._children.values() if not child.pid]:
            self._lose(child, None)

    def _drop_nursery(self) -> None:
        if self._nursery is not None:
            self._loop.unwatch(self._nursery.link.fileno())
            self._nursery.close()
            self._nursery = None

    # --- signals and stopping ---

    def _take_signals(self) -> None:
        """Let signals wake the loop; nothing is done in a handler."""
        read, write = socket.socketpair()
        read.setblocking(False)
        write.setblocking(False)
        self._signals = (read, write)

        def nothing(signum: int, frame: FrameType | None) -> None:
            pass

        for signum in (*STOP_SIGNALS, signal.SIGCHLD):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # nohup is respected
                self._handlers[signum] = signal.signal(signum, nothing)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        self._loop.watch(read.fileno(), self._on_signals)

    def _on_signals(self) -> None:
        assert self._signals is not None
        try:
            received = self._signals[0].recv(4096)
        except BlockingIOError:
            return
        for signum in received:
            if signum in STOP_SIGNALS:
                self._act(self._shutdown.signal(signum, time.monotonic()))
        if signal.SIGCHLD in received:
            self._reap_children()

    def _act(self, stage: Stage | None) -> None:
        if stage is None:
            return
        if stage is Stage.WARM:
            say("worker: Warm shutdown (MainProcess)")
            self._tell("warm")
        elif stage is Stage.COLD:
            say("worker: Cold shutdown (MainProcess)")
            self._tell("cold")
            self._kill_timer = self._loop.after(COLD_GRACE_S, self._kill)
        else:
            self._kill()
        self._maybe_done()

    def _tell(self, how: str) -> None:
        for child in self._children.values():
            child.link.send({"stop": how})

    def _kill(self) -> None:
        for child in list(self._children.values()):
            if child.pid:
                kill(child.pid)
            else:
                # still being forked: the end of its link tells it, and it has nothing
                self._loop.unwatch(child.link.fileno())
                child.link.close()
                del self._children[child.serial]
        self._maybe_done()

    def _maybe_done(self) -> None:
        if not self._children and self._shutdown.stage is not Stage.RUNNING:
            self._loop.stop()

    def _leave(self) -> None:
        """Undo everything that would outlive the loop. Processes are left only if the node could not start."""
        for child in list(self._children.values()):
            if child.pid:
                kill(child.pid)
                os.waitpid(child.pid, 0)
            self._shutdown.move(Stage.KILL)  # nobody is to blame
            self._lose(child, None)
        if self._first_green is not None:
            kill(self._first_green[0])
        self._drop_nursery()
        if self._keeper is not None:
            self._keeper.bury_the_rest()
            if self._keeper.unburied:
                logger.error(
                    "%d processes could not be handed back to the broker; another node does so after two leases",
                    self._keeper.unburied,
                )
            self._keeper.close()
        signal.set_wakeup_fd(-1)
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        if self._handover:
            adopt_orphans(False)

    def _receive(self, link: Link) -> list[dict[str, Any]]:
        try:
            return link.receive()
        except LinkError as exc:
            # never seen from our own code: a task that writes to descriptors it does not own
            logger.error("A process sent what is no message (%s): its link is closed", exc)
            link.closed = True
            return []


def describe(status: int) -> str:
    """Say how a process ended, from its wait status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"signal {number} ({signal.Signals(number).name})"
        except ValueError:
            return f"signal {number}"
    return f"exit code {os.WEXITSTATUS(status)}"


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def say_ready(node: str) -> None:
    """Say that tasks are taken from now on: whoever started a worker waits for this line, whatever the log level is."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s ready.", node)
    else:
        print(f"{node} ready.", file=sys.__stderr__, flush=True)


def say(line: str) -> None:
    """Tell the user what they asked for, whatever the log level is."""
    # not sys.stderr: what tasks print there goes to the log
    print(f"\n{line}", file=sys.__stderr__, flush=True)
