"""A worker process: connects broker, backend, pool and consumer, and runs them until told to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from fastq import signals
from fastq._core import BatchWindow, Delivery, Runner
from fastq.pools import make_pool
from fastq.remote import repr_safe
from fastq.running import current
from fastq.transports import open_backend
from fastq.transports.base import Backend
from fastq.worker.arguments import Arguments
from fastq.worker.board import open_region
from fastq.worker.consumer import Consumer
from fastq.worker.failures import Failures
from fastq.worker.feeder import Feeder
from fastq.worker.finished import Finished
from fastq.worker.gate import Gate
from fastq.worker.limits import Limits
from fastq.worker.link import Link
from fastq.worker.meta import Meta
from fastq.worker.notify import Notifier
from fastq.worker.nursery import describe_failure, leave
from fastq.worker.options import WorkerOptions
from fastq.worker.outcomes import Outcomes
from fastq.worker.rates import Rates
from fastq.worker.settler import Settler
from fastq.worker.slots import Slots
from fastq.worker.started import Started

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["run_process"]

logger = logging.getLogger("fastq.worker.trace")

#: characters of a return value shown in the log
REPR_MAX = 1_024


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
) -> int:
    """Run one worker process in the calling (main) thread; return its exit code.

    0: stopped as it was asked to. 1: stopped cold, or its supervisor vanished.
    """
    conf = app.conf
    broker = app.open_broker()
    backend = app.open_backend()
    board = open_region(board_fd, index, slots)
    window = BatchWindow()
    notifier = Notifier()
    settler = Settler(broker, backend)
    the_pool = make_pool(pool, slots)
    serializers = app.serializers
    clock = _Clock()
    failures = Failures(
        serializers,
        stores=backend is not None,
        errors_even_if_ignored=conf.task_store_errors_even_if_ignored,
        now_ms=clock.now_ms,
    )
    arguments = Arguments(app, serializers, broker, backend, partial(_open_join_store, app))
    outcomes = Outcomes(
        app=app,
        serializers=serializers,
        failures=failures,
        arguments=arguments,
        meta=Meta(node, extended=bool(conf.get("result_extended"))),
        clock=clock,
        stores=backend is not None,
        report_started=Started(backend, node, clock).note if backend is not None else None,
        limits=Limits.open(the_pool, pool, board_fd=board_fd, index=index, slots=slots, link=link),
        result_max_bytes=conf.result_max_bytes or 0,
    )
    runner = Runner(
        emit=settler.emit,
        loads=serializers.loads,
        dumps=lambda entry, value: serializers.dumps(serializers.result, value),
        on_error=outcomes.on_error,
        prepare=outcomes.prepare,
        conclude=outcomes.conclude,
        on_success=_log_success if logger.isEnabledFor(logging.INFO) else None,
        current=current,
        board=board,
        window=window,
        native=serializers.result == "msgpack",
        stores=backend is not None,
        result_max_bytes=conf.result_max_bytes or 0,
        call_async=the_pool.call_async,
    )
    clock.runner = runner
    _watch(runner, outcomes)
    consumer = Consumer(
        broker=broker,
        settler=settler,
        pool=the_pool,
        feeder=Feeder(the_pool, window, options.prefetch if options.prefetch is not None else conf.worker_prefetch),
        gate=Gate(serializers.accept, failures),
        runner=runner,
        board=board,
        link=link,
        notifier=notifier,
        registry=app.registry,
        queues=queues,
        lease_ms=int(conf.worker_lease * 1000),
        max_deliveries=conf.task_max_deliveries,
        max_tasks=options.max_tasks_per_child or conf.worker_max_tasks_per_child,
        rates=Rates(broker, conf, node),
        finished=None if backend is None or backend.shares(broker) else Finished(backend, clock.now_ms),
    )
    if signals.worker_process_init.receivers:
        signals.worker_process_init.send(sender=None)
    if pool != "solo":  # there the process is its own supervisor, and has taken the signals
        _install_signals(consumer)
    the_pool.start(Slots(runner), notifier.notify)
    link.send({"ready": os.getpid()})
    try:
        the_pool.main(partial(_consume, consumer, link))
    finally:
        if signals.worker_process_shutdown.receivers:
            signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=1 if consumer.stopped_cold else 0)
        broker.close()
        if backend is not None:
            backend.close()
        arguments.close()
        app.close()
        sys.stdout.flush()
        sys.stderr.flush()
    return 1 if consumer.stopped_cold else 0


def _consume(consumer: Consumer, link: Link) -> None:
    """Run the consumer; if it fails itself, end the process at once, whatever its slots do.

    Without its consumer a process would hold its lease, and its tasks, and never settle them; the supervisor starts another.
    """
    try:
        consumer.run()
    except BaseException:
        logging.getLogger("fastq.worker.consumer").critical("The consumer failed: this process ends", exc_info=True)
        try:
            link.send({"error": describe_failure()})
        finally:
            leave(1)


class _Clock:
    """The broker's clock as the last fetch saw it, for stamping results without a call; this machine's, when that is long ago."""

    runner: Runner | None = None

    def now_ms(self) -> int:
        ms = self.runner.now_ms if self.runner is not None else 0
        return ms or int(time.time() * 1000)


def _watch(runner: Runner, outcomes: Outcomes) -> None:
    """Let every run be special as long as somebody wants to see every run."""

    def look() -> None:
        runner.special = outcomes.sees_all()

    look()
    signals.on_change(look)


def _open_join_store(app: FastQ) -> Backend:
    """Open the store of the broker, which keeps the joins, where results are kept elsewhere or nowhere."""
    return open_backend(app.broker_url, app.transport_options())


def _log_success(d: Delivery, value: object, runtime_ns: int) -> None:
    text = repr_safe(value)
    longest = getattr(d.entry.task, "resultrepr_maxsize", REPR_MAX) if d.entry is not None else REPR_MAX
    if len(text) > longest:
        text = text[:longest] + "..."
    logger.info("Task %s[%s] succeeded in %ss: %s", d.name, d.id, f"{runtime_ns / 1e9:.6f}", text)


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
