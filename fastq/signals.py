"""Signals: functions that are told of what happens to tasks and workers.

    from fastq.signals import task_failure

    @task_failure.connect
    def tell(sender, task_id, exception, **kwargs):
        ...

A signal that nobody has connected to costs whoever would send it one attribute read: ``if task_prerun.receivers:``. Receivers run
where the signal is sent, one after the other; what one raises is logged and changes nothing. They are held weakly unless
``weak=False``, so a function defined inside another, or a lambda, must be kept somewhere or connected with ``weak=False``.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, NamedTuple, TypeVar, overload

__all__ = [
    "Signal",
    "after_setup_logger",
    "after_setup_task_logger",
    "after_task_publish",
    "all_signals",
    "beat_embedded_init",
    "beat_init",
    "before_task_publish",
    "celeryd_after_setup",
    "celeryd_init",
    "eventlet_pool_apply",
    "eventlet_pool_postshutdown",
    "eventlet_pool_preshutdown",
    "eventlet_pool_started",
    "heartbeat_sent",
    "import_modules",
    "on_change",
    "setup_logging",
    "task_failure",
    "task_internal_error",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_rejected",
    "task_retry",
    "task_revoked",
    "task_sent",
    "task_success",
    "task_unknown",
    "user_preload_options",
    "worker_before_create_process",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
]  # fmt: skip

logger = logging.getLogger("fastq.signals")

F = TypeVar("F", bound=Callable[..., Any])

#: longest pause between tries of a receiver connected with retry=True, s
RETRY_PAUSE_S = 2.0

_changed: list[Callable[[], object]] = []


class _Receiver(NamedTuple):
    #: what identifies it for ``disconnect``
    key: Any
    sender: Any
    #: gives the function, or None when it is gone
    function: Callable[[], Callable[..., Any] | None]
    retry: bool


class Signal:
    """One kind of event. ``receivers`` is empty as long as nobody has connected."""

    def __init__(self, providing_args: Iterable[str] | None = None, use_caching: bool = False, name: str | None = None) -> None:
        """``providing_args`` names what receivers are given, for the reader; ``use_caching`` is accepted and means nothing."""
        self.name = name
        self.providing_args = frozenset(providing_args or ())
        self.receivers: tuple[_Receiver, ...] = ()
        self._lock = threading.Lock()

    @overload
    def connect(self, receiver: F, /) -> F: ...
    @overload
    def connect(
        self, receiver: F, sender: Any = None, weak: bool = True, dispatch_uid: Any = None, retry: bool = False
    ) -> F: ...
    @overload
    def connect(
        self, *, sender: Any = None, weak: bool = True, dispatch_uid: Any = None, retry: bool = False
    ) -> Callable[[F], F]: ...

    def connect(
        self, receiver: Any = None, sender: Any = None, weak: bool = True, dispatch_uid: Any = None, retry: bool = False
    ) -> Any:
        """Call ``receiver(signal=..., sender=..., **arguments)`` from now on; a decorator, with or without options.

        ``sender``: only when this one sends. ``dispatch_uid``: a name by which it is connected once, however often this is called.
        ``retry``: a receiver that raises is called again until it returns, with pauses of up to 2 s. Raises TypeError for
        what is not a function, or takes no keyword arguments.
        """
        if receiver is None:
            return lambda function: self.connect(function, sender, weak, dispatch_uid, retry)
        if not callable(receiver):
            raise TypeError(f"a receiver is a function, not {type(receiver).__name__}: {receiver!r}")
        if not _takes_keywords(receiver):
            raise ValueError(
                f"{receiver!r} must take **kwargs: signals are sent with keyword arguments, and later versions may send more"
            )
        key = (_key(receiver), None) if dispatch_uid is None else (None, dispatch_uid)
        entry = _Receiver((*key, _sender_key(sender)), sender, self._reference(receiver, weak), retry)
        with self._lock:
            if all(known.key != entry.key for known in self.receivers):
                self.receivers = (*self.receivers, entry)
        _notify()
        return receiver

    def _reference(self, receiver: Any, weak: bool) -> Callable[[], Callable[..., Any] | None]:
        if not weak:
            return lambda: receiver
        self_ref = weakref.ref(self)

        def gone(reference: Any) -> None:
            signal = self_ref()
            if signal is not None:
                with signal._lock:
                    signal.receivers = tuple(entry for entry in signal.receivers if entry.function is not reference)

        if isinstance(receiver, MethodType):
            return weakref.WeakMethod(receiver, gone)
        try:
            return weakref.ref(receiver, gone)
        except TypeError:  # a built-in, which lives for ever
            return lambda: receiver

    def disconnect(self, receiver: Any = None, sender: Any = None, weak: bool | None = None, dispatch_uid: Any = None) -> bool:
        """Stop calling a receiver; True if it was connected. ``weak`` is accepted and means nothing."""
        key = (_key(receiver), None) if dispatch_uid is None else (None, dispatch_uid)
        wanted = (*key, _sender_key(sender))
        with self._lock:
            kept = tuple(entry for entry in self.receivers if entry.key != wanted)
            found = len(kept) != len(self.receivers)
            self.receivers = kept
        _notify()
        return found

    def has_listeners(self, sender: Any = None) -> bool:
        """Say whether anybody would be called if ``sender`` sent."""
        return any(entry.sender is None or _same(entry.sender, sender) for entry in self.receivers)

    def send(self, sender: Any = None, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call the receivers; return each with what it returned, or with the exception it raised (which is logged)."""
        responses: list[tuple[Callable[..., Any], Any]] = []
        for entry in self.receivers:
            if entry.sender is not None and not _same(entry.sender, sender):
                continue
            function = entry.function()
            if function is None:
                continue
            responses.append((function, self._call(function, entry.retry, sender, named)))
        return responses

    send_robust = send

    def _call(self, function: Callable[..., Any], retry: bool, sender: Any, named: dict[str, Any]) -> Any:
        pause_s = 0.1
        while True:
            try:
                return function(signal=self, sender=sender, **named)
            except Exception as exc:  # what a listener does must not change what it listens to
                if not retry:
                    logger.exception("Signal handler %r raised: %r", function, exc)
                    return exc
                logger.warning("Signal handler %r raised, and is called again in %g s: %r", function, pause_s, exc)
                time.sleep(pause_s)
                pause_s = min(RETRY_PAUSE_S, pause_s * 2)

    def __repr__(self) -> str:
        return f"<Signal: {self.name} receivers={len(self.receivers)}>"

    __str__ = __repr__


def on_change(callback: Callable[[], object]) -> None:
    """Call ``callback`` whenever a receiver is connected or disconnected anywhere; kept for the life of the process."""
    _changed.append(callback)


def _notify() -> None:
    for callback in list(_changed):
        callback()


def _key(receiver: Any) -> Any:
    if isinstance(receiver, MethodType):
        return id(receiver.__self__), id(receiver.__func__)
    return id(receiver)


def _sender_key(sender: Any) -> Any:
    return sender if isinstance(sender, str) or sender is None else id(sender)


def _same(wanted: Any, sender: Any) -> bool:
    # == beside the identity: a shared task stands for the application's own
    return wanted is sender or bool(wanted == sender)


def _takes_keywords(receiver: Any) -> bool:
    import inspect  # lazy: 7 ms that an application without receivers need not pay

    try:
        parameters = inspect.signature(receiver).parameters.values()
    except (TypeError, ValueError):  # a built-in that does not say
        return True
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _signal(name: str, *arguments: str) -> Signal:
    return Signal(arguments, name=name)


# --- sending; the sender is the task's name ---

#: before a message is made of a call; receivers may change ``headers`` (see ``docs/signals.md``)
before_task_publish = _signal(
    "before_task_publish", "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"
)
#: after the broker has the message
after_task_publish = _signal("after_task_publish", "body", "exchange", "routing_key", "headers")
#: deprecated name of after_task_publish; nothing sends it
task_sent = _signal("task_sent", "task_id", "task", "args", "kwargs", "eta", "taskset")

# --- tasks in a worker; the sender is the task, or the consumer where there is none ---

task_received = _signal("task_received", "request")
task_prerun = _signal("task_prerun", "task_id", "task", "args", "kwargs")
task_postrun = _signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success = _signal("task_success", "result", "runtime")
task_retry = _signal("task_retry", "request", "reason", "einfo")
task_failure = _signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
task_internal_error = _signal("task_internal_error", "task_id", "args", "kwargs", "request", "exception", "traceback", "einfo")
task_revoked = _signal("task_revoked", "request", "terminated", "signum", "expired")
task_rejected = _signal("task_rejected", "message", "exc")
task_unknown = _signal("task_unknown", "message", "exc", "name", "id")

# --- workers; which process sends them: fastq/worker/announce.py ---

#: the settings are about to be read: receivers may change ``conf``, though the command line wins. The sender is the node's name
celeryd_init = _signal("celeryd_init", "instance", "conf", "options")
#: receivers may change ``instance.queues``; the sender is the node's name
celeryd_after_setup = _signal("celeryd_after_setup", "instance", "conf")
#: the modules of ``imports`` and ``include`` are imported; the sender is the application
import_modules = _signal("import_modules")
#: it is known what the worker will be; the sender is the worker (``fastq.worker.announce.WorkerNode``)
worker_init = _signal("worker_init")
#: in the process that forks; gevent, eventlet and solo fork nothing
worker_before_create_process = _signal("worker_before_create_process")
#: in each process that runs tasks, of every pool, before its first task: the place to open connections. No sender
worker_process_init = _signal("worker_process_init")
#: in each of them when it ends by itself; not in one that is killed. No sender
worker_process_shutdown = _signal("worker_process_shutdown", "pid", "exitcode")
#: tasks are taken from now on; the sender is the worker
worker_ready = _signal("worker_ready")
#: ``sig``: the name of the signal that asked for it ("": none did), ``how``: Warm or Cold. The sender is the node's name
worker_shutting_down = _signal("worker_shutting_down", "sig", "how", "exitcode")
#: no task runs any more; the sender is the worker. Receivers have 10 s (after a cold stop 1 s; solo sends none then)
worker_shutdown = _signal("worker_shutdown")
#: nothing sends it: leases are renewed by the supervisor, which has no application
heartbeat_sent = _signal("heartbeat_sent")

# --- logging ---

setup_logging = _signal("setup_logging", "loglevel", "logfile", "format", "colorize")
after_setup_logger = _signal("after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize")
after_setup_task_logger = _signal("after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize")

# --- beat, eventlet, command line ---

beat_init = _signal("beat_init")
beat_embedded_init = _signal("beat_embedded_init")
#: in each process of an eventlet pool: its greenlets are there; no task begins any more and all have ended; the hub is left.
#: The sender is the pool
eventlet_pool_started = _signal("eventlet_pool_started")
eventlet_pool_preshutdown = _signal("eventlet_pool_preshutdown")
eventlet_pool_postshutdown = _signal("eventlet_pool_postshutdown")
#: nothing sends it: the pool is given deliveries, not functions
eventlet_pool_apply = _signal("eventlet_pool_apply", "target", "args", "kwargs")
#: a command has imported the application; ``options`` are those of the command line. The sender is the application
user_preload_options = _signal("user_preload_options", "app", "options")


def all_signals() -> dict[str, Signal]:
    """Return every signal of this module by its name."""
    return {name: value for name, value in globals().items() if isinstance(value, Signal)}
