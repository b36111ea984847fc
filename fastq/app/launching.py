"""``app.Worker`` and ``app.Beat``: a worker or a beat of this application, started by a program instead of the command line.

Options have the names of the command's: ``app.Worker(concurrency=4, queues=["mail"], loglevel="INFO").start()`` is
``fastq worker --concurrency 4 --queues mail --loglevel INFO`` in this process. Celery's names for some are understood too.
"""

from __future__ import annotations

import importlib
import logging
import signal
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from fastq.app.command import place, refuse_in_workers
from fastq.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from fastq.app.application import FastQ

__all__ = ["Beat", "Launching", "Worker"]

#: names of Celery's classes -> the option
_ALIASES = {"pool_cls": "pool", "scheduler_cls": "scheduler", "discard": "purge"}
#: options that stand before the command
_GLOBAL = ("quiet", "no_color", "workdir")
#: what a run changes and a program wants back
_SIGNALS = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE")


class _Launched:
    """What both have."""

    app: ClassVar[FastQ]
    _command: ClassVar[str]
    #: what Celery's object has and this has not, each with what to use instead
    _advice: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **options: Any) -> None:
        """Take options as the command has them: a list for what is separated by commas, True for a flag, None: not given."""
        self.options = options
        self.hostname: str | None = options.get("hostname")
        #: of the run, once it has ended
        self.exitcode: int | None = None

    def start(self) -> None:
        """Run in this thread, which must be the main one, until stopped by a signal or from outside; then see ``exitcode``.

        ValueError for options that do not exist or exclude each other. The processes of a worker import the application, so it
        must be a global of a module, and what calls this must stand below ``if __name__ == "__main__":``: else
        ImproperlyConfigured.
        """
        words = self._words()
        refuse_in_workers(f"app.{type(self).__name__}(...).start()")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                f"app.{type(self).__name__}(...).start() takes the signals of its process, so only the main thread can call it; "
                "in a thread use fastq.testing.start_worker, or start a process"
            )
        signums = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        before = {signum: signal.getsignal(signum) for signum in signums}
        try:
            # lazy: the command line stands above applications; only a program that is a command needs it
            self.exitcode = importlib.import_module("fastq.cli").run(words)
        finally:
            for signum, handler in before.items():
                if handler is not None and signal.getsignal(signum) is not handler:
                    signal.signal(signum, handler)

    def _words(self) -> list[str]:
        """Return the command line."""
        name = place(self.app)
        if name is None:
            raise ImproperlyConfigured(
                f"app.{type(self).__name__}: the application {self.app.name!r} is no global of any module that is imported, so "
                "the processes that run its tasks could not import it"
            )
        first, words = ["-A", name], [self._command]
        for option, value in self.options.items():
            if value is None or value is False:
                continue
            (first if option in _GLOBAL else words).extend(_option(_ALIASES.get(option, option), value))
        return [*first, *words]

    def __getattr__(self, name: str) -> Any:
        advice = self._advice.get(name)
        raise AttributeError(f"app.{type(self).__name__} has no {name}{f': {advice}' if advice else ''}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.app.name}: {self.options}>"


def _option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    if name == "loglevel" and isinstance(value, int):
        value = logging.getLevelName(value)
    if isinstance(value, list | tuple | set | frozenset):
        value = ",".join(map(str, value))
    return [f"{flag}={value}"]


class Worker(_Launched):
    """A worker node of this application: ``app.Worker(hostname="w1@%h", pool="threads", concurrency=10).start()``."""

    _command = "worker"
    _advice: ClassVar[Mapping[str, str]] = {
        "stop": "send SIGTERM to this process, or app.control.shutdown() from another one",
        "terminate": "send SIGQUIT to this process",
        "pool": "the pool is in processes of its own; ask app.control.inspect().stats()",
        "consumer": "tasks are fetched by the processes that run them; see app.control.add_consumer and inspect().active_queues()",
        "blueprint": "a worker has no exchangeable parts; connect to signals, add commands with @control_command",
        "state": "see fastq.worker.state, inside a task or a receiver of a signal",
        "stats": "ask app.control.inspect().stats()",
    }


class Beat(_Launched):
    """What sends the periodic tasks of this application: ``app.Beat(max_interval=10, loglevel="INFO").run()``."""

    _command = "beat"
    _advice: ClassVar[Mapping[str, str]] = {
        "Service": "see fastq.beat.service.Service",
        "stop": "send SIGTERM to this process",
    }

    def run(self) -> None:
        """The same as ``start``."""
        self.start()


class Launching:
    """The part of an application that starts what runs for long."""

    @property
    def Worker(self) -> type[Worker]:
        """Return the class of this application's workers: ``app.Worker(**options).start()``."""
        return _bound(Worker, self)

    #: Celery's name for what is below its command line; here it is the same
    WorkController = Worker

    @property
    def Beat(self) -> type[Beat]:
        """Return the class of this application's beats: ``app.Beat(**options).run()``."""
        return _bound(Beat, self)


def _bound(cls: type[Any], app: object) -> type[Any]:
    return type(cls.__name__, (cls,), {"app": cast("FastQ", app), "__module__": cls.__module__, "__doc__": cls.__doc__})
