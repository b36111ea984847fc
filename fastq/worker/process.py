"""A worker process: put together (``assembly``), run until told to stop, and taken apart."""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from fastq import signals
from fastq._core import Runner
from fastq.pools import make_pool
from fastq.worker.answering import answer_orders
from fastq.worker.assembly import assemble
from fastq.worker.board import open_flight, open_region
from fastq.worker.consumer import Consumer
from fastq.worker.limits import Limits
from fastq.worker.link import Link
from fastq.worker.memory import Memory
from fastq.worker.nursery import describe_failure, leave
from fastq.worker.options import WorkerOptions
from fastq.worker.outcomes import Outcomes

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.pools.base import Pool

__all__ = ["run_process"]


def run_process(
    app: FastQ,
    *,
    pool: str,
    slots: int,
    queues: tuple[str, ...],
    options: WorkerOptions,
    index: int,
    board_fd: int,
    link: Link,
    node: str,
    room: int = 0,
) -> int:
    """Run one worker process in the calling (main) thread; return its exit code.

    ``room``: how many slots it can grow to, and has records for on the board; 0: no more than ``slots``.

    0: stopped as it was asked to. 1: stopped cold, or its supervisor vanished.
    """
    the_pool = make_pool(pool, slots)
    room = room or slots
    parts = assemble(
        app,
        pool=the_pool,
        limits=Limits.open(the_pool, pool, board_fd=board_fd, index=index, slots=room, link=link),
        board=open_region(board_fd, index, room),
        flight=open_flight(board_fd, index, room),
        link=link,
        queues=queues,
        node=node,
        consumer=Consumer,
        prefetch=options.prefetch,
        max_tasks=options.max_tasks_per_child or app.conf.worker_max_tasks_per_child,
        memory=Memory.of(options.max_memory_per_child or app.conf.worker_max_memory_per_child),
    )
    consumer = parts.consumer
    consumer.obey["answer"] = answer_orders(link, app, node)
    _watch(parts.runner, parts.outcomes)
    if signals.worker_process_init.receivers:
        signals.worker_process_init.send(sender=None)
    if pool != "solo":  # there the process is its own supervisor, and has taken the signals
        _install_signals(consumer)
    parts.start()
    green = the_pool if pool == "eventlet" else None
    if green is not None and signals.eventlet_pool_started.receivers:
        signals.eventlet_pool_started.send(sender=green)
    link.send({"ready": os.getpid()})
    try:
        the_pool.main(partial(_consume, consumer, link, the_pool, green))
    finally:
        if green is not None and signals.eventlet_pool_postshutdown.receivers:
            signals.eventlet_pool_postshutdown.send(sender=green)
        if signals.worker_process_shutdown.receivers:
            signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=1 if consumer.stopped_cold else 0)
        parts.close()
        app.close()
        sys.stdout.flush()
        sys.stderr.flush()
    return 1 if consumer.stopped_cold else 0


def _consume(consumer: Consumer, link: Link, pool: Pool, green: object) -> None:
    """Run the consumer; if it fails itself, or nobody is left who renews the lease, end the process at once, whatever its slots do.

    Without its consumer a process would hold its lease, and its tasks, and never settle them; the supervisor starts another.
    """
    try:
        consumer.run()
        if link.closed and pool.free < pool.slots:
            # the other pools' processes have died with their supervisor; the foreground of solo has no parent to die with
            logging.getLogger("fastq.worker.consumer").critical(
                "The process that renews the lease of this one is gone: this one ends in the middle of its tasks, they run again "
                "elsewhere"
            )
            leave(1)
        if green is not None and signals.eventlet_pool_preshutdown.receivers:
            signals.eventlet_pool_preshutdown.send(sender=green)
    except BaseException:
        logging.getLogger("fastq.worker.consumer").critical("The consumer failed: this process ends", exc_info=True)
        try:
            link.send({"error": describe_failure()})
        finally:
            leave(1)


def _watch(runner: Runner, outcomes: Outcomes) -> None:
    """Let every run be special as long as somebody wants to see every run."""

    def look() -> None:
        runner.special = outcomes.sees_all()

    look()
    signals.on_change(look)


def _install_signals(consumer: Consumer) -> None:
    """Leave stopping to the supervisor: ^C reaches every process of a terminal, and each must finish what it runs.

    A TERM sent to this process alone stops it warm; the supervisor then starts another.
    """

    def ignore(signum: int, frame: FrameType | None) -> None:
        pass

    def stop(signum: int, frame: FrameType | None) -> None:
        consumer.request_stop()

    # handlers, not SIG_IGN: programs that a task starts get the default back
    signal.signal(signal.SIGINT, ignore)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGQUIT, ignore)

    def forked() -> None:
        # a process that a task has forked ends when it is told to; the consumer is not in there
        for signum, ours in ((signal.SIGTERM, stop), (signal.SIGQUIT, ignore)):
            if signal.getsignal(signum) is ours:
                signal.signal(signum, signal.SIG_DFL)

    os.register_at_fork(after_in_child=forked)
