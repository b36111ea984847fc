"""Put a worker together: broker, backend, pool and consumer of one process, with all that stands between them.

Used by a worker process (``process``), and by the worker inside a test's process (``fastq.testing.assembly``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fastq._core import BatchWindow, Delivery, Runner
from fastq.remote import repr_safe
from fastq.running import current
from fastq.transports import open_backend
from fastq.worker import state
from fastq.worker.arguments import Arguments
from fastq.worker.consumer import Consumer
from fastq.worker.failures import Failures
from fastq.worker.feeder import Feeder
from fastq.worker.finished import Finished
from fastq.worker.flight import Flight
from fastq.worker.gate import Gate
from fastq.worker.memory import Memory
from fastq.worker.meta import Meta
from fastq.worker.notify import Notifier
from fastq.worker.outcomes import Outcomes
from fastq.worker.rates import Rates
from fastq.worker.relimits import NewLimits
from fastq.worker.reporter import Reporter
from fastq.worker.settler import Settler
from fastq.worker.slots import Slots
from fastq.worker.started import Started

if TYPE_CHECKING:
    from fastq._core import ProcessBoard
    from fastq.app import FastQ
    from fastq.pools.base import Pool
    from fastq.records import Settlement
    from fastq.transports.base import Backend, Broker
    from fastq.worker.limits import Limits
    from fastq.worker.link import Link

__all__ = ["Parts", "assemble", "wall_ms"]

C = TypeVar("C", bound=Consumer)

#: what settles a run that has raised
OnError = Callable[[Delivery, BaseException, int], "Settlement"]

logger = logging.getLogger("fastq.worker.trace")

#: an answer of the broker may take that long under any lease, seconds: a busy disk stops a server for a moment
SHORTEST_ANSWER_S = 2.0

#: characters of a return value shown in the log
REPR_MAX = 1_024


def wall_ms() -> int:
    """Return this machine's clock, Unix ms."""
    return int(time.time() * 1000)


@dataclass(frozen=True, slots=True)
class Parts(Generic[C]):
    """A worker that can be started: ``start()``, then ``pool.main(consumer.run)``, then ``close()``."""

    consumer: C
    runner: Runner
    outcomes: Outcomes
    #: makes the pool's slots
    start: Callable[[], None]
    #: closes what was opened, once the consumer has ended
    close: Callable[[], None]


def assemble(
    app: FastQ,
    *,
    pool: Pool,
    limits: Limits,
    board: ProcessBoard,
    link: Link,
    queues: tuple[str, ...],
    node: str,
    consumer: Callable[..., C],
    prefetch: int | None = None,
    max_tasks: int | None = None,
    memory: Memory | None = None,
    flight: Flight | None = None,
    clock_of: Callable[[Broker], Callable[[], int]] = lambda broker: wall_ms,
    around_error: Callable[[OnError], OnError] = lambda on_error: on_error,
) -> Parts[C]:
    """Connect broker, backend, pool and consumer of one worker; nothing runs yet.

    ``consumer``: the class, or what makes one of the same arguments. ``prefetch`` None: as the application says. ``clock_of`` gives
    the clock that stamps results when the broker's was seen long ago. ``around_error`` may look at what runs raise.
    """
    conf = app.conf
    # Nothing that is asked for blocks the server, so silence means that its host is gone: known within about a lease.
    longest_s = max(SHORTEST_ANSWER_S, conf.worker_lease)
    broker = app.open_broker(longest_s)
    backend = app.open_backend(longest_s)
    stores = backend is not None
    window = BatchWindow()
    notifier = Notifier()
    settler = Settler(broker, backend)
    settler.tally = board.tally
    if conf.task_send_sent_event:
        settler.tell = app.events.outbox.published
    serializers = app.serializers
    clock = Clock(clock_of(broker))
    result_max_bytes = conf.result_max_bytes or 0
    failures = Failures(
        serializers,
        stores=stores,
        errors_even_if_ignored=conf.task_store_errors_even_if_ignored,
        now_ms=clock.now_ms,
        node=node,
    )
    arguments = Arguments(app, serializers, broker, backend, partial(_open_join_store, app))
    new_limits = NewLimits(app.registry)
    outcomes = Outcomes(
        app=app,
        serializers=serializers,
        failures=failures,
        arguments=arguments,
        meta=Meta(node, extended=bool(conf.get("result_extended"))),
        clock=clock,
        stores=stores,
        report_started=Started(backend, node, clock).note if backend is not None else None,
        limits=limits,
        new_limits=new_limits,
        result_max_bytes=result_max_bytes,
    )
    runner = Runner(
        emit=settler.emit,
        loads=serializers.loads,
        dumps=lambda entry, value: serializers.dumps(serializers.result, value),
        on_error=around_error(outcomes.on_error),
        prepare=outcomes.prepare,
        conclude=outcomes.conclude,
        on_success=log_success if logger.isEnabledFor(logging.INFO) else None,
        current=current,
        board=board,
        window=window,
        native=serializers.result == "msgpack",
        stores=stores,
        result_max_bytes=result_max_bytes,
        call_async=pool.call_async,
    )
    clock.runner = runner
    gate = Gate(serializers.accept, failures, app.signer)
    the_consumer = consumer(
        broker=broker,
        settler=settler,
        pool=pool,
        feeder=Feeder(pool, window, conf.worker_prefetch if prefetch is None else prefetch),
        gate=gate,
        runner=runner,
        board=board,
        link=link,
        notifier=notifier,
        registry=new_limits.registry,
        queues=queues,
        lease_ms=int(conf.worker_lease * 1000),
        max_deliveries=conf.task_max_deliveries,
        max_tasks=max_tasks,
        memory=memory,
        flight=flight,
        rates=Rates(broker, conf, node),
        finished=None if backend is None or backend.shares(broker) else Finished(backend, clock.now_ms),
        reporter=Reporter(
            runner, board, lambda: app.events.outbox, app.registry, node, conf.event_rate_max, failures.signum_of
        ),
    )

    the_consumer.obey["time_limit"] = new_limits.obey

    left: list[Callable[[], object]] = []

    def start() -> None:
        left.append(state.enter(node, board, the_consumer.held, gate.revoked))
        pool.start(Slots(runner), notifier.notify)

    def close() -> None:
        while left:
            left.pop()()
        broker.close()
        if backend is not None:
            backend.close()
        arguments.close()
        notifier.close()

    return Parts(the_consumer, runner, outcomes, start, close)


class Clock:
    """The broker's clock as the last fetch saw it, for stamping results without a call; ``otherwise`` when that is long ago."""

    def __init__(self, otherwise: Callable[[], int] = wall_ms) -> None:
        self.runner: Runner | None = None
        self._otherwise = otherwise

    def now_ms(self) -> int:
        ms = self.runner.now_ms if self.runner is not None else 0
        return ms or self._otherwise()


def log_success(d: Delivery, value: Any, runtime_ns: int) -> None:
    """Say at INFO what a task has returned."""
    text = repr_safe(value)
    longest = getattr(d.entry.task, "resultrepr_maxsize", REPR_MAX) if d.entry is not None else REPR_MAX
    if len(text) > longest:
        text = text[:longest] + "..."
    logger.info("Task %s[%s] succeeded in %ss: %s", d.name, d.id, f"{runtime_ns / 1e9:.6f}", text)


def _open_join_store(app: FastQ) -> Backend:
    """Open the store of the broker, which keeps the joins, where results are kept elsewhere or nowhere."""
    return open_backend(app.broker_url, app.transport_options())
