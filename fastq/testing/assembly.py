"""Put a worker together from the parts of ``fastq worker``, for a process that has other things to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from fastq._core import Delivery
from fastq.testing.rest import RestingConsumer
from fastq.worker import assembly
from fastq.worker.limits import Limits

if TYPE_CHECKING:
    from fastq._core import ProcessBoard
    from fastq.app import FastQ
    from fastq.pools.base import Pool
    from fastq.records import Settlement
    from fastq.transports.base import Broker
    from fastq.worker.link import Link

__all__ = ["assemble"]


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
) -> assembly.Parts[RestingConsumer]:
    """Connect broker, backend, pool and consumer of one worker; nothing runs yet.

    ``on_rest`` is called by the consumer when it is about to sleep, ``on_interrupt`` in a slot when ^C was pressed in its task.
    """

    def around_error(settle: assembly.OnError) -> assembly.OnError:
        def on_error(d: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
            if isinstance(exc, KeyboardInterrupt):
                on_interrupt()
            return settle(d, exc, runtime_ns)

        return on_error

    return assembly.assemble(
        app,
        pool=pool,
        # nobody kills a process that has tests to run
        limits=Limits(pool),
        board=board,
        link=link,
        queues=queues,
        node=node,
        consumer=partial(RestingConsumer, on_rest=on_rest),
        clock_of=_clock_of,
        around_error=around_error,
    )


def _clock_of(broker: Broker) -> Callable[[], int]:
    # only a broker inside this process may be asked by several threads at once, and has a clock that can be moved
    return broker.now_ms if broker.url.startswith("memory:") else assembly.wall_ms
