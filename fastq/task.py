"""A task: a function that can be sent to a queue, with the types of its arguments and of its result."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from fastq.calling import Plan, Signature
from fastq.running import current, directly_called

if TYPE_CHECKING:
    from fastq._core import Delivery
    from fastq.app import FastQ
    from fastq.result import AsyncResult as Result
    from fastq.result import ResultSet

__all__ = ["Context", "CoroutineTask", "Task", "current", "directly_called"]

P = ParamSpec("P")
R = TypeVar("R")
P2 = ParamSpec("P2")
R2 = TypeVar("R2")


class Context:
    """What a running task knows about its call: ``self.request``. Read from the delivery when asked for.

    Attributes that code sets stay for the run; headers of the call are attributes too; anything else Celery has is None.
    """

    task: Task[..., Any] | None
    id: str | None
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    retries: int
    headers: dict[str, Any] | None
    delivery_info: dict[str, Any]

    def __init__(self, task: Task[..., Any] | None = None, delivery: Delivery | None = None, **values: Any) -> None:
        put = self.__dict__
        put["task"] = task
        put["_delivery"] = delivery
        put.update(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        delivery: Delivery | None = self.__dict__.get("_delivery")
        read = _CONTEXT.get(name)
        if read is not None:
            value = read(self, delivery)
        elif name.startswith("_"):
            raise AttributeError(name)
        else:
            headers = self.headers
            if headers is None or name not in headers:
                if name in _ABSENT:
                    return None
                raise AttributeError(f"the request has no {name!r}")
            return headers[name]
        self.__dict__[name] = value
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, or the default where there is none."""
        return getattr(self, key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes."""
        self.__dict__.update(*args, **kwargs)

    def clear(self) -> None:
        """Forget attributes that were set; what the delivery says stays."""
        kept = {key: self.__dict__.get(key) for key in ("task", "_delivery")}
        self.__dict__.clear()
        self.__dict__.update(kept)

    def as_execution_options(self) -> dict[str, Any]:
        """Return the options that a follow-up of this call is sent with."""
        return {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "headers": self.headers,
            "expires": self.expires,
            "priority": self.delivery_info.get("priority"),
        }

    def __repr__(self) -> str:
        return f"<Context: {self.id} args={self.args!r} kwargs={self.kwargs!r} retries={self.retries}>"


_Read = Callable[[Context, "Delivery | None"], Any]


def _options(context: Context, d: Delivery | None) -> Mapping[str, Any]:
    return (d.options or {}) if d is not None else {}


def _call(context: Context, d: Delivery | None) -> tuple[list[Any], dict[str, Any]]:
    if d is None or context.task is None:
        return [], {}
    args, kwargs = context.task.app.serializers.loads(d.content_type, d.body)
    return list(args), dict(kwargs)


def _delivery_info(context: Context, d: Delivery | None) -> dict[str, Any]:
    if d is None:
        return {}
    return {
        "exchange": "",
        "routing_key": d.queue,
        "priority": context._options.get("priority", 0),
        "redelivered": d.deliveries > 0,
    }


def _ms_iso(ms: int | None) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat() if ms else None


_CONTEXT: dict[str, _Read] = {
    "id": lambda c, d: d.id if d else None,
    "task_id": lambda c, d: c.id,
    "correlation_id": lambda c, d: c.id,
    "_options": _options,
    "_call": _call,
    "args": lambda c, d: c._call[0],
    "kwargs": lambda c, d: c._call[1],
    "retries": lambda c, d: d.retries if d else 0,
    "delivery_info": _delivery_info,
    "deliveries": lambda c, d: d.deliveries if d else 0,
    "headers": lambda c, d: c._options.get("headers"),
    "root_id": lambda c, d: c._options.get("root_id") or c.id,
    "parent_id": lambda c, d: c._options.get("parent_id"),
    "eta": lambda c, d: _ms_iso(c._options.get("eta_ms")),
    "expires": lambda c, d: _ms_iso(d.expires_ms) if d else None,
    "reply_to": lambda c, d: (d.inbox or None) if d else None,
    "ignore_result": lambda c, d: d.ignore_result if d else False,
    "hostname": lambda c, d: (c.task.app.hostname or None) if d and c.task else None,
    "called_directly": lambda c, d: d is None,
    "is_eager": lambda c, d: False,
    "utc": lambda c, d: True,
    "properties": lambda c, d: {"correlation_id": c.id, "reply_to": c.reply_to, "delivery_info": c.delivery_info} if d else {},
}

#: attributes of Celery's request that a call of this kind does not have
_ABSENT = frozenset(
    {
        "callbacks", "chain", "children", "chord", "errbacks", "group", "group_index", "loglevel", "logfile", "origin", "shadow",
        "soft_time_limit", "stamped_headers", "stamps", "time_limit", "timelimit", "traceparent",
    }
)  # fmt: skip

#: the request made for the delivery that runs here, so that what a task sets on it stays
_request: ContextVar[Context | None] = ContextVar("fastq_request", default=None)

#: options that a call's plan is made from: setting one of them on a task makes a new plan
PLANNED = frozenset(
    {"app", "name", "run", "queue", "priority", "serializer", "compression", "expires", "ignore_result", "typing", "retry_policy"}
)


class Task(Generic[P, R]):
    """Send a function to a queue, or call it.

    Made by ``@app.task``; a subclass (``base=``) may override anything, and its attributes are options. One instance per process.
    """

    app: FastQ
    name: str = ""
    __name__: str
    #: the function it was made of
    __wrapped__: Callable[..., Any]
    #: queue it is sent to; None: ``task_default_queue``
    queue: str | None = None
    #: 0 to 9, higher is more urgent; None: ``task_default_priority``
    priority: int | None = None
    serializer: str | None = None
    compression: str | None = None
    #: seconds after which a call that has not started is dropped
    expires: float | timedelta | None = None
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    track_started: bool | None = None
    acks_late: bool | None = None
    #: whether arguments are checked when the task is sent
    typing: bool | None = None
    retry_policy: Mapping[str, Any] | None = None
    #: whether the function takes the task as its first argument
    bind: bool = False
    _plan: Plan | None = None
    #: generation of the settings that ``_plan`` was made from
    _generation: int = -1
    _signature: Signature | None = None

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work. ``@app.task`` puts the function here; a class-based task defines it."""
        raise NotImplementedError(f"{type(self).__name__} must define run()")

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in PLANNED:
            object.__setattr__(self, "_plan", None)
            if name == "run":
                object.__setattr__(self, "_signature", None)

    # --- calling ---

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, without a queue."""
        token = directly_called.set(Context(self, id=None, args=args, kwargs=kwargs, called_directly=True))
        try:
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
        finally:
            directly_called.reset(token)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """Send the task with these arguments; return when the broker has it.

        Raises TypeError for arguments that the function does not take, EncodeError for one that cannot be serialized, and
        OperationalError when the broker cannot be reached.
        """
        plan = self._plan
        if plan is None or self._generation != self.app.conf.generation:
            plan = self._prepare()
        if kwargs or not plan.low <= len(args) <= plan.high:
            plan.check(args, kwargs)
        return plan.send(args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """``delay`` for an event loop."""
        plan = self._planned()
        plan.check(args, kwargs)
        return await plan.asend(args, kwargs)

    def apply_async(
        self,
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
    ) -> Result[R]:
        """Send the task with options; what is None is as the task, then the settings, say.

        ``countdown`` (s) or ``eta`` (naive: in the application's timezone): not before; it waits in the broker. ``expires`` (s from
        now, or a datetime): dropped as REVOKED if it has not started by then. Raises as ``delay``.
        """
        plan = self._planned()
        positional, named = plan.arguments(args, kwargs)
        plan.check(positional, named)
        changed = plan.changed(
            queue=queue, priority=priority, serializer=serializer, compression=compression, ignore_result=ignore_result,
            expires=expires, retry=retry, retry_policy=retry_policy,
        )  # fmt: skip
        return changed.send(
            positional, named, task_id=task_id, countdown=countdown, eta=eta, headers=headers, root_id=root_id, parent_id=parent_id
        )

    async def aapply_async(
        self,
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
    ) -> Result[R]:
        """``apply_async`` for an event loop."""
        plan = self._planned()
        positional, named = plan.arguments(args, kwargs)
        plan.check(positional, named)
        changed = plan.changed(
            queue=queue, priority=priority, serializer=serializer, compression=compression, ignore_result=ignore_result,
            expires=expires, retry=retry, retry_policy=retry_policy,
        )  # fmt: skip
        return await changed.asend(
            positional, named, task_id=task_id, countdown=countdown, eta=eta, headers=headers, root_id=root_id, parent_id=parent_id
        )

    def delay_many(
        self,
        calls: Iterable[Sequence[Any]],
        *,
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
    ) -> ResultSet[R]:
        """Send the task once per tuple of arguments, a thousand in each round trip; return the results in order.

        Options are those of ``apply_async`` and hold for all. The iterable is read as it is sent, so it may be a generator of any
        length. If the broker fails half-way, the OperationalError names the tasks of the failed round trip; earlier ones were kept,
        and ``error.results`` holds their results.
        """
        changed = self._planned().changed(
            queue=queue, priority=priority, serializer=serializer, compression=compression, ignore_result=ignore_result,
            expires=expires, retry=retry, retry_policy=retry_policy,
        )  # fmt: skip
        return changed.send_many(calls, countdown=countdown, eta=eta, headers=headers)

    async def adelay_many(
        self,
        calls: Iterable[Sequence[Any]],
        *,
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
    ) -> ResultSet[R]:
        """``delay_many`` for an event loop."""
        changed = self._planned().changed(
            queue=queue, priority=priority, serializer=serializer, compression=compression, ignore_result=ignore_result,
            expires=expires, retry=retry, retry_policy=retry_policy,
        )  # fmt: skip
        return await changed.asend_many(calls, countdown=countdown, eta=eta, headers=headers)

    # --- while it runs ---

    @property
    def request(self) -> Context:
        """Return what is known about the call that runs here; an empty one outside of a call."""
        called = directly_called.get()
        if called is not None and called.task is self:
            return called
        delivery = current.get()
        if delivery is None or delivery.name != self.name:
            return Context(self)
        made = _request.get()
        if made is None or made.__dict__["_delivery"] is not delivery:
            made = Context(self, delivery)
            _request.set(made)
        return made

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """Store a state of one's own, such as PROGRESS, with its meta, which is ``result.info``.

        It never replaces a final state. Outside of a running task the ``task_id`` must be given.
        """
        id = task_id or self.request.id
        if not id:
            raise ValueError("update_state outside of a running task needs task_id=")
        if state is None:
            raise ValueError("update_state needs state=, such as state='PROGRESS'")
        self.app.backend.store_result(id, meta, state)

    # --- results ---

    def AsyncResult(self, task_id: str) -> Result[R]:
        """Return the result of a task known by its id."""
        return self.app.AsyncResult(task_id)

    @property
    def backend(self) -> Any:
        """Return the application's result store."""
        return self.app.backend

    # ---

    def _planned(self) -> Plan:
        plan = self._plan
        if plan is None or self._generation != self.app.conf.generation:
            plan = self._prepare()
        return plan

    def _prepare(self) -> Plan:
        """Flatten what a call needs: options of the task over those of the settings."""
        app = self.app
        generation = app.conf.generation
        signature = self._signature
        if signature is None:
            signature = Signature(self.name, self.run)
            object.__setattr__(self, "_signature", signature)
        plan = Plan(
            app, self.name, signature if (app.strict_typing if self.typing is None else self.typing) else None,
            queue=self.queue, priority=self.priority, serializer=self.serializer, compression=self.compression,
            expires=self.expires, ignore_result=self.ignore_result, retry_policy=self.retry_policy,
        )  # fmt: skip
        object.__setattr__(self, "_plan", plan)
        object.__setattr__(self, "_generation", generation)
        return plan

    def __repr__(self) -> str:
        return f"<@task: {self.name} of {self.app!r}>" if self.name else f"<unbound {type(self).__name__}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


def _unpickle(name: str) -> Task[..., Any]:
    from fastq.shared import get_current_app  # lazy: shared imports this module

    return get_current_app().tasks[name]


class CoroutineTask(Task[P, R]):
    """A task made from ``async def``: calling it directly gives the coroutine; its result is what that returns."""

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...  # type: ignore[override]


class TaskDecorator(Protocol):
    """What ``@app.task(...)`` returns: it keeps the function's types."""

    @overload
    def __call__(self, fn: Callable[P2, Coroutine[Any, Any, R2]], /) -> CoroutineTask[P2, R2]: ...
    @overload
    def __call__(self, fn: Callable[P2, R2], /) -> Task[P2, R2]: ...


class BoundTaskDecorator(Protocol):
    """What ``@app.task(bind=True)`` returns: it drops ``self`` from the function's types."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P2], Coroutine[Any, Any, R2]], /) -> CoroutineTask[P2, R2]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P2], R2], /) -> Task[P2, R2]: ...
