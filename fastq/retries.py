"""How a run ends when the task is to go on later or as something else: retries, automatic retries, replacement.

Nothing here sends anything. A retry or a replacement is an exception; the worker turns it into the settlement of the run, so the
re-queueing and the acknowledgement are one step, and eager mode turns it into the next call.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from fastq.calling.options import split
from fastq.exceptions import Ignore, MaxRetriesExceededError, Retry, TaskPredicate

if TYPE_CHECKING:
    from fastq.context import Context
    from fastq.task import Task

__all__ = ["Again", "Replaced", "add_to_chord", "after", "backoff_s", "retry"]

#: seconds before a retry for which neither the call nor the task says when (Celery's)
DEFAULT_DELAY_S = 180.0


@dataclass(frozen=True, slots=True)
class Again:
    """What the next run has that this one had not."""

    #: None: the same
    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    #: options of apply_async that change
    options: Mapping[str, Any] = field(default_factory=dict)


class Replaced(Ignore):
    """End this run: another signature goes on under the same id, with what was to follow this task."""

    def __init__(self, sig: Any) -> None:
        super().__init__(f"replaced by {sig!r}")
        self.sig = sig


# --- retries that the task asks for ---


def retry(
    task: Task[..., Any],
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    exc: BaseException | None = None,
    throw: bool = True,
    eta: datetime | None = None,
    countdown: float | timedelta | None = None,
    max_retries: int | None = None,
    **options: Any,
) -> Retry:
    """Raise Retry (``throw`` False: return it): the task runs again under the same id, in the same queue, ``retries`` one higher.

    ``countdown`` (s) or ``eta``: when; neither: the task's ``default_retry_delay``. Over ``max_retries`` (None: the task's own, and
    if that is None, for ever) raises ``exc``, or MaxRetriesExceededError without one. In a task that was called like a function
    raises ``exc``: there is nothing to retry. With ``throw`` False the retry takes place when the task returns; what it returns
    is dropped.
    """
    request = task.request
    if request.called_directly:
        raise _caused(exc if exc is not None else Retry("Task can be retried", None))
    if options:
        split(options, "retry()")  # a misspelt one is told here, where it stands
    decided = _decide(task, request, exc, eta if eta else countdown, max_retries, Again(args, kwargs, options))
    if not isinstance(decided, Retry):
        raise _caused(decided)
    if throw:
        raise decided
    request.__dict__["_retry"] = decided
    delivery = request.__dict__.get("_delivery")
    if delivery is not None and delivery.children is None:
        delivery.children = []  # so that the worker looks at the end of this run
    return decided


def _caused(exc: BaseException) -> BaseException:
    """Return an exception to be raised; the one that is being handled becomes its cause."""
    handled = sys.exc_info()[1]
    if handled is not None and handled is not exc:
        exc.__cause__ = handled
    return exc


def _decide(
    task: Any,
    request: Context,
    exc: BaseException | None,
    when: float | timedelta | datetime | None,
    max_retries: int | None,
    again: Again,
) -> BaseException:
    """Return the Retry, or the exception that ends the task where no retry is left."""
    limit = getattr(task, "max_retries", 3) if max_retries is None else max_retries
    if limit is not None and request.retries >= limit:
        if exc is not None:
            return exc
        args = request.args if again.args is None else again.args
        kwargs = request.kwargs if again.kwargs is None else again.kwargs
        return MaxRetriesExceededError(
            f"Can't retry {task.name}[{request.id}] args:{args} kwargs:{kwargs}", task_args=args, task_kwargs=kwargs
        )
    if when is None:
        when = getattr(task, "default_retry_delay", DEFAULT_DELAY_S)
    if isinstance(when, timedelta):
        when = when.total_seconds()
    made = Retry(exc=exc, when=when, is_eager=bool(request.is_eager))
    made.call = again
    return made


# --- retries that the task's options ask for ---


def after(task: Task[..., Any], request: Context, exc: BaseException) -> BaseException:
    """Say how a run that raised ``exc`` ends: the Retry that follows, or the exception it fails with (or Ignore, Reject)."""
    if isinstance(exc, Retry):
        # one that the task has made itself, without self.retry(), is under the same limit
        return exc if exc.call is not None else _decide(task, request, exc.exc, exc.when, None, Again())
    wanted = getattr(task, "autoretry_for", None)
    if not wanted or isinstance(exc, TaskPredicate) or not isinstance(exc, _classes(wanted)):
        return exc
    unwanted = getattr(task, "dont_autoretry_for", None)
    if unwanted and isinstance(exc, _classes(unwanted)):
        return exc
    options = dict(getattr(task, "retry_kwargs", None) or {})
    max_retries = options.pop("max_retries", None)
    when = options.pop("eta", None) or options.pop("countdown", None)
    options.pop("countdown", None)
    args, kwargs = options.pop("args", None), options.pop("kwargs", None)
    if (factor := getattr(task, "retry_backoff", False)) is not False and factor is not None and factor != 0:
        when = backoff_s(
            1.0 if factor is True else float(factor),
            request.retries,
            maximum_s=getattr(task, "retry_backoff_max", 600),
            jitter=getattr(task, "retry_jitter", True),
        )
    return _decide(task, request, exc, when, max_retries, Again(args, kwargs, options))


def backoff_s(factor_s: float, retries: int, *, maximum_s: float, jitter: bool) -> float:
    """Return how long to wait before a retry, s: ``factor_s`` doubled by each retry before it, at most ``maximum_s``.

    ``jitter``: anything between nothing and that ("full jitter"), so that tasks that failed together do not return together.
    """
    delay_s = min(float(maximum_s), factor_s * 2.0 ** min(retries, 64))
    return random.uniform(0.0, delay_s) if jitter else delay_s


def _classes(kinds: Any) -> tuple[type[BaseException], ...]:
    return (kinds,) if isinstance(kinds, type) else tuple(kinds)


# --- going on as something else ---


def add_to_chord(task: Task[..., Any], sig: Any) -> Any:
    """Let the chord that the running task is a member of wait for one more; return its result.

    It is sent when the running task succeeds, in the same step. ValueError outside of a chord; TypeError for a group.
    """
    from fastq.canvas import group, maybe_signature  # lazy: floor mates import each other
    from fastq.canvas.build import build  # lazy: as above

    request = task.request
    delivery = request.__dict__.get("_delivery")
    flow = None if delivery is None else delivery.flow
    if not flow or not flow.get("join"):
        raise ValueError("add_to_chord: the current task is not a member of any chord")
    sig = maybe_signature(sig, app=task.app)
    if isinstance(sig, group):
        raise TypeError("add_to_chord takes one task or chain, not a group: add its members one by one")
    built = build(sig, task.app, root_id=request.root_id, continued=True)
    request.__dict__.setdefault("_added", []).append(built)
    return built.result
