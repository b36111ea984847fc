"""A worker inside this process: the parts of ``fastq worker`` in threads, without a supervisor, a fork or a signal.

Who does what: one thread runs the pool (and the tasks of ``solo`` and ``asyncio``), the consumer fetches and settles as it does
elsewhere, a small thread keeps the lease. All of them have ended when the worker has stopped.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastq import signals
from fastq.exceptions import OperationalError
from fastq.pools import canonical_name
from fastq.testing import pools
from fastq.testing.assembly import assemble
from fastq.testing.lease import LeaseThread
from fastq.testing.rest import resting, workers
from fastq.testing.stores import store_of
from fastq.worker import announce
from fastq.worker.board import Board, open_region
from fastq.worker.hello import configure, introduce
from fastq.worker.link import Link
from fastq.worker.options import WorkerOptions
from fastq.worker.procname import expand_node

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.transports.memory import MemoryStore

__all__ = ["InProcessWorker", "start_worker"]

logger = logging.getLogger("fastq.testing")

#: seconds for which what was told to stop at once is waited for
COLD_S = 5.0
#: arguments of Celery's start_worker that mean nothing here
_MEANINGLESS = frozenset(
    {"logfile", "ping_task_timeout", "without_heartbeat", "without_mingle", "without_gossip", "heartbeat_interval"}
)

_numbers = itertools.count(1)


@contextmanager
def start_worker(
    app: FastQ,
    pool: str = "solo",
    concurrency: int = 1,
    loglevel: int | str | None = "error",
    hostname: str | None = None,
    queues: Iterable[str] | str | None = None,
    exclude_queues: Iterable[str] | str | None = None,
    perform_ping_check: bool = True,
    shutdown_timeout: float = 10.0,
    ready_timeout: float = 10.0,
    **celery_options: Any,
) -> Iterator[InProcessWorker]:
    """Run a worker of this application in the background for as long as the ``with`` block lasts.

    ``pool``: solo, threads, asyncio; gevent or eventlet in a process that is patched for it. ``queues``: None for those that
    ``fastq worker`` would take without ``-Q``. ``loglevel``: of fastq's own loggers meanwhile (no handler is added), None leaves
    them alone.
    ``perform_ping_check``: wait, for ``ready_timeout`` seconds at most, until the worker has asked the broker for work.

    At the end it finishes what runs and gives back the rest. What has not ended after ``shutdown_timeout`` seconds is interrupted,
    goes back to its queue, and RuntimeError names it. An exception of the worker itself is raised there, too. OperationalError if
    the broker cannot be reached, ImproperlyConfigured for a pool that cannot be inside this process.
    """
    if unknown := set(celery_options) - _MEANINGLESS:
        raise TypeError(f"start_worker() got an unexpected keyword argument {sorted(unknown)[0]!r}")
    worker = InProcessWorker(
        app,
        pool=pool,
        concurrency=concurrency,
        loglevel=loglevel,
        hostname=hostname,
        queues=queues,
        exclude_queues=exclude_queues,
        shutdown_timeout=shutdown_timeout,
    )
    worker.start()
    try:
        if perform_ping_check:
            worker.wait_ready(ready_timeout)
        yield worker
    finally:
        worker.stop()


class InProcessWorker:
    """One worker. Started and stopped once; ``start_worker`` does both."""

    def __init__(
        self,
        app: FastQ,
        *,
        pool: str = "solo",
        concurrency: int = 1,
        loglevel: int | str | None = None,
        hostname: str | None = None,
        queues: Iterable[str] | str | None = None,
        exclude_queues: Iterable[str] | str | None = None,
        shutdown_timeout: float = 10.0,
        until_quiet: bool = False,
    ) -> None:
        """``until_quiet``: stop by itself when there is nothing left to run."""
        self.app = app
        self.shutdown_timeout = shutdown_timeout
        #: as other nodes see it
        self.hostname = expand_node(hostname or f"test{os.getpid()}-{next(_numbers)}@{socket.gethostname() or 'localhost'}")
        self.pool = canonical_name(pool)
        self._concurrency = 1 if self.pool == "solo" else concurrency
        self._loglevel = loglevel
        self._until_quiet = until_quiet
        self._options = WorkerOptions(
            pool=self.pool,
            concurrency=self._concurrency,
            processes=1,
            hostname=self.hostname,
            queues=_names(queues),
            exclude_queues=_names(exclude_queues),
            retry=False,
        )
        #: what it fetches from
        self.queues: tuple[str, ...] = ()
        #: of a memory broker: what others in this process see of it
        self.store: MemoryStore | None = None
        #: what it has failed with
        self.error: BaseException | None = None
        #: the clock of its broker is moved by a test: everything is stamped with it
        self.simulated = False
        self._ready = threading.Event()
        self._consumed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fastq-test-worker", daemon=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.hostname} ({self.pool}) {'running' if self.is_alive() else 'not running'}>"

    # --- the life of it ---

    def start(self) -> None:
        """Start it in the background and return at once."""
        self._set_up()
        self._thread.start()

    def run_here(self) -> int:
        """Run it in the calling thread until it stops; return how many tasks it has started."""
        self._set_up()
        try:
            self._run()
        finally:
            self._tear_down()
        self._reraise()
        return self._started

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until it has asked the broker for work for the first time."""
        if not self._ready.wait(timeout_s):
            raise RuntimeError(f"the worker was not ready within {timeout_s:g} s: does the broker {self.app.broker_url} answer?")
        if self.error is not None or self._lease.refused:
            self._reraise()

    def ensure_started(self) -> None:
        """Wait until it takes tasks."""
        self.wait_ready(self.shutdown_timeout)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def reload(self, modules: Iterable[str] | None = None, reload: bool = False, reloader: Any = None) -> None:
        """Import modules. New tasks need no more than to be declared: the worker sees them with the next message."""
        import importlib  # lazy: only where a test names modules

        for name in modules or ():
            module = importlib.import_module(name)
            if reload:
                (reloader or importlib.reload)(module)

    def stop(self) -> None:
        """Stop it warm, then raise what it failed with; see ``start_worker``. Harmless to call again."""
        if not self._thread.is_alive() and self not in workers:
            return
        try:
            self._herald.hear({"stop": "warm"})
            self._consumer.request_stop()
            self._thread.join(self.shutdown_timeout)
            stuck = self._interrupt() if self._thread.is_alive() or not self._idle() else []
            ended = not self._thread.is_alive()
        finally:
            self._tear_down()
        if stuck:
            raise RuntimeError(
                f"the worker {self.hostname} did not stop within {self.shutdown_timeout:g} s, as {', '.join(stuck)} still ran. "
                "What had not ended has gone back to its queue: let the test wait for its tasks, or raise shutdown_timeout"
            )
        if not ended and self.error is None:
            raise RuntimeError(f"the worker {self.hostname} did not stop, though no task runs: does its broker still answer?")
        self._reraise()

    # --- what tests look at ---

    def running(self) -> list[str]:
        """Return what runs now: ``name[id]``."""
        return [f"{name}[{id}]" for _, id, name, _ in self._region.active()]

    def look(self) -> None:
        """See to it that runs are seen by all that want to see them."""
        self._parts.runner.special = self._parts.outcomes.sees_all() or self.simulated

    # --- inside ---

    def _set_up(self) -> None:
        app = self.app
        self._level = logging.getLogger("fastq").level
        self._options = announce.set_up(app, configure(app, self._options))
        hello = introduce(app, self._options)
        self.queues = self._options.queues
        if hello.broker_url.startswith("memory:"):
            self.store = store_of(hello.broker_url)
        pool = self._pool = pools.make(self.pool, self._concurrency, here=self._until_quiet)
        self._board = Board()
        self._region = self._board.region(0, hello.room)
        self._region.clear()
        keeper_end, socket_end = Link.pair(patience_s=0)
        self._link = Link(socket_end)
        self._herald = announce.Herald(app, self._options)
        self._link.heard = self._herald.hear
        try:
            self._lease = LeaseThread(hello, self.hostname, keeper_end, self._board, None if self._until_quiet else app)
            if self._loglevel is not None:
                logging.getLogger("fastq").setLevel(_level(self._loglevel))
            self._parts = assemble(
                app,
                pool=pool,
                board=open_region(self._board.fd, 0, hello.room),
                link=self._link,
                queues=self.queues,
                node=self.hostname,
                on_rest=self._rest,
                on_interrupt=self._interrupted,
            )
            self._parts.start()
        except BaseException:
            keeper_end.close()
            self._link.close()
            self._board.close()
            raise
        self._consumer = self._parts.consumer
        self._started = 0
        self._hostname_before, app.hostname = app.hostname, self.hostname
        workers.add(self)
        self.look()
        self._lease.start()

    def _run(self) -> None:
        if signals.worker_process_init.receivers:
            signals.worker_process_init.send(sender=None)
        try:
            self._pool.main(self._consume)
        except BaseException as exc:  # it belongs to whoever stops the worker
            self.error = exc
            # a pool that was left by an exception, ^C for one, has not waited for its consumer
            self._consumer.request_stop("cold")
            self._consumed.wait(COLD_S)
        finally:
            if signals.worker_process_shutdown.receivers:
                signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
            self._tell()

    def _consume(self) -> None:
        try:
            self._consumer.run()
        finally:
            self._consumed.set()
            self._tell()

    def _rest(self) -> None:
        """Called by the consumer when it is about to sleep."""
        if self._until_quiet and self._consumer.quiet:
            self._consumer.request_stop()
        self._tell()

    def _interrupted(self) -> None:
        """Called in a slot when ^C was pressed in its task: in the calling thread it was meant for the test."""
        if self._until_quiet:
            self.error = KeyboardInterrupt()
            self._consumer.request_stop()

    def _tell(self) -> None:
        self._ready.set()
        with resting:
            resting.notify_all()

    def _idle(self) -> bool:
        return self._pool.free == self._pool.slots

    def _interrupt(self) -> list[str]:
        """Stop at once: give up what runs, and make it end as far as the pool can. Return what did not end in time."""
        stuck = self.running()
        self._consumer.request_stop("cold")
        self._consumed.wait(COLD_S)
        for _, id, _, _ in self._region.active():
            self._pool.cancel(id, hard=True)
        self._pool.stop(COLD_S)
        self._thread.join(COLD_S)
        return stuck

    def _tear_down(self) -> None:
        if self not in workers:
            return
        workers.discard(self)
        self._started = self._region.counter("started")
        self._link.close()  # the lease ends with it
        if not self._lease.join(self.app.conf.worker_lease + COLD_S):
            logger.warning("The lease of %s has not ended: the broker does not answer", self.hostname)
        self._parts.close()
        self._herald.end()
        self._board.close()
        self.app.hostname = self._hostname_before
        if self._loglevel is not None:
            logging.getLogger("fastq").setLevel(self._level)

    def _reraise(self) -> None:
        refused, self._lease.refused = self._lease.refused, ""
        error = self.error or self._lease.error
        self.error = self._lease.error = None
        if error is not None:
            try:
                raise error
            finally:
                del error  # the traceback holds this frame
        if refused:
            raise OperationalError(refused)


def _names(queues: Iterable[str] | str | None) -> tuple[str, ...]:
    if queues is None:
        return ()
    return tuple(filter(None, (name.strip() for name in (queues.split(",") if isinstance(queues, str) else queues))))


def _level(loglevel: int | str) -> int:
    if isinstance(loglevel, int):
        return loglevel
    number = logging.getLevelNamesMapping().get(loglevel.upper())
    if number is None:
        raise ValueError(f"loglevel={loglevel!r}: expected debug, info, warning, error or critical")
    return number
