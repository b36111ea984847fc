"""An application's tasks: made of functions and classes, named, annotated, and frozen for the core."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, overload

from fastq import shared
from fastq.app.annotations import annotate
from fastq.app.names import main_name, named, origin
from fastq.exceptions import DuplicateTaskNameWarning, NotRegistered
from fastq.running import entered
from fastq.settings.table import suggest
from fastq.task import CoroutineTask, Task

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastq.app.application import FastQ
    from fastq.app.decorators import BoundTaskDecorator, TaskDecorator
    from fastq.config import Settings
    from fastq.records import Entry, Registry

__all__ = ["TaskRegistry", "Tasks"]

P = ParamSpec("P")
R = TypeVar("R")
#: for the body of Tasks, which has a property of the name Task
AnyTask = Task[..., Any]
_Task = Task
T = TypeVar("T", bound=Task[..., Any])

NOT_FINALIZED = "Contract breach: app not finalized. It was made with autofinalize=False: call app.finalize() first"
#: methods of Task that the worker calls around a run, if they are overridden
HOOKS = ("before_start", "on_success", "on_retry", "on_failure", "after_return")


class TaskRegistry(dict[str, Task[..., Any]]):
    """Tasks by name."""

    def __missing__(self, name: str) -> Task[..., Any]:
        raise NotRegistered(f"no task named {name!r} is registered{suggest(name, self)}")

    def regular(self) -> Iterator[Task[..., Any]]:
        """Iterate over the tasks of the application, built-in ones left out."""
        return (task for name, task in self.items() if not name.startswith("fastq."))

    def register(self, task: Task[..., Any] | type[Task[..., Any]]) -> None:
        """Enter a task that has a name and an application already; ``app.register_task`` gives it both."""
        made = task() if isinstance(task, type) else task
        if not made.name:
            raise NotRegistered(f"{made!r} has no name: use app.register_task(task)")
        self[made.name] = made

    def unregister(self, name: str | Task[..., Any]) -> None:
        """Take a task out; NotRegistered if there is none of that name."""
        name = name if isinstance(name, str) else name.name
        self[name]
        del self[name]


class Tasks:
    """The part of an application that holds its tasks."""

    main: str | None
    conf: Settings
    strict_typing: bool
    autofinalize: bool
    finalized: bool
    _lock: threading.RLock

    def __init__(self, task_cls: type[Task[..., Any]] | str | None, tasks: Mapping[str, Task[..., Any]] | None) -> None:
        self.task_cls: type[Task[..., Any]] | str = task_cls if task_cls is not None else Task
        self._tasks = TaskRegistry(tasks or {})
        #: how many of the shared tasks it has taken in
        self._bound = 0
        self._builtin = False
        self._shared: dict[Any, Task[..., Any]] = {}
        self._registry: Registry | None = None

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

        Options: ``name``, ``bind`` (the task is the first argument), ``base`` (a Task subclass), and the attributes of
        ``fastq.Task``; anything else becomes an attribute. The function's name in its module is the task's name; ``__main__`` is
        replaced by the application's. Of two functions with one name the first one is the task: DuplicateTaskNameWarning.
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
            elif key == "backend":
                task.backend = value
                continue
            put[key] = value
        task.__init__()  # type: ignore[misc]
        return self._add(task, replace=False)

    @staticmethod
    def _warn_option(name: str) -> None:
        known = [key for key in dir(Task) if not key.startswith("_") and not callable(getattr(Task, key))]
        if hint := suggest(name, known):
            warnings.warn(f"task option {name!r} means nothing to fastq{hint}; it is kept as an attribute", stacklevel=5)

    def _base(self, base: Any, fn: Any) -> type[Task[..., Any]]:
        base = self.Task if base is None else base
        if isinstance(base, str):
            base = named(base)
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

    def register_task(self, task: T | type[T], **options: Any) -> T:
        """Register a class-based task, or replace the task of that name; ``options`` are set on it."""
        if isinstance(task, type):
            task = task()
        if not isinstance(task, Task):
            raise TypeError(f"expected a Task or a subclass of it, got {task!r}")
        task.app = cast("FastQ", self)
        if not task.name:
            kind = type(task)
            task.name = self.gen_task_name(kind.__name__, kind.__module__)
        for key, value in options.items():
            setattr(task, key, value)
        self._add(task, replace=True)
        return task

    def _add(self, task: Task[..., Any], *, replace: bool) -> Task[..., Any]:
        with self._lock:
            known = self._tasks.get(task.name)
            if known is not None and known is not task and origin(known) != origin(task):
                kept = task if replace else known
                warnings.warn(
                    f"two tasks are named {task.name!r}: {'.'.join(origin(known))} and {'.'.join(origin(task))}; the task is "
                    f"{'.'.join(origin(kept))}. Give one of them another name: @app.task(name=...)",
                    DuplicateTaskNameWarning,
                    stacklevel=4,
                )
                if not replace:
                    return known
            self._tasks[task.name] = task
            self._registry = None
        task.on_bound(cast("FastQ", self))
        return task

    def gen_task_name(self, name: str, module: str) -> str:
        """Return the name of a task that has none of its own; may be overridden."""
        if module in ("__main__", "__mp_main__"):
            module = self.main or main_name() or "__main__"
        return f"{module}.{name}" if module else name

    @property
    def Task(self) -> type[Task[..., Any]]:
        """Return the class that tasks are made of."""
        if isinstance(self.task_cls, str):
            self.task_cls = named(self.task_cls)
        return cast("type[Task[..., Any]]", self.task_cls)

    @Task.setter
    def Task(self, cls: Any) -> None:
        self.task_cls = cls

    @property
    def tasks(self) -> TaskRegistry:
        """Return every task by name, shared and built-in ones included. RuntimeError before ``finalize`` if that is the user's."""
        if not self.finalized:
            if not self.autofinalize:
                raise RuntimeError(NOT_FINALIZED)
            self._take_in()
        return self._tasks

    def _take_in(self) -> None:
        """Register what is not the application's own: the built-in tasks, and shared tasks declared since the last look."""
        if not self._builtin:
            self._builtin = True
            from fastq.canvas.builtins import register  # lazy: the canvas imports tasks

            register(cast("FastQ", self))
        shared.bind_shared(cast("FastQ", self))

    # --- what the core runs ---

    def registry(self) -> Registry:
        """Return the tasks as the core wants them, frozen; a task registered later makes a new one."""
        from fastq.records import Registry  # lazy: only a worker runs tasks

        with self._lock:
            tasks = self.tasks
            if self._registry is None:
                self._registry = Registry([self._entry(task) for task in tasks.values()])
            return self._registry

    def _annotate(self, task: AnyTask) -> None:
        """Let the settings change a task (``from_config``, ``task_annotations``), once for each state of them."""
        annotations = self.conf.get("task_annotations")
        if not (annotations or task.from_config) or task.__dict__.get("_annotated") == (generation := self.conf.generation):
            return
        own = task.__dict__
        own["_annotated"] = generation
        taken = own.setdefault("_from_config", {})
        for key, setting in task.from_config:
            if (known := getattr(task, key, None)) is None or (key in taken and taken[key] == known):
                taken[key] = self.conf.get(setting)
                setattr(task, key, taken[key])
        annotate(task, annotations)

    def _entry(self, task: AnyTask) -> Entry:
        import inspect  # lazy: imported already by dataclasses, named where it is used

        from fastq.records import Entry  # lazy: only a worker runs tasks

        conf = self.conf
        self._annotate(task)

        def resolved(option: bool | None, setting: str) -> bool:
            return bool(conf[setting] if option is None else option)

        kind = type(task)
        own_call = kind.__call__ is not _Task.__call__ or "__call__" in task.__dict__
        tracked = resolved(task.track_started, "task_track_started")
        return Entry(
            task.name,
            entered(task, task.__dict__.get("__call__") or task) if own_call else task.run,
            task,
            is_async=inspect.iscoroutinefunction(task.run),
            ignore_result=resolved(task.ignore_result, "task_ignore_result"),
            track_started=tracked,
            # its runs need more than the core does by itself
            special=(
                tracked
                or bool(task.pydantic)
                or any(hook in task.__dict__ or getattr(kind, hook) is not getattr(_Task, hook) for hook in HOOKS)
                or any(
                    conf.get(f"task_{limit}") if getattr(task, limit) is None else getattr(task, limit)
                    for limit in ("time_limit", "soft_time_limit")
                )
            ),
            acks_late=resolved(task.acks_late, "task_acks_late"),
        )
