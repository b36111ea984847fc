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
from dataclasses import replace
from types import FrameType
from typing import Any

from fastq.exceptions import FastQError, ImproperlyConfigured
from fastq.worker.banner import banner
from fastq.worker.board import Board
from fastq.worker.deaths import kill
from fastq.worker.giveback import LOOK_S
from fastq.worker.hello import Hello, set_up_logging, unshared
from fastq.worker.identity import Identity
from fastq.worker.keeper import Keeper, open_store
from fastq.worker.link import Link
from fastq.worker.loop import Loop
from fastq.worker.nursery import STOP_SIGNALS, describe_failure, ignore_stop_signals, import_run_process, move_in, settle_in
from fastq.worker.options import WorkerOptions
from fastq.worker.overdue import Overdue
from fastq.worker.procname import expand_node, set_process_name
from fastq.worker.reaper import Snapshot
from fastq.worker.say import say, say_ready
from fastq.worker.shutdown import Shutdown, Stage

__all__ = ["run"]

logger = logging.getLogger("fastq.worker")


def run(options: WorkerOptions) -> int:
    """Run a worker node of one process and one slot in the calling (main) thread; return its exit code."""
    options = replace(options, pool="solo")
    try:
        node = expand_node(options.hostname)
    except ImproperlyConfigured as exc:
        return _refuse(str(exc))
    board = Board()
    board.region(0, 1).clear()
    link, keeper_pid = _fork_keeper(options, node, board)
    stopping = _Stopping(link, keeper_pid)
    try:
        app, options, message = settle_in(options)
        hello = Hello.from_message(message)
        unshared(hello)
        run_process = import_run_process()
    except Exception:
        stopping.let_go()
        return _refuse(describe_failure())
    except BaseException:
        stopping.let_go()
        raise
    if not options.quiet:
        print(banner(hello, node), flush=True)
    link.send({"hello": message})
    move_in(app, options, node)
    # lazy: only a process with the application needs it
    from fastq.worker.announce import Herald

    herald = Herald(app, options)
    link.heard = herald.hear
    stopping.take_signals()
    code = 1
    try:
        code = run_process(
            app,
            pool="solo",
            slots=1,
            queues=hello.queues,
            options=options,
            index=0,
            board_fd=board.fd,
            link=link,
            node=node,
        )
        herald.end()
    finally:
        refused = stopping.let_go()
    return refused or code


def _refuse(text: str) -> int:
    print(f"Error: {text}", file=sys.stderr)
    return 1


class _Stopping:
    """Stop the foreground process: warm by way of the keeper, whose word its consumer waits for; cold by leaving at once."""

    def __init__(self, link: Link, keeper_pid: int) -> None:
        self._link = link
        self._link_fd = link.fileno()
        self._keeper_pid = keeper_pid
        self._shutdown = Shutdown()

    def take_signals(self) -> None:
        for signum in STOP_SIGNALS:
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Runs between any two instructions of a task, so it only writes: the link's own buffers may be in use."""
        stage = self._shutdown.signal(signum, time.monotonic())
        if stage is None:
            return
        if stage is Stage.WARM:
            say("worker: Warm shutdown (MainProcess)")
            self._write(b'{"stopping":"warm","sig":"%s"}\n' % signal.Signals(signum).name.encode())
            return
        say("worker: Cold shutdown (MainProcess)")
        self._write(b'{"stopping":"cold"}\n')
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        os._exit(1)  # the keeper reads the end of the link, and hands back uncharged

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._link_fd, line)
        except OSError:
            return  # the keeper is gone: the end of the link stops the consumer

    def let_go(self) -> int:
        """End the link and wait until the keeper has handed back what is left; 1 if it could not do its work."""
        self._link.close()
        if not self._keeper_pid:
            return 0
        pid, self._keeper_pid = self._keeper_pid, 0
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:  # a task has waited for all children of this process
            return 0
        return 0 if status == 0 else 1


# --- the keeper ---


def _fork_keeper(options: WorkerOptions, node: str, board: Board) -> tuple[Link, int]:
    """Fork the keeper; return the foreground's end of the link and the keeper's pid."""
    ours, theirs = Link.pair(patience_s=0)
    identity = Identity(node)
    sys.stdout.flush()
    sys.stderr.flush()
    foreground = os.getpid()
    pid = os.fork()
    if pid:
        ours.close()
        return Link(theirs), pid
    code = 1
    try:
        theirs.close()
        # ^C and a service's TERM reach it too; it ends with its foreground process only
        ignore_stop_signals()
        set_process_name("LeaseKeeper")
        code = _LeaseKeeper(options, identity, ours, board, foreground).run()
    except BaseException:
        logger.exception("The lease keeper failed; the worker stops")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _LeaseKeeper:
    """Keep the lease of the process this one was forked from."""

    def __init__(self, options: WorkerOptions, identity: Identity, link: Link, board: Board, foreground: int) -> None:
        self._options = options
        self._identity = identity
        self._link = link
        self._board = board
        self._loop = Loop()
        self._hello: Hello | None = None
        self._keeper: Keeper | None = None
        self._names: list[str] = []
        self._charge = True
        #: pid of the process that runs the tasks
        self._foreground = foreground
        #: from its first run with a hard time limit on
        self._overdue: Overdue | None = None
        self._failed = False

    def run(self) -> int:
        self._loop.watch(self._link.fileno(), self._hear)
        self._loop.run()
        if self._keeper is not None:
            self._bury(self._keeper)
            self._keeper.close()
        return 1 if self._failed else 0

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
            self._keeper.watch(self._names[-1], self._board.region(0, 1))
        elif "limits" in message and self._hello is not None:
            self._watch_limits(self._hello)
        elif "recycle" in message:
            logger.info("The worker ends (%s)", message["recycle"])
        elif "fenced" in message and self._keeper is not None:
            if message["fenced"] == self._names[-1]:
                self._keeper.retire(self._names[-1], self._board.region(0, 1))
                self._new_name()
            self._link.send({"process": self._names[-1]})
        elif "stopping" in message:
            self._charge = message["stopping"] != "cold"
            listened = self._hello is not None and self._hello.listened
            self._link.send({"stop": message["stopping"], **({"sig": message.get("sig", "")} if listened else {})})

    def _greet(self, hello: Hello) -> None:
        set_up_logging(self._options.loglevel, hello)
        self._hello = hello
        try:
            broker, reaper = open_store(hello)
        except FastQError as exc:
            self._give_up(str(exc))
            return
        self._keeper = Keeper(self._loop, hello, self._identity, broker, reaper)
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
        self._new_name()
        self._link.send({"start": {"process": self._names[-1]}})

    def _new_name(self) -> None:
        assert self._keeper is not None
        self._names.append(self._identity.new_name(0))
        self._keeper.enter(self._names[-1])

    def _watch_limits(self, hello: Hello) -> None:
        if self._overdue is None:
            region, deadlines = self._board.region(0, 1), self._board.deadlines(0, 1)
            self._overdue = Overdue(self._loop, region, deadlines, hello.queues, kill=self._kill_foreground)
        self._overdue.look()

    def _kill_foreground(self) -> None:
        """End a foreground process that its own alarm could not interrupt, and with it this worker."""
        if os.getppid() == self._foreground:
            kill(self._foreground)
            self._await_death()

    def _await_death(self) -> None:
        # the link alone does not tell: a program that the task has forked may have its other end
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
        snapshot = Snapshot.of(self._board.region(0, 1), self._hello.queues)
        overruns = self._overdue.overruns if self._overdue is not None else ()
        for process in self._names:
            keeper.bury(process, snapshot, charge=self._charge, overruns=overruns)
        keeper.bury_the_rest()
