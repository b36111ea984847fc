"""The supervisor of a worker node: its life from start to stop. It runs no user code and has one thread.

Where what happens: worker processes are watched and replaced in ``children``, the broker's side is ``keeper``, stopping is
decided in ``shutdown``, processes come from ``starters``.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
import time
from dataclasses import replace
from types import FrameType
from typing import Any

from fastq.daemon.detach import say_up
from fastq.exceptions import FastQError, ImproperlyConfigured
from fastq.worker.asking import Asking
from fastq.worker.banner import banner
from fastq.worker.beatchild import add_beat
from fastq.worker.board import Board
from fastq.worker.children import Children, receive
from fastq.worker.deaths import deaths, describe, kill
from fastq.worker.hello import Hello, set_up_logging, unshared
from fastq.worker.identity import Identity
from fastq.worker.keeper import Keeper
from fastq.worker.kinship import adopt_orphans
from fastq.worker.link import Link
from fastq.worker.local import LocalNode
from fastq.worker.loop import Loop
from fastq.worker.nursery import STOP_SIGNALS
from fastq.worker.opening import open_store
from fastq.worker.options import WorkerOptions
from fastq.worker.procname import expand_node
from fastq.worker.queues import Queues
from fastq.worker.shutdown import Shutdown, Stage, term_is_quit
from fastq.worker.starters import NurseryHouse, spawn_green
from fastq.worker.stopping import COLD_GRACE_S, Holdup, Stopping
from fastq.worker.tallies import Tallies

__all__ = ["Supervisor", "run"]

logger = logging.getLogger("fastq.worker")

#: seconds that receivers of worker_shutdown have
FAREWELL_S = 10.0


def run(options: WorkerOptions) -> int:
    """Run a worker node in this process until it is stopped; return its exit code.

    0: stopped warm. 1: stopped cold, or something could not be handed back, or it could not start (the reason is on stderr).
    """
    return Supervisor(options).run()


class Supervisor:
    """One node."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._loop = Loop()
        self._board = Board()
        self._nursery: NurseryHouse | None = None
        #: the first green interpreter, until it has said hello
        self._first_green: tuple[int, Link] | None = None
        #: from the hello on
        self._hello: Hello | None = None
        self._children: Children | None = None
        self._keeper: Keeper | None = None
        self._asking = Asking(self._loop, self._ask)
        #: what its services see of it; from the moment on that processes are started
        self._node: LocalNode | None = None
        self._exit_code: int | None = None
        #: what processes held could not be handed back
        self._unfinished = False
        self._handover = False
        #: how it stops, as receivers of signals were told
        self._told = ""
        self._signals: tuple[socket.socket, socket.socket] | None = None
        #: what handled the signals before
        self._handlers: dict[int, Any] = {}

    def run(self) -> int:
        try:
            self._shutdown = Shutdown(remap=term_is_quit())
            self._stopping = Stopping(
                self._loop, self._shutdown, act=self._act, holdups=self._holdups, look_up=self._look_up
            )
            self._identity = Identity(expand_node(self._options.hostname))
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
        if self._exit_code is not None:
            return self._exit_code
        return 1 if self._unfinished else self._shutdown.exit_code

    # --- the first process, which imports the application ---

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
        for message in receive(nursery.link):
            if "hello" in message:
                self._greet(message["hello"])
            elif "error" in message:
                self._fail(message["error"])
            elif "forked" in message and self._children is not None:
                self._children.forked(message["forked"], message["pid"])
            elif "answer" in message:
                self._asking.hear(message)
        if nursery.link.closed:
            self._loop.unwatch(nursery.link.fileno())

    def _hear_first_green(self) -> None:
        assert self._first_green is not None
        _, link = self._first_green
        for message in receive(link):
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
        if self._children is not None:
            return  # a nursery that replaces one that died: the node goes on as it began
        hello = self._hello = Hello.from_message(message)
        self._shutdown.soft_s, self._shutdown.soft_on_idle = hello.soft_shutdown_s, hello.soft_shutdown_on_idle
        if hello.pool == "solo":
            self._handover = True
            self._loop.stop()
            return
        try:
            unshared(hello)
            # lazy: as above
            from fastq.pools import check_installed, needs_patching

            if needs_patching(hello.pool):
                check_installed(hello.pool)
                self._drop_nursery()
        except ImproperlyConfigured as exc:
            self._fail(str(exc))
            return
        queues = Queues(hello.queues)
        self._children = Children(
            self._loop,
            hello,
            self._identity,
            self._board,
            self._shutdown,
            start=self._start_child,
            fail=self._fail,
            ready=lambda: self._tell_nursery(event="ready"),
            gone=self._loop.stop,
            queues=queues,
        )
        self._children.answered = self._asking.hear
        self._run_node(hello, self._children, queues)

    def _run_node(self, hello: Hello, children: Children, queues: Queues) -> None:
        set_up_logging(self._options, hello)
        if not self._options.quiet:
            print(banner(hello, self._identity.node), flush=True)
        # ahead of the connection: processes come to life while the broker is being reached
        children.start()
        try:
            broker, reaper = open_store(hello)
        except FastQError as exc:
            self._fail(str(exc))
            return
        keeper = self._keeper = Keeper(self._loop, hello, self._identity, broker, reaper, queues)
        self._node = LocalNode(
            self._identity.node,
            loop=self._loop,
            hello=hello,
            shutdown=self._shutdown,
            keeper=keeper,
            queues=queues,
            processes=children.processes,
            order=children.order,
            crew=children,
            asking=self._asking,
            stop=self._stopping.request,
            kill=children.end,
            tallies=Tallies(self._board.tallies),
            restarts=lambda: children.restarts,
        )
        children.confirmed = self._node.services.events.confirmed
        try:
            self._node.services.open()
        except ImproperlyConfigured as exc:
            self._fail(str(exc))
            return
        say_up()
        keeper.connect(lambda: self._connected(hello, children, keeper), self._fail)

    def _connected(self, hello: Hello, children: Children, keeper: Keeper) -> None:
        if self._options.purge:
            # lazy: few workers are told to
            from fastq.worker.erase import erase

            try:
                erase(hello)
            except FastQError as exc:
                self._fail(str(exc))
                return
        if self._node is not None:
            add_beat(self._node, self._options)
            # first: whoever listens hears of the first task too
            self._node.services.start()
        children.connected(keeper)
        # What is loaded by now stays as long as the node. Each look at a busy board makes thousands of tuples, so a full collection
        # would come soon, and its 20 ms of CPU with it.
        gc.freeze()

    def _fail(self, text: str) -> None:
        """Give up at start."""
        print(f"Error: {text}", file=sys.stderr, flush=True)
        self._exit_code = 1
        self._loop.stop()

    def _ask(self, question: dict[str, Any]) -> bool:
        """Send a question to a process that has the application; False: there is none just now."""
        if self._nursery is not None:
            return bool(self._nursery.pid) and self._nursery.link.send(question)
        children = self._children
        ready = [process for process in children.processes() if process.ready] if children is not None else []
        return bool(children is not None and ready and children.order({"do": "answer", **question}, only=ready[0].index))

    # --- where processes come from ---

    def _start_child(self, request: dict[str, Any]) -> tuple[int, Link]:
        """Start a worker process; return its pid (0: the nursery will tell) and the link to it."""
        if self._nursery is not None:
            link, theirs = Link.pair(patience_s=0)
            with theirs:
                self._nursery.request(request, theirs, self._board.fd)
            return 0, link
        pid, link = self._first_green or spawn_green(request["pool"], self._options, self._board.fd)
        self._first_green = None
        link.send({"live": request})
        return pid, link

    def _lose_nursery(self) -> None:
        nursery = self._nursery
        assert nursery is not None
        self._hear_nursery()  # it may have said why
        nursery.pid = 0
        self._asking.lose("the application's process has died")
        if self._exit_code is not None or self._shutdown.stage is not Stage.RUNNING or self._handover:
            return
        if self._children is None:
            self._fail("the application's process ended while it was importing the application")
            return
        logger.error("The nursery died: starting another, running tasks are not touched")
        self._loop.unwatch(nursery.link.fileno())
        nursery.respawn()
        self._loop.watch(nursery.link.fileno(), self._hear_nursery)
        # what the old one left undone is asked of the new one; a process it did fork, and did not tell, reads the end of its link
        self._children.lose_unforked()

    def _tell_nursery(self, **told: str) -> None:
        """Let the application know what becomes of the node, if somebody there listens (see ``announce``)."""
        if self._nursery is not None and self._hello is not None and self._hello.listened:
            self._nursery.link.send({"told": told})

    def _let_nursery_end(self) -> None:
        """Give the receivers of worker_shutdown their time; the nursery ends when they have returned."""
        if self._nursery is None or self._hello is None or not self._hello.listened or self._exit_code is not None:
            return  # nobody listens, or the node could not start
        self._tell_nursery(event="stopped")
        deadline_s = time.monotonic() + (FAREWELL_S if self._shutdown.stage < Stage.COLD else COLD_GRACE_S)
        while not self._nursery.link.closed and (left_s := deadline_s - time.monotonic()) > 0:
            self._nursery.link.wait(left_s)
        if not self._nursery.link.closed:
            logger.warning("What is connected to worker_shutdown has not returned in time: the node ends without it")

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
                self._stopping.signal(signum)
        if signal.SIGCHLD in received:
            for pid, status in deaths():
                self._take_in(pid, status)

    def _take_in(self, pid: int, status: int) -> None:
        """Take in the death of a process: a worker's, that of one that makes workers, or an orphan's."""
        if self._nursery is not None and pid == self._nursery.pid:
            self._lose_nursery()
        elif self._first_green is not None and pid == self._first_green[0]:
            self._hear_first_green()
            if self._exit_code is None:
                self._fail(f"the first process ended before it said hello ({describe(status)})")
        elif self._children is not None:
            self._children.died(pid, status)

    def _act(self, stage: Stage, sig: str) -> None:
        """Carry out a stage of stopping."""
        if self._node is not None:
            self._node.services.changed()
        if not self._children:  # before the hello, or all have ended and their successors are held back
            self._loop.stop()
        elif stage is Stage.KILL:
            self._children.kill()
        else:
            # receivers of signals are told of a soft stop as of the cold one that it ends in, once
            told = "warm" if stage is Stage.WARM else "cold"
            if told != self._told:
                self._told = told
                self._tell_nursery(event="stopping", how=told, sig=sig)
            self._children.tell("cold" if stage is Stage.COLD else "warm", sig, told=told)

    def _holdups(self) -> list[Holdup]:
        return self._children.holdups() if self._children is not None else []

    def _look_up(self, holdup: Holdup) -> dict[tuple[str, str], str]:
        return self._keeper.look_up(holdup.names) if self._keeper is not None else {}

    def _leave(self) -> None:
        """Undo everything that would outlive the loop."""
        self._stopping.end()
        if self._node is not None:
            self._node.services.stop()
        if self._children is not None:
            self._children.close()
            if self._children.returned:
                logger.info("%d tasks that had not started went back to their queues", self._children.returned)
        if self._first_green is not None:
            kill(self._first_green[0])
        if self._keeper is not None:
            self._keeper.bury_the_rest()
            if self._keeper.unburied:
                logger.error(
                    "%d processes could not be handed back to the broker; another node does so after two leases",
                    self._keeper.unburied,
                )
                self._unfinished = True
            if self._node is not None and self._exit_code is None:
                self._node.untold.finish(FAREWELL_S if self._shutdown.stage < Stage.COLD else COLD_GRACE_S)
            self._keeper.close()
        if not self._handover:
            self._let_nursery_end()
        self._drop_nursery()
        signal.set_wakeup_fd(-1)
        if self._handover:
            for signum, handler in self._handlers.items():
                signal.signal(signum, handler)
            adopt_orphans(False)
        else:
            # one more signal changes nothing now; not our handlers, which the interpreter takes away before it ends
            for signum in self._handlers:
                signal.signal(signum, signal.SIG_IGN)
