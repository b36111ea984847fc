"""A task: a function that can be sent to a queue, with the types of its arguments and of its result."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar

from fastq.context import Context, request_of
from fastq.running import directly_called, entering
from fastq.task.options import Options

if TYPE_CHECKING:
    from typing import Unpack

    from fastq.app import FastQ
    from fastq.calling import CallOptions, ManyOptions, Plan, Signature
    from fastq.canvas import Signature as CanvasSignature
    from fastq.eager_result import EagerResult
    from fastq.exceptions import Retry
    from fastq.result import AsyncResult as Result
    from fastq.result import ResultSet

__all__ = ["CoroutineTask", "Task"]

P = ParamSpec("P")
R = TypeVar("R")

#: attributes that a call's plan is made from: setting one of them on a task makes a new plan
PLANNED = frozenset(
    {
        "app", "name", "run", "queue", "exchange", "routing_key", "priority", "serializer", "compression", "expires",
        "ignore_result", "typing", "retry_policy", "time_limit", "soft_time_limit", "pydantic", "shadow_name",
    }
)  # fmt: skip
#: of these, the ones that are options of a call
_CALL_DEFAULTS = (
    "queue", "exchange", "routing_key", "priority", "serializer", "compression", "expires", "ignore_result", "retry_policy",
)  # fmt: skip


class Task(Options, Generic[P, R]):
    """Send a function to a queue, or call it.

    Made by ``@app.task``; a subclass (``base=``) may override anything, and its attributes are options (``fastq.task.options``).
    One instance per process.
    """

    app: FastQ
    name: str = ""
    __name__: str
    #: the function it was made of
    __wrapped__: Callable[..., Any]
    #: whether the function takes the task as its first argument
    bind: bool = False

    _backend: Any = None
    _plan: Plan | None = None
    #: generation of the settings that ``_plan`` was made from
    _generation: int = -1
    _signature: Signature | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # a class that changes how it is sent means every way of sending; told here, it costs a call nothing
        own = vars(cls)
        if "apply_async" in own and "delay" not in own:
            cls.delay = _delay_through  # type: ignore[method-assign]
        if "aapply_async" in own and "adelay" not in own:
            cls.adelay = _adelay_through  # type: ignore[method-assign]

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
        if entering.get() is self:  # in a worker, from the __call__ of a subclass
            entering.set(None)
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
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
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Result[R]:
        """Send the task with options (``fastq.calling.options`` lists them); what is None is as the task, then the settings, say.

        ``countdown`` (s) or ``eta`` (naive: in the application's timezone): not before; it waits in the broker. ``expires`` (s from
        now, or a datetime): dropped as REVOKED if it has not started by then. Raises as ``delay``.
        """
        plan = self._planned()
        positional, named = plan.arguments(args, kwargs)
        plan.check(positional, named)
        if not options:
            return plan.send(positional, named)
        changed, call = plan.resolve(options)
        return changed.send(positional, named, call)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Result[R]:
        """``apply_async`` for an event loop."""
        plan = self._planned()
        positional, named = plan.arguments(args, kwargs)
        plan.check(positional, named)
        changed, call = plan.resolve(options)
        return await changed.asend(positional, named, call)

    def delay_many(self, calls: Iterable[Sequence[Any]], **options: Unpack[ManyOptions]) -> ResultSet[R]:
        """Send the task once per tuple of arguments, a thousand in each round trip; return the results in order.

        Options are those of ``apply_async`` and hold for all. The iterable is read as it is sent, so it may be a generator of any
        length. If the broker fails half-way, the OperationalError names the tasks of the failed round trip; earlier ones were kept,
        and ``error.results`` holds their results.
        """
        changed, call = self._many(options)
        return changed.send_many(calls, call)

    async def adelay_many(self, calls: Iterable[Sequence[Any]], **options: Unpack[ManyOptions]) -> ResultSet[R]:
        """``delay_many`` for an event loop."""
        changed, call = self._many(options)
        return await changed.asend_many(calls, call)

    def _many(self, options: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
        if options.get("task_id") is not None:
            raise TypeError("delay_many: task_id is the option of a single call")
        return self._planned().resolve(options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int = 0,
        throw: bool | None = None,
        logfile: Any = None,
        loglevel: Any = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run the task here and now as a worker would: hooks, retries, links; return its result.

        ``throw``: raise what the task raises (None: as ``task_eager_propagates`` says).
        """
        from fastq.eager import apply_task  # lazy: only where a task runs eagerly

        return apply_task(
            self, args, kwargs, link=link, link_error=link_error, task_id=task_id, retries=retries, throw=throw, headers=headers,
            **options,
        )  # fmt: skip

    # --- signatures ---

    def signature(self, args: Sequence[Any] | None = None, *starargs: Any, **starkwargs: Any) -> CanvasSignature[R]:
        """Return a call that has not been made: ``signature(args, kwargs, options, immutable=..., **more kwargs)``."""
        from fastq.canvas import signature  # lazy: the canvas imports tasks

        starkwargs.setdefault("app", self.app)
        return signature(self, args, *starargs, **starkwargs)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> CanvasSignature[R]:
        """Return a call that has not been made; arguments may still be added in front."""
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> CanvasSignature[R]:
        """Return a call that takes no further arguments."""
        return self.signature(args, kwargs, immutable=True)

    def map(self, it: Iterable[Any]) -> CanvasSignature[list[R]]:
        """Return one task that calls this one with each element, one after the other."""
        from fastq.canvas import xmap  # lazy: the canvas imports tasks

        return xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Sequence[Any]]) -> CanvasSignature[list[R]]:
        """Return one task that calls this one with each element as its arguments, one after the other."""
        from fastq.canvas import xstarmap  # lazy: the canvas imports tasks

        return xstarmap(self.s(), it, app=self.app)

    def chunks(self, it: Iterable[Sequence[Any]], n: int) -> CanvasSignature[list[list[R]]]:
        """Return tasks that each call this one with ``n`` of the elements."""
        from fastq.canvas import chunks  # lazy: the canvas imports tasks

        return chunks(self.s(), it, n, app=self.app)

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **extra_options: Any,
    ) -> CanvasSignature[R]:
        """Return the call that runs here (or that of ``request``) as a signature, with what follows it."""
        request = self.request if request is None else request
        if request.called_directly and request.id is None:
            raise RuntimeError(f"{self.name}: there is no request to make a signature from outside of a running task")
        options = {key: value for key, value in request.as_execution_options().items() if value is not None}
        queue = queue or request.delivery_info.get("routing_key")
        if queue:
            options["queue"] = queue
        options.update(extra_options)
        return self.signature(
            list(request.args if args is None else args), dict(request.kwargs if kwargs is None else kwargs), options
        )

    subtask_from_request = signature_from_request

    # --- while it runs ---

    @property
    def request(self) -> Context:
        """Return what is known about the call that runs here; an empty one outside of a call."""
        return request_of(self)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | timedelta | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """End this run and run again later, under the same id, in the same queue: ``raise self.retry(exc=exc, countdown=10)``.

        Raises Retry itself (``throw=False``: returns it). Once ``max_retries`` are used up, raises ``exc``, or
        MaxRetriesExceededError without one. Neither ``eta`` nor ``countdown``: after ``default_retry_delay``.
        """
        from fastq.retries import retry  # lazy: only where a task is retried

        return retry(self, args, kwargs, exc, throw, eta, countdown, max_retries, **options)

    def replace(self, sig: Any) -> NoReturn:
        """End this run: ``sig`` goes on under the same id, with what was to follow this task. ``raise self.replace(sig)``."""
        self.on_replace(sig)
        raise RuntimeError(f"{type(self).__name__}.on_replace must end with `return super().on_replace(sig)`")

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Let the chord that this task is a member of wait for one more; sent when this task succeeds. ``lazy`` means nothing."""
        from fastq.retries import add_to_chord  # lazy: only where a chord grows

        return add_to_chord(self, sig)

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any) -> None:
        """Store a state of one's own, such as PROGRESS, with its meta, which is ``result.info``.

        It never replaces a final state. Outside of a running task the ``task_id`` must be given. In a task that was called like a
        function, or runs eagerly, there is no result to keep it with: nothing happens.
        """
        request = self.request
        id = task_id or request.id
        if state is None:
            raise ValueError("update_state needs state=, such as state='PROGRESS'")
        if not task_id and directly_called.get() is request and not request.get("_stores"):
            return
        if not id:
            raise ValueError("update_state outside of a running task needs task_id=")
        self.backend.store_result(id, meta, state)

    def send_event(
        self, type_: str, retry: bool = True, retry_policy: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """Tell monitors of an event of this task's own, such as ``task-progress``, with fields. Nobody waits for it."""
        request = self.request
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            dispatcher.send(type_, **{"uuid": request.id, **fields})

    # --- results ---

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Result[R]:
        """Return the result of a task known by its id."""
        return self.app.AsyncResult(task_id, **kwargs)

    @property
    def backend(self) -> Any:
        """Return the result store: the application's, unless the task was given one of its own."""
        return self.app.backend if self._backend is None else self._backend

    @backend.setter
    def backend(self, value: Any) -> None:
        object.__setattr__(self, "_backend", value)

    # --- plans ---

    @property
    def _arranges(self) -> bool:
        """Say whether calls are changed on their way out."""
        return bool(self.pydantic) or getattr(type(self), "shadow_name", None) is not Task.shadow_name

    def _arrange(
        self, args: Sequence[Any], kwargs: dict[str, Any], call: dict[str, Any], options: Mapping[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return the arguments in the form in which they travel, and add to the call's options."""
        if call.get("shadow") is None and (shadow := self.shadow_name(args, kwargs, {**options, **call})) is not None:
            call["shadow"] = shadow
        if self.pydantic:
            from fastq.models import plain  # lazy: only where a task has models

            args = [plain(value) for value in args]
            kwargs = {key: plain(value) for key, value in kwargs.items()}
        return args, kwargs

    def _planned(self) -> Plan:
        plan = self._plan
        if plan is None or self._generation != self.app.conf.generation:
            plan = self._prepare()
        return plan

    def _prepare(self) -> Plan:
        """Flatten what a call needs: options of the task over those of the settings."""
        from fastq.calling import Plan, Signature  # lazy: only where something is sent

        app = self.app
        generation = app.conf.generation
        app._annotate(self)
        signature = self._signature
        if signature is None:
            signature = Signature(self.name, self.run)
            object.__setattr__(self, "_signature", signature)
        checked = app.strict_typing if self.typing is None else self.typing
        plan = Plan(app, self.name, signature if checked else None, task=self, **self.call_defaults())
        object.__setattr__(self, "_plan", plan)
        object.__setattr__(self, "_generation", generation)
        return plan

    def call_defaults(self) -> dict[str, Any]:
        """Return the options of a call that the task itself sets."""
        return {key: value for key in _CALL_DEFAULTS if (value := getattr(self, key)) is not None}

    def __repr__(self) -> str:
        return f"<@task: {self.name} of {self.app!r}>" if self.name else f"<unbound {type(self).__name__}>"

    def __reduce__(self) -> Any:
        return _unpickle, (self.name,)


def _delay_through(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Send the task through the ``apply_async`` of its class."""
    return self.apply_async(args, kwargs)


async def _adelay_through(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Send the task through the ``aapply_async`` of its class."""
    return await self.aapply_async(args, kwargs)


def _unpickle(name: str) -> Task[..., Any]:
    from fastq.shared import get_current_app  # lazy: shared imports this module

    return get_current_app().tasks[name]


class CoroutineTask(Task[P, R]):
    """A task made from ``async def``: calling it directly gives the coroutine; its result is what that returns."""

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...  # type: ignore[override]
