"""Put a worker together from the parts of ``fastq worker``, for a process that has other things to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastq._core import BatchWindow, Delivery, Runner
from fastq.remote import repr_safe
from fastq.running import current
from fastq.testing.rest import RestingConsumer
from fastq.transports import open_backend
from fastq.worker.arguments import Arguments
from fastq.worker.failures import Failures
from fastq.worker.feeder import Feeder
from fastq.worker.finished import Finished
from fastq.worker.gate import Gate
from fastq.worker.limits import Limits
from fastq.worker.meta import Meta
from fastq.worker.notify import Notifier
from fastq.worker.outcomes import Outcomes
from fastq.worker.rates import Rates
from fastq.worker.settler import Settler
from fastq.worker.slots import Slots
from fastq.worker.started import Started

if TYPE_CHECKING:
    from fastq._core import ProcessBoard
    from fastq.app import FastQ
    from fastq.pools.base import Pool
    from fastq.records import Settlement
    from fastq.transports.base import Backend
    from fastq.worker.link import Link

__all__ = ["Parts", "assemble"]

logger = logging.getLogger("fastq.worker.trace")


@dataclass(frozen=True, slots=True)
class Parts:
    """A worker that is ready to run: ``pool.main(consumer.run)``."""

    consumer: RestingConsumer
    runner: Runner
    outcomes: Outcomes
    #: closes what was opened, once the consumer has ended
    close: Callable[[], None]


def assemble(
    app: FastQ,
    *,
    pool: Pool,
    board: ProcessBoard,
    link: Link,
    queues: tuple[str, ...],
    node: str,
    on_rest: Callable[[], object],
    on_interrupt: Callable[[], object],
) -> Parts:
    """Connect broker, backend, pool and consumer of one worker; nothing runs yet, but the pool's slots are there.

    ``on_rest`` is called by the consumer when it is about to sleep, ``on_interrupt`` in a slot when ^C was pressed in its task.
    """
    conf = app.conf
    broker = app.open_broker()
    backend = app.open_backend()
    window = BatchWindow()
    notifier = Notifier()
    settler = Settler(broker, backend)
    serializers = app.serializers
    # only a broker inside this process may be asked by several threads at once, and has a clock that can be moved
    clock = _Clock(broker.now_ms if broker.url.startswith("memory:") else _wall_ms)
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
        # nobody kills a process that has tests to run
        limits=Limits(pool),
        result_max_bytes=conf.result_max_bytes or 0,
    )

    def on_error(d: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
        if isinstance(exc, KeyboardInterrupt):
            on_interrupt()
        return outcomes.on_error(d, exc, runtime_ns)

    runner = Runner(
        emit=settler.emit,
        loads=serializers.loads,
        dumps=lambda entry, value: serializers.dumps(serializers.result, value),
        on_error=on_error,
        prepare=outcomes.prepare,
        conclude=outcomes.conclude,
        on_success=_log_success if logger.isEnabledFor(logging.INFO) else None,
        current=current,
        board=board,
        window=window,
        native=serializers.result == "msgpack",
        stores=backend is not None,
        result_max_bytes=conf.result_max_bytes or 0,
        call_async=pool.call_async,
    )
    clock.runner = runner
    consumer = RestingConsumer(
        on_rest=on_rest,
        broker=broker,
        settler=settler,
        pool=pool,
        feeder=Feeder(pool, window, conf.worker_prefetch),
        gate=Gate(serializers.accept, failures),
        runner=runner,
        board=board,
        link=link,
        notifier=notifier,
        registry=app.registry,
        queues=queues,
        lease_ms=int(conf.worker_lease * 1000),
        max_deliveries=conf.task_max_deliveries,
        rates=Rates(broker, conf, node),
        finished=None if backend is None or backend.shares(broker) else Finished(backend, clock.now_ms),
    )
    pool.start(Slots(runner), notifier.notify)

    def close() -> None:
        broker.close()
        if backend is not None:
            backend.close()
        arguments.close()
        notifier.close()

    return Parts(consumer, runner, outcomes, close)


class _Clock:
    """The broker's clock as the last fetch saw it; ``otherwise`` when that is long ago."""

    def __init__(self, otherwise: Callable[[], int]) -> None:
        self.runner: Runner | None = None
        self._otherwise = otherwise

    def now_ms(self) -> int:
        ms = self.runner.now_ms if self.runner is not None else 0
        return ms or self._otherwise()


def _wall_ms() -> int:
    return int(time.time() * 1000)


def _open_join_store(app: FastQ) -> Backend:
    return open_backend(app.broker_url, app.transport_options())


def _log_success(d: Delivery, value: object, runtime_ns: int) -> None:
    logger.info("Task %s[%s] succeeded in %ss: %s", d.name, d.id, f"{runtime_ns / 1e9:.6f}", repr_safe(value))
