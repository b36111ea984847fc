"""Tell a task's hooks, and the receivers of signals, what became of a run.

What a hook raises after the end of the task is logged and changes nothing; only ``before_start`` can fail a task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastq import signals, states
from fastq.einfo import ExceptionInfo
from fastq.exceptions import Retry
from fastq.records import Delivery

__all__ = ["Hooks", "watched"]

logger = logging.getLogger("fastq.worker.trace")

_NAMES = ("before_start", "on_success", "on_failure", "on_retry", "after_return")


class Hooks:
    """The hooks that one task has of its own, found once; None where it has not."""

    __slots__ = (*_NAMES, "after_success")

    before_start: Callable[..., Any] | None
    on_success: Callable[..., Any] | None
    on_failure: Callable[..., Any] | None
    on_retry: Callable[..., Any] | None
    after_return: Callable[..., Any] | None

    def __init__(self, task: Any) -> None:
        from fastq.task import Task  # lazy: only in a worker that runs tasks with hooks

        for name in _NAMES:
            hook = getattr(task, name, None)
            own = hook is not None and getattr(hook, "__func__", hook) is not getattr(Task, name, None)
            setattr(self, name, hook if own else None)
        #: one of them is called when the task has returned
        self.after_success = self.on_success is not None or self.after_return is not None


def watched() -> bool:
    """Say whether somebody listens to what happens to every task, failed or not."""
    return bool(signals.task_prerun.receivers or signals.task_postrun.receivers or signals.task_success.receivers)


def started(task: Any, hooks: Hooks, d: Delivery, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Tell that a task is about to run; what ``before_start`` raises fails it."""
    if signals.task_prerun.receivers:
        signals.task_prerun.send(sender=task, task_id=d.id, task=task, args=args, kwargs=kwargs)
    if hooks.before_start is not None:
        hooks.before_start(d.id, args, kwargs)


def succeeded(
    task: Any, hooks: Hooks, d: Delivery, args: Sequence[Any], kwargs: Mapping[str, Any], value: Any, runtime_ns: int
) -> None:
    """Tell that a task has returned."""
    if hooks.on_success is not None:
        _call(d, hooks.on_success, value, d.id, args, kwargs)
    if signals.task_success.receivers:
        signals.task_success.send(sender=task, result=value, runtime=runtime_ns / 1e9)
    if hooks.after_return is not None:
        _call(d, hooks.after_return, states.SUCCESS, value, d.id, args, kwargs, None)
    ended(task, d, args, kwargs, value, states.SUCCESS)


def failed(
    task: Any, hooks: Hooks | None, d: Delivery, args: Sequence[Any], kwargs: Mapping[str, Any], exc: BaseException
) -> None:
    """Tell that a task has failed for good; ``hooks`` None: it has not started."""
    einfo = lost(task, hooks, d, args, kwargs, exc)
    if hooks is not None:
        if hooks.after_return is not None:
            _call(d, hooks.after_return, states.FAILURE, exc, d.id, args, kwargs, einfo)
        ended(task, d, args, kwargs, exc, states.FAILURE)


def lost(
    task: Any, hooks: Hooks | None, d: Delivery, args: Sequence[Any], kwargs: Mapping[str, Any], exc: BaseException
) -> ExceptionInfo:
    """Tell of a failure what does not belong to the process of the run; ``failed`` tells the rest too."""
    einfo = ExceptionInfo(exc)
    if hooks is not None and hooks.on_failure is not None:
        _call(d, hooks.on_failure, exc, d.id, args, kwargs, einfo)
    if signals.task_failure.receivers:
        signals.task_failure.send(
            sender=task, task_id=d.id, exception=exc, args=args, kwargs=kwargs, traceback=exc.__traceback__, einfo=einfo
        )
    return einfo


def retried(
    task: Any, hooks: Hooks | None, d: Delivery, args: Sequence[Any], kwargs: Mapping[str, Any], retry: Retry, request: Any
) -> None:
    """Tell that a task runs again."""
    einfo = ExceptionInfo(retry.exc if retry.exc is not None else retry)
    if hooks is not None and hooks.on_retry is not None:
        _call(d, hooks.on_retry, retry.exc, d.id, args, kwargs, einfo)
    if signals.task_retry.receivers:
        signals.task_retry.send(sender=task, request=request, reason=retry, einfo=einfo)
    ended(task, d, args, kwargs, retry, states.RETRY)


def ended(task: Any, d: Delivery, args: Sequence[Any], kwargs: Mapping[str, Any], value: Any, state: str) -> None:
    """Tell the last thing about a run."""
    if signals.task_postrun.receivers:
        signals.task_postrun.send(sender=task, task_id=d.id, task=task, args=args, kwargs=kwargs, retval=value, state=state)


def _call(d: Delivery, hook: Callable[..., Any], *arguments: Any) -> None:
    try:
        hook(*arguments)
    except Exception:  # the task has ended, whatever its hooks do
        name = getattr(hook, "__name__", "a hook")
        logger.exception("Task %s[%s]: %s() raised; the task's end stands", d.name, d.id, name)
