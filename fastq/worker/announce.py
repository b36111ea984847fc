"""The signals of a worker as a whole: who sends them, and with what.

They need the application, which the supervisor does not import, and the main process of other task queues is the supervisor. So:

prefork, threads, asyncio: the nursery, once for the node. It has the application and forks the worker processes, so they have what
    a receiver set up; a thread or a connection of a receiver does not survive the fork. While a receiver runs there no process is
    forked. A nursery that takes the place of one that died begins anew: the signals of the beginning are sent there again.
gevent, eventlet: every worker process for itself, as each is an interpreter of its own.
solo, ``start_worker``, ``drain``: the one process there is.

In this order: user_preload_options, import_modules, celeryd_init, worker_init, celeryd_after_setup, those of each process,
worker_ready; at the end worker_shutting_down, the end of the processes, worker_shutdown. What receivers raise is logged
(that of import_modules stops the worker: an application that is not whole).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fastq import signals
from fastq.worker.procname import expand_node

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.worker.options import WorkerOptions

__all__ = ["Herald", "WorkerNode", "before_fork", "configuring", "listened", "preloaded", "set_up", "tell"]

#: what the supervisor tells the nursery, see ``tell``
READY, STOPPING, STOPPED = "ready", "stopping", "stopped"


@dataclass(slots=True)
class WorkerNode:
    """What receivers are given as the worker: ``instance``, or the sender."""

    app: FastQ
    #: the node's name
    hostname: str
    options: WorkerOptions
    #: what it takes from; receivers of celeryd_after_setup may change it
    queues: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, app: FastQ, options: WorkerOptions) -> WorkerNode:
        return cls(app, expand_node(options.hostname), options, list(options.queues))

    @property
    def pool(self) -> str | None:
        return self.options.pool

    @property
    def concurrency(self) -> int | None:
        return self.options.concurrency


# --- the beginning ---


def preloaded(app: FastQ, options: WorkerOptions) -> None:
    """Tell that the application is there, and what the command line said."""
    if signals.user_preload_options.receivers:
        signals.user_preload_options.send(sender=app, app=app, options=asdict(options))


def configuring(app: FastQ, options: WorkerOptions) -> None:
    """Tell that the settings are about to be read: a receiver may still change them, but the command line wins."""
    if signals.celeryd_init.receivers:
        node = WorkerNode.of(app, options)
        signals.celeryd_init.send(sender=node.hostname, instance=node, conf=app.conf, options=asdict(options))


def set_up(app: FastQ, options: WorkerOptions) -> WorkerOptions:
    """Tell that it is known what the worker will be; return the options, with the queues as receivers left them."""
    if not (signals.worker_init.receivers or signals.celeryd_after_setup.receivers):
        return options
    node = WorkerNode.of(app, options)
    signals.worker_init.send(sender=node)
    signals.celeryd_after_setup.send(sender=node.hostname, instance=node, conf=app.conf)
    return replace(options, queues=tuple(dict.fromkeys(node.queues)))


def before_fork(app: FastQ, options: WorkerOptions) -> None:
    """Tell that a worker process is about to be forked; to be called in the process that forks."""
    if signals.worker_before_create_process.receivers:
        signals.worker_before_create_process.send(sender=WorkerNode.of(app, options))


# --- the middle and the end ---


def listened() -> bool:
    """Say whether anybody is to be told of what becomes of the node."""
    later = (signals.worker_ready, signals.worker_shutting_down, signals.worker_shutdown)
    return any(signal.receivers for signal in later)


def tell(app: FastQ, options: WorkerOptions, told: Mapping[str, Any]) -> None:
    """Send the signal of an event of the node.

    ``event``: READY (tasks are taken), STOPPING (with ``how``, warm or cold, and ``sig``, the name of the signal that asked for it,
    "": none did), STOPPED (no task runs any more).
    """
    event = told["event"]
    node = WorkerNode.of(app, options)
    if event == READY:
        signals.worker_ready.send(sender=node)
    elif event == STOPPING:
        how: str = told["how"]
        signals.worker_shutting_down.send(
            sender=node.hostname, sig=told.get("sig", ""), how=how.capitalize(), exitcode=1 if how == "cold" else 0
        )
    elif event == STOPPED:
        signals.worker_shutdown.send(sender=node)


class Herald:
    """Tell the events of a process that is a whole worker to its application: it hears what the process is told over its link."""

    def __init__(self, app: FastQ, options: WorkerOptions) -> None:
        self._app = app
        self._options = options
        self._ready = False
        self._how = ""

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take in a message to the process; in the thread of its consumer."""
        if "start" in message and not self._ready:
            self._ready = True
            self._tell({"event": READY})
        elif "stop" in message and message.get("told", message["stop"]) != self._how:
            self._how = message.get("told", message["stop"])
            self._tell({"event": STOPPING, "how": self._how, "sig": message.get("sig", "")})

    def end(self) -> None:
        """Tell that the worker has ended, unless only its process has, for another to take its place."""
        if self._how:
            self._tell({"event": STOPPED})

    def _tell(self, told: Mapping[str, Any]) -> None:
        if listened():
            tell(self._app, self._options, told)
