"""The application: its settings, its tasks, its connections."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, overload

from fastq import shared
from fastq.config import SETTINGS, Settings, suggest
from fastq.exceptions import AlreadyRegistered, ImproperlyConfigured, NotRegistered
from fastq.records import Entry, Registry
from fastq.task import BoundTaskDecorator, CoroutineTask, Task, TaskDecorator

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastq.calling import Plan
    from fastq.producer import Producer
    from fastq.result import AsyncResult as Result
    from fastq.serialization import Serializers
    from fastq.store import ResultStore
    from fastq.transports.base import Backend, Broker, TransportOptions

__all__ = ["FastQ", "TaskRegistry"]

P = ParamSpec("P")
R = TypeVar("R")
#: for the body of FastQ, which has a property of the name Task
AnyTask = Task[..., Any]
_Task = Task

logger = logging.getLogger("fastq.app")

#: results are not kept
DISABLED = "disabled://"
#: the embedded broker's file
EMBEDDED_FILE = "fastq.db"


class TaskRegistry(dict[str, Task[..., Any]]):
    """Tasks by name."""

    def __missing__(self, name: str) -> Task[..., Any]:
        raise NotRegistered(f"no task named {name!r} is registered{suggest(name, self)}")

    def regular(self) -> Iterator[Task[..., Any]]:
        """Iterate over the tasks of the application, built-in ones left out."""
        return (task for name, task in self.items() if not name.startswith("fastq."))


class FastQ:
    """A task queue application: settings, tasks and connections belong to it.

    Making one reads no settings and opens nothing; settings are read at their first use, connections opened at the first send.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Iterable[str] | str | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        set_as_current: bool = True,
        task_cls: type[Task[..., Any]] | str | None = None,
        strict_typing: bool = True,
        changes: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """``main`` names the tasks of a module that is run as a script. Further keywords are settings; they win over the
        environment and the config object, and lose against ``app.conf`` (``changes`` are assigned there)."""
        if main is not None and not isinstance(main, str):
            raise TypeError(f"FastQ's first argument is the application's name, not {type(main).__name__}")
        for name in settings:
            if name not in SETTINGS:
                raise TypeError(
                    f"FastQ() got an unexpected keyword argument {name!r}{suggest(name, [*SETTINGS, 'broker', 'backend'])}"
                )
        for name, value in (("broker_url", broker), ("result_backend", backend), ("include", include)):
            if value is not None:
                settings[name] = value
        self.main = main
        self.strict_typing = strict_typing
        self.conf = Settings(settings)
        self.finalized = False
        #: the worker node that this process belongs to; set by the worker
        self.hostname: str = ""
        self.task_cls: type[Task[..., Any]] | str = task_cls if task_cls is not None else Task
        self._lock = threading.RLock()
        self._tasks = TaskRegistry()
        self._shared: dict[Any, Task[..., Any]] = {}
        self._registry: Registry | None = None
        self._producer: Producer | None = None
        self._store: ResultStore | None = None
        self._serializers: tuple[int, Serializers] | None = None
        self._plans: tuple[int, dict[str, Plan]] | None = None
        self._urls: tuple[int, str, str, bool] | None = None
        self._timezone: tuple[int, tzinfo] | None = None
        self._said_where = False
        if config_source is not None:
            self.conf.load(config_source, namespace=namespace)
        if changes:
            self.conf.update(changes)
        shared.enrol(self)
        if set_as_current:
            self.set_current()

    @property
    def name(self) -> str:
        """Return the application's name, as banners show it."""
        return self.main or _main_name() or "default"

    # --- current ---

    def set_current(self) -> None:
        """Make this the application that ``current_app`` and shared tasks use."""
        shared.set_current(self)

    def set_default(self) -> None:
        """Make this the application of threads that have made no other one current."""
        shared.set_default(self)

    # --- settings ---

    def config_from_object(self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None) -> None:
        """Take settings from a module, class, mapping, or the dotted name of one (``'pkg.mod'``, ``'pkg.mod:attr'``).

        Read at the first use of a setting (``force``: now); replaces what an earlier call set. ``namespace='FASTQ'`` takes only
        names that start with ``FASTQ_``. ``silent`` ignores a module that does not exist.
        """
        self.conf.load(obj, namespace=namespace, silent=silent, force=force)

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Take settings from the object whose dotted name an environment variable holds."""
        name = os.environ.get(variable_name)
        if not name:
            if silent:
                return False
            raise ImproperlyConfigured(
                f"the environment variable {variable_name!r} is not set: set it to the dotted name of a config module"
            )
        self.conf.load(name, silent=silent, force=force)
        return True

    @property
    def timezone(self) -> tzinfo:
        """Return the zone of naive datetimes."""
        known = self._timezone
        if known is None or known[0] != self.conf.generation:
            known = self._timezone = (self.conf.generation, self._read_timezone())
        return known[1]

    def _read_timezone(self) -> tzinfo:
        name = self.conf.timezone
        if name is None:
            if self.conf.enable_utc:
                return UTC
            local = datetime.now().astimezone().tzinfo
            return local if local is not None else UTC
        if name.upper() in ("UTC", "GMT", "Z"):
            return UTC
        from zoneinfo import ZoneInfo  # lazy: only where a zone is named

        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError) as exc:
            raise ImproperlyConfigured(
                f"timezone = {name!r}: no such zone on this machine (expected a name such as Europe/Paris; is tzdata installed?)"
            ) from exc

    def now(self) -> datetime:
        """Return this machine's time in the application's zone."""
        return datetime.now(self.timezone)

    def aware(self, moment: datetime) -> datetime:
        """Return a datetime with a zone: a naive one is in the application's."""
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=self.timezone)

    # --- tasks ---

    if TYPE_CHECKING:

        @overload
        def task(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
        @overload
        def task(self, fn: Callable[P, R], /) -> Task[P, R]: ...
        @overload
        def task(self, *, bind: Literal[True], **options: Any) -> BoundTaskDecorator: ...
        @overload
        def task(self, *, bind: Literal[False] = False, **options: Any) -> TaskDecorator: ...
        @overload
        def task(self, *, bind: bool, **options: Any) -> Callable[[Callable[..., Any]], Task[..., Any]]: ...

    def task(self, *args: Any, **options: Any) -> Any:
        """Make a task of a function: ``@app.task``, or with options ``@app.task(bind=True, queue="mail")``.

        Options: ``name``, ``bind`` (the task is the first argument), ``base`` (a Task subclass), ``queue``, ``priority``,
        ``serializer``, ``compression``, ``expires``, ``ignore_result``, ``track_started``, ``acks_late``, ``typing``; anything else
        becomes an attribute. The function's name in its module is the task's name; ``__main__`` is replaced by the application's.
        """
        if len(args) == 1 and callable(args[0]) and not options:
            return self._make_task(args[0], {})
        if args:
            raise TypeError("app.task takes a function, or keyword options only: @app.task or @app.task(name=...)")
        return lambda fn: self._make_task(fn, options)

    def _make_task(self, fn: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
        if isinstance(fn, Task):
            raise TypeError(f"{fn.name} is a task already: @app.task is applied to a function, once")
        if not callable(fn):
            raise TypeError(f"a task is made of a function, not of {fn!r}")
        options = dict(options)
        base = self._base(options.pop("base", None), fn)
        bind = options.pop("bind", base.bind)
        fn_name = getattr(fn, "__name__", type(fn).__name__)
        module = getattr(fn, "__module__", None) or "__main__"
        name = options.pop("name", None) or base.name or self.gen_task_name(fn_name, module)
        if not isinstance(name, str):
            raise TypeError(f"name={name!r}: a task's name is text")
        task = base.__new__(base)
        put = task.__dict__
        put["app"] = self
        put["name"] = name
        put["bind"] = bool(bind)
        put["run"] = MethodType(fn, task) if bind else fn
        for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
            put[attribute] = getattr(fn, attribute, None)
        put["__wrapped__"] = fn
        for key, value in options.items():
            if not hasattr(Task, key):
                self._warn_option(key)
            put[key] = value
        task.__init__()  # type: ignore[misc]
        self._add(task, replace=False)
        return task

    @staticmethod
    def _warn_option(name: str) -> None:
        known = [key for key, value in vars(Task).items() if not key.startswith("_") and not callable(value)]
        if hint := suggest(name, known):
            import warnings  # lazy: only where an option looks wrong

            warnings.warn(f"task option {name!r} means nothing to fastq{hint}; it is kept as an attribute", stacklevel=5)

    def _base(self, base: Any, fn: Any) -> type[Task[..., Any]]:
        base = self.Task if base is None else base
        if isinstance(base, str):
            base = _named(base)
        if not (isinstance(base, type) and issubclass(base, Task)):
            raise TypeError(f"base={base!r}: expected a subclass of fastq.Task")
        if base is Task:
            import inspect  # lazy: imported already by dataclasses, named where it is used

            return CoroutineTask if inspect.iscoroutinefunction(fn) else Task
        return base

    def _shared_instance(self, fn: Any, options: Mapping[str, Any]) -> Task[..., Any]:
        """Return this application's instance of a shared task."""
        task = self._shared.get(fn)
        if task is None:
            with self._lock:
                task = self._shared.get(fn)
                if task is None:
                    task = self._shared[fn] = self._make_task(fn, options)
        return task

    def register_task(self, task: Task[..., Any] | type[Task[..., Any]]) -> Task[..., Any]:
        """Register a class-based task, or replace the task of that name."""
        if isinstance(task, type):
            task = task()
        if not isinstance(task, Task):
            raise TypeError(f"expected a Task or a subclass of it, got {task!r}")
        task.app = self
        if not task.name:
            kind = type(task)
            task.name = self.gen_task_name(kind.__name__, kind.__module__)
        self._add(task, replace=True)
        return task

    def _add(self, task: Task[..., Any], *, replace: bool) -> None:
        with self._lock:
            known = self._tasks.get(task.name)
            if known is not None and not replace and _origin(known) != _origin(task):
                raise AlreadyRegistered(
                    f"two tasks are named {task.name!r}: {'.'.join(_origin(known))} and {'.'.join(_origin(task))}. "
                    "Give one of them another name: @app.task(name=...)"
                )
            self._tasks[task.name] = task
            self._registry = None

    def gen_task_name(self, name: str, module: str) -> str:
        """Return the name of a task that has none of its own; may be overridden."""
        if module in ("__main__", "__mp_main__"):
            module = self.main or _main_name() or "__main__"
        return f"{module}.{name}" if module else name

    @property
    def Task(self) -> type[Task[..., Any]]:
        """Return the class that tasks are made of."""
        if isinstance(self.task_cls, str):
            self.task_cls = _named(self.task_cls)
        return cast("type[Task[..., Any]]", self.task_cls)

    @Task.setter
    def Task(self, cls: Any) -> None:
        self.task_cls = cls

    @property
    def tasks(self) -> TaskRegistry:
        """Return every task by name, shared ones included."""
        if not self.finalized:
            shared.bind_shared(self)
        return self._tasks

    def finalize(self) -> None:
        """Take in the shared tasks and import the modules of ``imports`` and ``include``. Harmless to call again."""
        with self._lock:
            if self.finalized:
                return
            self.finalized = True
            try:
                shared.bind_shared(self)
                self.import_default_modules()
            except BaseException:
                self.finalized = False
                raise

    def import_default_modules(self) -> None:
        """Import the modules of ``imports`` and ``include``; ImproperlyConfigured for one that does not exist."""
        for setting in ("imports", "include"):
            for name in self.conf[setting]:
                try:
                    importlib.import_module(name)
                except ModuleNotFoundError as exc:
                    if exc.name is None or not (name == exc.name or name.startswith(exc.name + ".")):
                        raise  # an import inside it failed: that traceback is the one to show
                    raise ImproperlyConfigured(
                        f"{setting} ({self.conf.origin(setting)}) names the module {name!r}, but there is no module {exc.name!r}"
                    ) from exc

    def registry(self) -> Registry:
        """Return the tasks as the core wants them, frozen; a task registered later makes a new one."""
        with self._lock:
            tasks = self.tasks
            if self._registry is None:
                self._registry = Registry([self._entry(task) for task in tasks.values()])
            return self._registry

    def _entry(self, task: AnyTask) -> Entry:
        import inspect  # lazy: imported already by dataclasses, named where it is used

        conf = self.conf

        def resolved(option: bool | None, setting: str) -> bool:
            return bool(conf[setting] if option is None else option)

        own_call = type(task).__call__ is not _Task.__call__
        return Entry(
            task.name,
            task if own_call else task.run,
            task,
            is_async=inspect.iscoroutinefunction(task.run),
            ignore_result=resolved(task.ignore_result, "task_ignore_result"),
            track_started=(tracked := resolved(task.track_started, "task_track_started")),
            special=tracked,
            acks_late=resolved(task.acks_late, "task_acks_late"),
        )

    # --- sending by name ---

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        expires: float | timedelta | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, Any] | None = None,
        serializer: str | None = None,
        compression: str | None = None,
        ignore_result: bool | None = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
    ) -> Result[Any]:
        """Send a task by name; its code need not be known here. Options as in ``Task.apply_async``; arguments are not checked."""
        plan = self._plan(name)
        positional, named = plan.arguments(args, kwargs)
        changed = plan.changed(
            queue=queue, priority=priority, serializer=serializer, compression=compression, ignore_result=ignore_result,
            expires=expires, retry=retry, retry_policy=retry_policy,
        )  # fmt: skip
        return changed.send(
            positional, named, task_id=task_id, countdown=countdown, eta=eta, headers=headers, root_id=root_id, parent_id=parent_id
        )

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        expires: float | timedelta | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, Any] | None = None,
        serializer: str | None = None,
        compression: str | None = None,
        ignore_result: bool | None = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
    ) -> Result[Any]:
        """``send_task`` for an event loop."""
        plan = self._plan(name)
        positional, named = plan.arguments(args, kwargs)
        changed = plan.changed(
            queue=queue, priority=priority, serializer=serializer, compression=compression, ignore_result=ignore_result,
            expires=expires, retry=retry, retry_policy=retry_policy,
        )  # fmt: skip
        return await changed.asend(
            positional, named, task_id=task_id, countdown=countdown, eta=eta, headers=headers, root_id=root_id, parent_id=parent_id
        )

    def _plan(self, name: str) -> Plan:
        if not isinstance(name, str) or not name:
            raise TypeError(f"a task is sent by its name, not by {name!r}")
        generation = self.conf.generation
        plans = self._plans
        if plans is None or plans[0] != generation:
            plans = self._plans = (generation, {})
        plan = plans[1].get(name)
        if plan is None:
            from fastq.calling import Plan  # lazy: the name is taken by the annotation only

            options: dict[str, Any] = {}
            task = self.tasks.get(name)
            if task is not None:
                keys = ("queue", "priority", "serializer", "compression", "expires", "ignore_result", "retry_policy")
                options = {key: getattr(task, key) for key in keys}
            plan = Plan(self, name, None, **options)
            if task is None and len(plans[1]) > 10_000:
                plans[1].clear()
            plans[1][name] = plan
        return plan

    # --- results ---

    def AsyncResult(self, task_id: str) -> Result[Any]:
        """Return the result of a task known by its id."""
        from fastq.result import AsyncResult  # lazy: the name is taken by this method

        return AsyncResult(task_id, self)

    @property
    def backend(self) -> ResultStore:
        """Return the result store."""
        store = self._store
        if store is None:
            from fastq.store import ResultStore  # lazy: only where results are used

            with self._lock:
                store = self._store
                if store is None:
                    store = self._store = ResultStore(self, self.open_backend)
        return store

    # --- connections ---

    @property
    def producer(self) -> Producer:
        """Return what publishes for this application in this process."""
        producer = self._producer
        if producer is None:
            from fastq.producer import Producer  # lazy: only where something is sent

            with self._lock:
                producer = self._producer
                if producer is None:
                    producer = self._producer = Producer(self.open_broker)
        return producer

    @property
    def serializers(self) -> Serializers:
        """Return what this application writes and reads."""
        known = self._serializers
        if known is None or known[0] != self.conf.generation:
            from fastq.serialization import Serializers  # lazy: only where something is sent or read

            conf = self.conf
            known = self._serializers = (
                conf.generation,
                Serializers(
                    task=conf.task_serializer,
                    result=conf.result_serializer,
                    accept=conf.accept_content,
                    result_accept=conf.result_accept_content,
                ),
            )
        return known[1]

    def _where(self) -> tuple[int, str, str, bool]:
        known = self._urls
        if known is None or known[0] != self.conf.generation:
            broker = self.conf.broker_url
            embedded = broker is None
            if broker is None:
                broker = embedded_url(os.getcwd())
            backend = self.conf.result_backend
            if backend is None:
                backend = broker if broker.partition("://")[0].lower() in ("sqlite", "memory") else DISABLED
            elif backend.lower() in ("disabled", DISABLED):
                backend = DISABLED
            known = self._urls = (self.conf.generation, broker, backend, embedded)
            if embedded and not self._said_where:
                self._said_where = True
                logger.info("No broker is configured: using the embedded one, %s", broker)
        return known

    @property
    def broker_url(self) -> str:
        """Return where messages are kept, the embedded broker's file if nothing is configured. May hold a password."""
        return self._where()[1]

    @property
    def backend_url(self) -> str:
        """Return where results are kept, ``disabled://`` for nowhere. May hold a password."""
        return self._where()[2]

    @property
    def broker_is_embedded(self) -> bool:
        """Say whether no broker is configured, so that the embedded one is used."""
        return self._where()[3]

    @property
    def keeps_results(self) -> bool:
        """Say whether there is a result backend."""
        return self._where()[2] != DISABLED

    def transport_options(self) -> TransportOptions:
        """Return the settings that concern transports."""
        from fastq.transports.base import TransportOptions  # lazy: only where a connection is made

        conf = self.conf
        expires_s = conf.result_expires
        return TransportOptions(
            prefix=conf.key_prefix,
            result_expires_s=max(1, int(expires_s)) if expires_s else None,
            max_deliveries=conf.task_max_deliveries,
            dead_letter_max=conf.dead_letter_max,
            dead_letter_expires_s=int(conf.dead_letter_expires),
            connect_timeout_s=conf.broker_connection_timeout,
            lease_ms=round(conf.worker_lease * 1000),
            extra=dict(conf.broker_transport_options),
        )

    def open_broker(self) -> Broker:
        """Return a broker of one's own; it connects at its first call."""
        from fastq.transports import open_broker  # lazy: only where a connection is made

        return open_broker(self.broker_url, self.transport_options())

    def open_backend(self) -> Backend | None:
        """Return a backend of one's own, None where results are disabled."""
        if not self.keeps_results:
            return None
        import dataclasses  # lazy: only where a connection is made

        from fastq.transports import open_backend  # lazy: only where a connection is made

        options = self.transport_options()
        own = self.conf.result_backend_transport_options
        if own or self.backend_url != self.broker_url:
            options = dataclasses.replace(options, extra=dict(own))
        return open_backend(self.backend_url, options)

    def close(self) -> None:
        """Send what is queued and close the connections. The application can be used again; it is no longer current."""
        if self._producer is not None:
            self._producer.close()
        if self._store is not None:
            self._store.close()
        shared.forget(self)

    def __enter__(self) -> FastQ:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'} at 0x{id(self):x}>"


def embedded_url(directory: str) -> str:
    """Return the URL of the embedded broker: beside the nearest ``pyproject.toml`` upwards, else in the directory itself."""
    from fastq.finding import nearest_pyproject  # lazy: finding imports this module

    project = nearest_pyproject(directory)
    home = os.path.dirname(project) if project else os.path.abspath(directory)
    return f"sqlite:///{os.path.join(home, EMBEDDED_FILE)}"


def _main_name() -> str:
    """Return the name of the module that is run as a script: as ``python -m`` found it, or its file's."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name and spec.name != "__main__":
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else ""


def _origin(task: Task[..., Any]) -> tuple[str, str]:
    """Return where a task's code is: module and qualified name (a module reloaded, or a notebook's cell, replaces its own)."""
    source = task.__dict__.get("__wrapped__", type(task))
    return str(getattr(source, "__module__", "")), str(getattr(source, "__qualname__", repr(source)))


def _named(path: str) -> Any:
    """Return the object of a dotted name (``pkg.mod:attr`` or ``pkg.mod.attr``)."""
    module, _, attribute = path.rpartition(":" if ":" in path else ".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"{path!r} names no object: {exc}") from exc
