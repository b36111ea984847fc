"""The solo pool: the worker turned over. The foreground process runs the tasks, in its main thread, so that ``breakpoint()`` works.

A small child keeps the lease: a thread could not, while a task holds the GIL. It is forked before anything else happens, and
when the foreground process dies (the end of its link) it hands back at once what that one had, and exits.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastq.daemon.detach import leave_saying_up, say_up
from fastq.exceptions import FastQError, ImproperlyConfigured
from fastq.worker.asking import Asking
from fastq.worker.banner import banner
from fastq.worker.beatchild import add_beat
from fastq.worker.board import Board
from fastq.worker.children import receive
from fastq.worker.deaths import kill
from fastq.worker.foreground import Foreground, Wires
from fastq.worker.giveback import LOOK_S
from fastq.worker.hello import Hello, set_up_logging, unshared
from fastq.worker.identity import Identity
from fastq.worker.keeper import Keeper
from fastq.worker.link import Link
from fastq.worker.local import LocalNode
from fastq.worker.loop import Loop
from fastq.worker.node import WorkerProcess
from fastq.worker.nursery import describe_failure, ignore_stop_signals, import_run_process, move_in, settle_in
from fastq.worker.opening import open_store
from fastq.worker.options import WorkerOptions
from fastq.worker.overdue import Overdue
from fastq.worker.procname import expand_node, set_process_name
from fastq.worker.queues import Queues
from fastq.worker.reaper import Snapshot
from fastq.worker.say import say_ready
from fastq.worker.shutdown import Shutdown, Stage, term_is_quit
from fastq.worker.stopping import Holdup, Stopping, running_on
from fastq.worker.tallies import Tallies

__all__ = ["run"]

logger = logging.getLogger("fastq.worker")

#: seconds that a cold stop leaves the foreground process for settling what has finished, before it is interrupted
SETTLE_S = 0.25
#: seconds that it has to exit, with the exit code of a cold stop, before it is killed
EXIT_S = 0.1


def run(options: WorkerOptions) -> int:
    """Run a worker node of one process and one slot in the calling (main) thread; return its exit code."""
    options = replace(options, pool="solo")
    try:
        node = expand_node(options.hostname)
        remap = term_is_quit()
    except ImproperlyConfigured as exc:
        return _refuse(str(exc))
    board = Board()
    board.region(0, 1).clear()
    wires = Wires()
    link, questions, keeper_pid = _fork_keeper(options, node, board, wires, remap)
    foreground = Foreground(link, keeper_pid, wires, remap=remap)
    foreground.take_signals()
    try:
        app, options, message = settle_in(options)
        hello = Hello.from_message(message)
        unshared(hello)
        run_process = import_run_process()
    except Exception:
        foreground.let_go()
        return _refuse(describe_failure())
    except BaseException:
        foreground.let_go()
        raise
    foreground.take_signals()  # the application may have put its own handlers in place while it was imported
    if not options.quiet:
        print(banner(hello, node), flush=True)
    leave_saying_up()  # the keeper does, once it serves what it is asked to
    foreground.ready = True
    link.send({"hello": message})
    move_in(app, options, node)
    # lazy: only a process with the application needs them
    from fastq.worker.announce import Herald
    from fastq.worker.answering import answer_in_thread

    answer_in_thread(questions, app, node)
    herald = Herald(app, options)
    link.heard = herald.hear
    code = 1
    try:
        code = run_process(
            app,
            pool="solo",
            slots=1,
            room=1,
            queues=hello.queues,
            options=options,
            index=0,
            board_fd=board.fd,
            link=link,
            node=node,
        )
        herald.end()
    finally:
        refused = foreground.let_go()
    return 1 if wires.soft_or_colder else refused or code


def _refuse(text: str) -> int:
    print(f"Error: {text}", file=sys.stderr)
    return 1


# --- the keeper ---


def _fork_keeper(options: WorkerOptions, node: str, board: Board, wires: Wires, remap: bool) -> tuple[Link, Link, int]:
    """Fork the keeper; return the foreground's ends of the link and of the one for questions, and the keeper's pid."""
    ours, theirs = Link.pair(patience_s=0)
    asking, answering = Link.pair(patience_s=0)
    identity = Identity(node)
    sys.stdout.flush()
    sys.stderr.flush()
    foreground = os.getpid()
    pid = os.fork()
    if pid:
        ours.close()
        asking.close()
        wires.keep_foreground_end()
        return Link(theirs), Link(answering), pid
    code = 1
    try:
        theirs.close()
        answering.close()
        wires.keep_keeper_end()
        # ^C and a service's TERM reach it too; it ends with its foreground process only
        ignore_stop_signals()
        set_process_name("LeaseKeeper")
        code = _LeaseKeeper(options, identity, ours, asking, board, wires, foreground, remap).run()
    except BaseException:
        logger.exception("The lease keeper failed; the worker stops")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _LeaseKeeper:
    """Keep the lease of the process this one was forked from."""

    def __init__(
        self,
        options: WorkerOptions,
        identity: Identity,
        link: Link,
        asking: Link,
        board: Board,
        wires: Wires,
        foreground: int,
        remap: bool,
    ) -> None:
        self._options = options
        self._identity = identity
        self._link = link
        self._board = board
        self._loop = Loop()
        self._questions = asking
        self._asking = Asking(self._loop, asking.send)
        self._born_s = time.monotonic()
        #: orders that stand until the process takes its first task, and longer, by what they are about
        self._standing: dict[str, Mapping[str, Any]] = {}
        #: what its services see of it; from the hello on
        self._node: LocalNode | None = None
        self._hello: Hello | None = None
        self._keeper: Keeper | None = None
        self._names: list[str] = []
        self._wires = wires
        self._shutdown = Shutdown(remap=remap)
        self._stopping = Stopping(self._loop, self._shutdown, act=self._act, holdups=self._holdups, look_up=self._look_up)
        #: signals that came before the hello: the foreground process, which is importing the application, may end by itself
        self._early: list[int] = []
        #: pid of the process that runs the tasks
        self._foreground = foreground
        #: from its first run with a hard time limit on
        self._overdue: Overdue | None = None
        self._failed = False

    def run(self) -> int:
        self._loop.watch(self._link.fileno(), self._hear)
        self._loop.watch(self._questions.fileno(), self._hear_answers)
        self._loop.watch(self._wires.fileno(), self._on_signals)
        # the link alone does not tell of a death: a process that a task has forked may have its other end
        with suppress(AttributeError, OSError):  # a system without pidfd_open
            self._loop.watch(os.pidfd_open(self._foreground), self._loop.stop)
        self._loop.run()
        self._stopping.end()
        if self._node is not None:
            self._node.services.stop()
        if self._keeper is not None:
            self._bury(self._keeper)
            self._keeper.close()
        return 1 if self._failed else 0

    # --- signals and stopping ---

    def _on_signals(self) -> None:
        received = self._wires.receive()
        if received is None:  # the foreground process is gone, and the link tells what that means
            self._loop.unwatch(self._wires.fileno())
        elif self._hello is None:
            self._early += received
        else:
            for signum in received:
                self._stopping.signal(signum)

    def _act(self, stage: Stage, sig: str) -> None:
        """Carry out a stage of stopping."""
        if self._node is not None:
            self._node.services.changed()
        if stage > Stage.WARM:
            self._wires.soft_or_colder = True
        if stage is Stage.KILL:
            self._end_foreground()
            self._loop.after(EXIT_S, self._kill_foreground)
            return
        message = {"stop": "cold" if stage is Stage.COLD else "warm"}
        if sig and self._hello is not None and self._hello.listened:
            message |= {"sig": sig, "told": "warm" if stage is Stage.WARM else "cold"}
        self._link.send(message)
        if stage is Stage.COLD:
            self._loop.after(SETTLE_S, self._end_foreground)

    def _end_foreground(self) -> None:
        """Let the foreground process exit in the middle of its task, as far as that lets it run a handler."""
        if os.getppid() == self._foreground:
            self._wires.leave = True
            os.kill(self._foreground, signal.SIGTERM)
            self._await_death()

    def _holdups(self) -> list[Holdup]:
        if self._hello is None or not self._names:
            return []
        tasks = running_on(self._board.region(0, 1), self._known_queues())
        return [Holdup("MainProcess", self._foreground, self._names, tasks)]

    def _look_up(self, holdup: Holdup) -> dict[tuple[str, str], str]:
        return self._keeper.look_up(holdup.names) if self._keeper is not None else {}

    # --- what the services of the node see ---

    def _processes(self) -> list[WorkerProcess]:
        board = self._board.region(0, 1)
        return [WorkerProcess(0, self._foreground, "MainProcess", bool(self._names), self._born_s, self._names[::-1], board)]

    def _known_queues(self) -> Sequence[str]:
        return () if self._node is None else self._node.known_queues

    def _order(self, order: Mapping[str, Any], *, standing: str = "", only: int | None = None) -> int:
        if standing:
            self._standing[standing] = order
        if only not in (None, 0) or not self._names:
            return 0
        return int(self._link.send({"order": order}))

    def _hear_answers(self) -> None:
        for message in receive(self._questions):
            self._asking.hear(message)
        if self._questions.closed:
            self._loop.unwatch(self._questions.fileno())

    # --- what the foreground process says ---

    def _hear(self) -> None:
        for message in self._link.receive():
            self._obey(message)
        if self._link.closed:
            self._loop.stop()

    def _obey(self, message: dict[str, Any]) -> None:
        if "hello" in message:
            self._greet(Hello.from_message(message["hello"]))
        elif "ready" in message:
            say_ready(self._identity.node)
        elif "holding" in message and self._keeper is not None and self._names:
            self._keeper.watch(self._names[-1], self._board.region(0, 1), self._board.flight(0, 1))
        elif "limits" in message and self._hello is not None:
            self._watch_limits(self._hello)
        elif "takes" in message and self._node is not None:
            self._node.steering.took(message["takes"])
        elif "receipt" in message and self._node is not None:
            self._node.services.events.confirmed(message["receipt"])
        elif "recycle" in message:
            logger.info("The worker ends (%s)", message["recycle"])
        elif "fenced" in message and self._keeper is not None:
            if message["fenced"] == self._names[-1]:
                self._keeper.retire(self._names[-1], self._board.region(0, 1))
                self._new_name()
            self._link.send({"process": self._names[-1]})
        elif message.get("returned"):
            logger.info("%d tasks that had not started went back to their queues", message["returned"])

    def _greet(self, hello: Hello) -> None:
        set_up_logging(self._options, hello)
        self._hello = hello
        self._shutdown.soft_s, self._shutdown.soft_on_idle = hello.soft_shutdown_s, hello.soft_shutdown_on_idle
        for signum in self._early:
            self._stopping.signal(signum)
        try:
            broker, reaper = open_store(hello)
        except FastQError as exc:
            self._give_up(str(exc))
            return
        queues = Queues(hello.queues)
        self._keeper = Keeper(self._loop, hello, self._identity, broker, reaper, queues)
        self._node = LocalNode(
            self._identity.node,
            loop=self._loop,
            hello=hello,
            shutdown=self._shutdown,
            keeper=self._keeper,
            queues=queues,
            processes=self._processes,
            order=self._order,
            asking=self._asking,
            stop=self._stopping.request,
            pid=self._foreground,
            tallies=Tallies(self._board.tallies),
        )
        try:
            self._node.services.open()
        except ImproperlyConfigured as exc:
            self._give_up(str(exc))
            return
        say_up()
        self._keeper.connect(self._on_connected, self._give_up)

    def _on_connected(self) -> None:
        if self._options.purge and self._hello is not None:
            # lazy: few workers are told to
            from fastq.worker.erase import erase

            try:
                erase(self._hello)
            except FastQError as exc:
                self._give_up(str(exc))
                return
        if self._node is not None:
            add_beat(self._node, self._options)
            # first: whoever listens hears of the first task too
            self._node.services.start()
        self._new_name()
        for order in self._standing.values():
            self._link.send({"order": order})
        self._link.send({"start": {"process": self._names[-1]}})

    def _new_name(self) -> None:
        assert self._keeper is not None
        self._names.append(self._identity.new_name(0))
        self._keeper.enter(self._names[-1])

    def _watch_limits(self, hello: Hello) -> None:
        if self._overdue is None:
            region, deadlines = self._board.region(0, 1), self._board.deadlines(0, 1)
            self._overdue = Overdue(self._loop, region, deadlines, self._known_queues(), kill=self._kill_foreground)
        self._overdue.look()

    def _kill_foreground(self) -> None:
        """End a foreground process that no signal can interrupt, and with it this worker."""
        if os.getppid() == self._foreground:
            kill(self._foreground)
            self._await_death()

    def _await_death(self) -> None:
        # as above
        if os.getppid() == self._foreground:
            self._loop.after(LOOK_S, self._await_death)
        else:
            self._loop.stop()

    def _give_up(self, text: str) -> None:
        print(f"Error: {text}", file=sys.stderr, flush=True)
        self._failed = True
        self._link.close()
        self._loop.stop()

    def _bury(self, keeper: Keeper) -> None:
        """Hand back what the foreground process left."""
        assert self._hello is not None
        snapshot = Snapshot.of(self._board.region(0, 1), self._known_queues())
        overruns = self._overdue.overruns if self._overdue is not None else ()
        for process in self._names:
            keeper.bury(process, snapshot, charge=self._shutdown.stage < Stage.COLD, overruns=overruns)
        keeper.bury_the_rest()
        if keeper.unburied:
            logger.error("What this worker held could not be handed back to the broker; another node does so after two leases")
            self._failed = True
