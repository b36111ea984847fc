"""The life of a beat: from its first line in the log to handing over."""

from __future__ import annotations

import importlib
import logging
import os
import select
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from fastq import signals
from fastq.config import suggest
from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Service", "StopSignals", "scheduler_class"]

logger = logging.getLogger("fastq.beat")

_ALIASES = {
    "shared": "fastq.beat.shared:SharedScheduler",
    "broker": "fastq.beat.shared:SharedScheduler",
    "persistent": "fastq.beat.persistent:PersistentScheduler",
    # Celery's own, as its users' files name them
    "celery.beat:PersistentScheduler": "fastq.beat.persistent:PersistentScheduler",
    "celery.beat.PersistentScheduler": "fastq.beat.persistent:PersistentScheduler",
}


def scheduler_class(name: Any) -> Any:
    """Return the class of a scheduler: None or "shared", "persistent", a class, or its dotted name.

    ImproperlyConfigured for what is none.
    """
    if name is None:
        name = "shared"
    if not isinstance(name, str):
        return name
    path = _ALIASES.get(name, name)
    module, mark, attribute = path.partition(":")
    if not mark:
        module, _, attribute = path.rpartition(".")
    if not module:
        raise ImproperlyConfigured(
            f"there is no scheduler {name!r}{suggest(name, ['shared', 'persistent'])}; expected shared, persistent, or the dotted "
            "name of a class, like myapp.beat.Scheduler"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ImproperlyConfigured(f"the scheduler {name!r} cannot be imported: {exc}") from exc


class Stop:
    """Ask a beat to end, from any thread or signal handler. The end of ``lifeline``, a pipe, asks for it too."""

    def __init__(self, lifeline: int | None = None) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._set = False
        self._lifeline = lifeline

    def __call__(self) -> bool:
        return self._set

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        self._set = True
        with suppress(BlockingIOError, OSError):
            os.write(self._write, b"!")

    def watch(self) -> None:
        """Wait for the end of the lifeline, in a thread of its own."""
        if self._lifeline is not None:
            threading.Thread(target=self._until_end, args=(self._lifeline,), daemon=True, name="lifeline").start()

    def _until_end(self, lifeline: int) -> None:
        with suppress(OSError):
            while os.read(lifeline, 1):
                pass
        self.set()

    def wait(self, timeout_s: float) -> None:
        select.select([self._read], [], [], max(timeout_s, 0.0))


class Service:
    """One beat. ``start`` runs until ``stop`` is called, in whatever thread."""

    def __init__(
        self,
        app: FastQ,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        *,
        name: str = "",
        lifeline: int | None = None,
    ) -> None:
        """``scheduler_cls``: as ``beat_scheduler`` has it; ``name``: of the node, as others see it."""
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or None
        self.scheduler_cls = scheduler_class(app.conf.beat_scheduler if scheduler_cls is None else scheduler_cls)
        self.schedule_filename = schedule_filename or app.conf.beat_schedule_filename
        self.name = name
        self.stopping = Stop(lifeline)
        self._scheduler: Any = None
        self._ended = threading.Event()

    @property
    def is_shared(self) -> bool:
        """Say whether the schedule is in the broker, where any number of beats share it."""
        # lazy: what it imports is needed by those that run
        from fastq.beat.shared import SharedScheduler

        return isinstance(self.scheduler_cls, type) and issubclass(self.scheduler_cls, SharedScheduler)

    @property
    def scheduler(self) -> Any:
        if self._scheduler is None:
            self._scheduler = self._make()
        return self._scheduler

    def _make(self) -> Any:
        if self.is_shared:
            # lazy: as above
            from fastq.beat.taking_in import check

            check(self.app)
            return self.scheduler_cls(self.app, max_interval=self.max_interval, name=self.name)
        # as Celery makes them: they take the file's name, whether they keep one or not
        return self.scheduler_cls(
            app=self.app, schedule_filename=self.schedule_filename, max_interval=self.max_interval, lazy=False
        )

    def start(self, embedded_process: bool = False) -> None:
        """Run until it is stopped; the schedule is handed over, or written, at the end."""
        logger.info("beat: Starting...")
        signals.beat_init.send(sender=self)
        if embedded_process:
            signals.beat_embedded_init.send(sender=self)
        self.stopping.watch()
        try:
            scheduler = self.scheduler
            logger.debug("beat: Ticking with max interval->%s", scheduler.max_interval)
            if self.is_shared:
                scheduler.run(self.stopping.fileno(), self.stopping)
            else:
                while not self.stopping():
                    delay_s = scheduler.tick()
                    if delay_s and delay_s > 0:
                        self.stopping.wait(min(delay_s, scheduler.max_interval or delay_s))
        finally:
            logger.info("beat: Shutting down...")
            try:
                self.sync()
            finally:
                self._ended.set()

    def sync(self) -> None:
        """Write the schedule, or hand over; the scheduler is done with."""
        if self._scheduler is not None:
            self._scheduler.close()

    def stop(self, wait: bool = False) -> None:
        """Have ``start`` return; ``wait``: until it has."""
        self.stopping.set()
        if wait:
            self._ended.wait()


class StopSignals:
    """While it is entered, SIGTERM, SIGINT and SIGHUP stop a service. In the main thread only."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # nohup is respected
                self._before[signum] = signal.signal(signum, self._stop)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._service.stop()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
