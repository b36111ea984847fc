"""Run a task here and now as a worker would: ``task.apply()``, and every call where ``task_always_eager`` is set.

Hooks, signals, retries, links and errbacks work as in a worker, one after the other, before the call returns. Delays, time limits
and rate limits mean nothing: a retry runs again at once.

The steps of a run are a generator that asks for the task to be called; so one text serves threads (``_drive``) and event loops
(``_adrive``).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastq import _core, signals, states
from fastq.calling.body import body
from fastq.calling.options import split
from fastq.context import Context, described
from fastq.einfo import ExceptionInfo
from fastq.errbacks import takes_failure
from fastq.exceptions import Ignore, Reject, Retry
from fastq.models import Models
from fastq.result import denied_join_result
from fastq.result_tree import result_from_tuple
from fastq.results import GroupResult
from fastq.retries import Again, Replaced, after
from fastq.running import Trail, directly_called, entered, parent

if TYPE_CHECKING:
    from fastq.calling import Plan
    from fastq.eager_result import EagerResult
    from fastq.task import Task

__all__ = ["aapply", "apply", "apply_task"]

logger = logging.getLogger("fastq.app.trace")

#: the state of a task that keeps no result
IGNORED = "IGNORED"
#: what a run asks for: the task to be called with these
_Steps = Generator[tuple[Sequence[Any], Mapping[str, Any]], Any, "EagerResult[Any]"]


# --- task_always_eager ---


def apply(plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any], call: Mapping[str, Any]) -> EagerResult[Any]:
    """Run a call that would have been sent; its arguments travel through the serializer first."""
    run = _as_sent(plan, args, kwargs, call)
    with denied_join_result():
        result = _drive(run.task, run.steps())
    return run.done(result)


async def aapply(plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any], call: Mapping[str, Any]) -> EagerResult[Any]:
    """``apply`` for an event loop: a coroutine function is awaited."""
    run = _as_sent(plan, args, kwargs, call)
    with denied_join_result():
        result = await _adrive(run.task, run.steps())
    return run.done(result)


def _as_sent(plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any], call: Mapping[str, Any]) -> _Run:
    content_type, written = body(plan, args, dict(kwargs))
    args, kwargs = plan.app.serializers.loads(content_type, written)
    assert plan.task is not None
    return _Run(plan.task, list(args), dict(kwargs), plan.raw, call, throw=call.get("throw"))


# --- task.apply() ---


def apply_task(
    task: Task[..., Any],
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    throw: bool | None = None,
    **options: Any,
) -> EagerResult[Any]:
    """Run a task with options of ``apply_async``; the arguments are handed over as they are."""
    plan = task._planned()
    positional, named = plan.arguments(args, kwargs)
    plan.check(positional, named)
    planned, call = split(options, f"{task.name}.apply()")
    run = _Run(task, list(positional), named, {**plan.raw, **planned}, call, throw=throw)
    return run.done(_drive(task, run.steps()))


# --- a run ---


class _Run:
    """One task that runs here, through all its retries."""

    def __init__(
        self,
        task: Task[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        call: Mapping[str, Any],
        *,
        throw: bool | None,
    ) -> None:
        app = task.app
        conf = app.conf
        app._annotate(task)
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.throw = bool(conf.task_eager_propagates if throw is None else throw)
        self.id = call.get("task_id") or _core.new_id(app.producer.clock_ms())
        self.call = call
        self.retries = int(call.get("retries") or 0)
        self.links = _signatures(task, call.get("link"))
        self.errbacks = _signatures(task, call.get("link_error"))
        self.chain = _signatures(task, call.get("chain"))
        self.stores = bool(conf.task_store_eager_result if task.store_eager_result is None else task.store_eager_result)
        ignored = options.get("ignore_result", task.ignore_result)
        self.ignored = bool(conf.task_ignore_result if ignored is None else ignored)
        self.models = Models(task) if task.pydantic else None
        self.above = parent()
        self.options = options
        self.trail = Trail()

    def _request(self) -> Context:
        call, options, above = self.call, self.options, self.above
        headers = dict(call.get("headers") or ())
        priority = options.get("priority")
        return Context(
            self.task, None, id=self.id, args=self.args, kwargs=self.kwargs, retries=self.retries, is_eager=True,
            called_directly=False, headers=headers or None, ignore_result=self.ignored,
            root_id=call.get("root_id") or (above.root_id if above else self.id),
            parent_id=call.get("parent_id") or (above.id if above else None),
            callbacks=self.links or None, errbacks=self.errbacks or None, chain=self.chain or None, chord=None,
            group=call.get("group_id"), group_index=call.get("group_index"), shadow=call.get("shadow"),
            soft_time_limit=options.get("soft_time_limit"), time_limit=options.get("time_limit"),
            replaced_task_nesting=call.get("replaced_task_nesting") or 0, reply_to=call.get("reply_to"),
            loglevel=call.get("loglevel"), logfile=call.get("logfile"), _level=priority or 0, _flow={}, _options={},
            trail=self.trail, _stores=self.stores and not self.ignored,
            delivery_info={
                "is_eager": True, "exchange": options.get("exchange") or "", "priority": priority or 0, "redelivered": False,
                "routing_key": options.get("routing_key") or options.get("queue") or self.task.app.conf.task_default_queue,
            },
        )  # fmt: skip

    def steps(self) -> _Steps:
        """Run until it has ended for good; yields the arguments of every call of the task."""
        while True:
            request = self._request()
            token = directly_called.set(request)
            started = time.monotonic()
            try:
                self._started()
                args, kwargs = (self.args, self.kwargs) if self.models is None else self.models.validate(self.args, self.kwargs)
                value = yield args, kwargs
                if self.models is not None:
                    value = self.models.dump(value)
                # retry(throw=False): what the task returned is dropped
                error: BaseException | None = request.__dict__.get("_retry")
            except Exception as exc:
                error = after(self.task, request, exc)
            finally:
                directly_called.reset(token)
            if isinstance(error, Replaced):
                value, error = self._replaced(error.sig)
            if error is None:
                return self._succeeded(value, time.monotonic() - started)
            if isinstance(error, Retry):
                self._again(error, request)
            elif isinstance(error, Ignore):
                self._told(IGNORED, error)
                return self._result(error, IGNORED)
            elif isinstance(error, Reject):
                self._told(states.REJECTED, error)
                return self._result(error, states.REJECTED)
            else:
                return self._failed(error, request)

    def _started(self) -> None:
        if signals.task_prerun.receivers:
            signals.task_prerun.send(sender=self.task, task_id=self.id, task=self.task, args=self.args, kwargs=self.kwargs)
        self.task.before_start(self.id, self.args, self.kwargs)

    def _told(self, state: str, value: Any) -> None:
        if signals.task_postrun.receivers:
            signals.task_postrun.send(
                sender=self.task, task_id=self.id, task=self.task, args=self.args, kwargs=self.kwargs, retval=value, state=state
            )

    def _succeeded(self, value: Any, runtime_s: float) -> EagerResult[Any]:
        self._store(value, states.SUCCESS)
        self._hook("on_success", value, self.id, self.args, self.kwargs)
        if signals.task_success.receivers:
            signals.task_success.send(sender=self.task, result=value, runtime=runtime_s)
        self._hook("after_return", states.SUCCESS, value, self.id, self.args, self.kwargs, None)
        self._told(states.SUCCESS, value)
        for link in self.links:
            link.apply((value,))
        following: Any = value
        for sig in reversed(self.chain):
            result = sig.apply((following,))
            if result.state != states.SUCCESS:
                break
            following = result.get()
        return self._result(value, states.SUCCESS)

    def _failed(self, exc: BaseException, request: Context) -> EagerResult[Any]:
        einfo = ExceptionInfo(exc)
        self._store(exc, states.FAILURE, einfo.traceback)
        self._hook("on_failure", exc, self.id, self.args, self.kwargs, einfo)
        if signals.task_failure.receivers:
            signals.task_failure.send(
                sender=self.task, task_id=self.id, exception=exc, args=self.args, kwargs=self.kwargs, traceback=exc.__traceback__,
                einfo=einfo,
            )  # fmt: skip
        self._hook("after_return", states.FAILURE, exc, self.id, self.args, self.kwargs, einfo)
        self._told(states.FAILURE, exc)
        for errback in self.errbacks:
            newer = takes_failure(errback.type)
            errback.apply((request, exc, einfo.traceback) if newer else (self.id,))
        if self.throw:
            raise exc
        return self._result(exc, states.FAILURE, einfo.traceback)

    def _again(self, retry: Retry, request: Context) -> None:
        reason = retry.exc if retry.exc is not None else retry
        einfo = ExceptionInfo(reason)
        self._hook("on_retry", reason, self.id, self.args, self.kwargs, einfo)
        if signals.task_retry.receivers:
            signals.task_retry.send(sender=self.task, request=request, reason=retry, einfo=einfo)
        self._hook("after_return", states.RETRY, retry, self.id, self.args, self.kwargs, einfo)
        self._told(states.RETRY, retry)
        again: Again = retry.call or Again()
        if again.args is not None:
            self.args = list(again.args)
        if again.kwargs is not None:
            self.kwargs = dict(again.kwargs)
        self.options = {**self.options, **again.options}
        if again.options.get("headers"):
            self.call = {**self.call, "headers": {**(self.call.get("headers") or {}), **again.options["headers"]}}
        self.retries += 1

    def _replaced(self, sig: Any) -> tuple[Any, BaseException | None]:
        """Run what takes this task's place; return its value, or the exception that ended it."""
        from fastq.canvas import maybe_signature  # lazy: the canvas imports tasks

        result = maybe_signature(sig, app=self.task.app).apply()
        value: Any = None if result is None else result.get(propagate=False)
        if isinstance(result, GroupResult):
            return value, next((one for one in value if isinstance(one, BaseException)), None)
        return (None, value) if result is not None and isinstance(value, BaseException) and result.failed() else (value, None)

    def _hook(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self.task, name)(*arguments)
        except Exception:  # the task has ended: what a hook does then must not change how
            logger.exception("Task %s[%s]: %s raised", self.task.name, self.id, name)

    def _store(self, value: Any, state: str, traceback: str | None = None) -> None:
        if not self.stores or (self.ignored and not (state == states.FAILURE and self._stores_errors())):
            return
        self.task.backend.store_result(self.id, value, state, traceback)

    def _stores_errors(self) -> bool:
        own = self.task.store_errors_even_if_ignored
        return bool(self.task.app.conf.task_store_errors_even_if_ignored if own is None else own)

    def _result(self, value: Any, state: str, traceback: str | None = None) -> EagerResult[Any]:
        from fastq.eager_result import EagerResult  # lazy: the name is an annotation in this module

        app = self.task.app
        children = [result_from_tuple(child, app) for child in self.trail.children or ()]
        return EagerResult(self.id, value, state, traceback, self.task.name, children=children)

    def done(self, result: EagerResult[Any]) -> EagerResult[Any]:
        """Let the task that called this one know it as its child."""
        if self.above is not None and self.call.get("add_to_parent", True):
            self.above.note(result if self.above.eager else result.id)
        return result


# --- who calls the task ---


def _drive(task: Task[..., Any], steps: _Steps) -> EagerResult[Any]:
    """Run the steps in this thread; a coroutine runs to its end in a loop of its own."""
    answer: tuple[Any, Any] = steps.send, None
    while True:
        try:
            args, kwargs = answer[0](answer[1])
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        try:
            value = _function(task)(*args, **kwargs)
            if inspect.iscoroutine(value):
                value = _to_its_end(value)
        except Exception as exc:  # it is the task's, and the run says what becomes of it
            answer = steps.throw, exc
        else:
            answer = steps.send, value


async def _adrive(task: Task[..., Any], steps: _Steps) -> EagerResult[Any]:
    """Run the steps in this event loop."""
    answer: tuple[Any, Any] = steps.send, None
    while True:
        try:
            args, kwargs = answer[0](answer[1])
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        try:
            value = _function(task)(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
        except Exception as exc:  # it is the task's, and the run says what becomes of it
            answer = steps.throw, exc
        else:
            answer = steps.send, value


def _function(task: Task[..., Any]) -> Any:
    """Return what a worker would call: the task's own ``__call__``, else its function."""
    from fastq.task import Task  # lazy: task imports this module where it is used

    return task.run if type(task).__call__ is Task.__call__ else entered(task, task)


def _to_its_end(coroutine: Any) -> Any:
    """Run a coroutine to its end, in this thread, or in another where this one has a running loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[Any] = [None, None]
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome[0] = context.run(asyncio.run, coroutine)
        except BaseException as exc:
            outcome[1] = exc

    thread = threading.Thread(target=run, name="fastq-eager", daemon=True)
    thread.start()
    thread.join()
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


# --- what follows ---


def _signatures(task: Task[..., Any], value: Any) -> list[Any]:
    """Return signatures of one or several: as signatures, dicts, or nodes."""
    if value is None:
        return []
    from fastq.canvas import maybe_signature  # lazy: the canvas imports tasks

    items: Iterable[Any] = value if isinstance(value, list | tuple) else (value,)
    app = task.app
    return [maybe_signature(described(item, app) if isinstance(item, bytes) else item, app=app) for item in items]
