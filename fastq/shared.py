"""Which application is current, and tasks that belong to whichever is.

The current application is the one made current last in this thread, else the one made current last in the process (so that
threads of a web server see it too), else one that is made on the spot from the environment.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from fastq.running import app_finder, current, directly_called
from fastq.task import Task

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Literal, ParamSpec

    from fastq.app import FastQ
    from fastq.app.decorators import BoundTaskDecorator, TaskDecorator
    from fastq.task import CoroutineTask

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = ["current_app", "current_task", "get_current_app", "get_current_task", "set_current", "set_default", "shared_task"]

T = TypeVar("T")


class _Current(threading.local):
    app: FastQ | None = None


_current = _Current()
_apps: weakref.WeakSet[FastQ] = weakref.WeakSet()
#: what makes each shared task's instance in an application
_constructors: list[Callable[[FastQ], Task[..., Any]]] = []
_default: list[FastQ] = []


def set_current(app: FastQ) -> None:
    """Make an application current in this thread, and in every thread that has none of its own."""
    _current.app = app
    set_default(app)


def set_default(app: FastQ) -> None:
    """Make an application the one that threads without one of their own see."""
    _default[:] = [app]


def get_current_app() -> FastQ:
    """Return the current application; makes one configured by the environment alone if there is none."""
    app = _current.app
    if app is not None:
        return app
    if _default:
        return _default[0]
    from fastq.app import FastQ  # lazy: app imports this module

    app = FastQ("default", set_as_current=False)
    set_default(app)
    return app


app_finder[:] = [get_current_app]


def forget(app: FastQ) -> None:
    """Make a closed application no longer current."""
    if _current.app is app:
        _current.app = None
    if _default and _default[0] is app:
        _default.clear()


def get_current_task() -> Task[..., Any] | None:
    """Return the task that runs here, None outside of one."""
    called = directly_called.get()
    if called is not None:
        return called._task
    delivery = current.get()
    if delivery is None:
        return None
    entry = delivery.entry
    return cast("Task[..., Any] | None", entry.task if entry is not None else None)


def enrol(app: FastQ) -> None:
    """Remember an application, so that shared tasks declared later reach it."""
    _apps.add(app)


def bind_shared(app: FastQ) -> None:
    """Give an application its instances of every shared task declared since the last time."""
    if app._bound != len(_constructors):
        constructors = list(_constructors)
        for make in constructors[app._bound :]:
            make(app)
        app._bound = len(constructors)


class Proxy(Generic[T]):
    """Stand for an object that is looked up at each use."""

    __slots__ = ("__lookup", "__name", "__weakref__")

    def __init__(self, lookup: Callable[[], T], name: str) -> None:
        object.__setattr__(self, "_Proxy__lookup", lookup)
        object.__setattr__(self, "_Proxy__name", name)

    def _get_current_object(self) -> T:
        found = cast("Callable[[], T]", object.__getattribute__(self, "_Proxy__lookup"))()
        if found is None:
            raise RuntimeError(f"there is no {object.__getattribute__(self, '_Proxy__name')} here")
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return cast("Any", self._get_current_object())(*args, **kwargs)

    def __bool__(self) -> bool:
        return cast("Callable[[], T]", object.__getattribute__(self, "_Proxy__lookup"))() is not None

    def __eq__(self, other: object) -> bool:
        return bool(self) and self._get_current_object() == (other._get_current_object() if isinstance(other, Proxy) else other)

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __repr__(self) -> str:
        found = cast("Callable[[], T]", object.__getattribute__(self, "_Proxy__lookup"))()
        return repr(found) if found is not None else f"<no {object.__getattribute__(self, '_Proxy__name')}>"

    def __reduce__(self) -> Any:
        return cast("Any", self._get_current_object()).__reduce__()

    @property
    def __class__(self) -> type:  # isinstance(shared, Task) holds
        found = cast("Callable[[], T]", object.__getattribute__(self, "_Proxy__lookup"))()
        return type(found)

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("a proxy's class cannot be changed")


#: the application that is current where it is used
current_app = cast("FastQ", Proxy(get_current_app, "current application"))
#: the task that runs where it is used; false outside of one
current_task = cast("Task[..., Any]", Proxy(get_current_task, "current task"))


class _SharedTask(Proxy[Task[..., Any]]):
    """A shared task: the current application's instance of it."""

    __slots__ = ("__wrapped__",)


if TYPE_CHECKING:

    @overload
    def shared_task(fn: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def shared_task(fn: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def shared_task(*, bind: Literal[True], **options: Any) -> BoundTaskDecorator: ...
    @overload
    def shared_task(*, bind: Literal[False] = False, **options: Any) -> TaskDecorator: ...
    @overload
    def shared_task(*, bind: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Task[..., Any]]: ...


def shared_task(*args: Any, **options: Any) -> Any:
    """Declare a task for every application, those made later too; used, it is the current application's.

    Takes what ``app.task`` takes. For libraries that must not import the application.
    """

    def declare(fn: Any) -> Any:
        if isinstance(fn, Proxy | Task):
            raise TypeError(f"{fn!r} is a task already: shared_task is applied to a function, once")

        def make(app: FastQ) -> Task[..., Any]:
            return app._shared_instance(fn, options)

        _constructors.append(make)
        for app in list(_apps):
            if app.finalized:
                make(app)

        def lookup() -> Task[..., Any]:
            return make(get_current_app())

        proxy = _SharedTask(lookup, f"shared task {fn.__name__}")
        object.__setattr__(proxy, "__wrapped__", fn)
        return proxy

    if args:
        if len(args) != 1 or not callable(args[0]) or options:
            raise TypeError("shared_task takes a function, or keyword options only: @shared_task or @shared_task(name=...)")
        return declare(args[0])
    return declare
