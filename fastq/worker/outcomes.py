"""Turn the ends of runs that need more than the core does into settlements: workflows, hooks, signals, retries, refusals.

A plain task that returns never comes here: the core settles it alone (see ``Runner``). What a task raises always does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fastq import _core, flow, signals, states
from fastq.context import begin_request
from fastq.einfo import ExceptionInfo
from fastq.exceptions import ChordError, Ignore, Reject, ResultTooLarge, Retry
from fastq.models import Models
from fastq.pools.base import TaskCancelled, TaskKilled
from fastq.records import DONE, RETRY, Delivery, Effects, Publication, Settlement
from fastq.remote import encode_exception, repr_safe
from fastq.retries import Replaced, after
from fastq.serialization import Serializers
from fastq.worker import followups, hooks
from fastq.worker.arguments import Arguments, Unready
from fastq.worker.effects import effects_of
from fastq.worker.failures import Failures, failure_record
from fastq.worker.meta import Meta
from fastq.worker.relimits import NewLimits

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Clock", "Outcomes", "TimeLimits"]

logger = logging.getLogger("fastq.worker.trace")

#: the state of a run that leaves no result, as signals tell it
IGNORED = "IGNORED"


class Clock(Protocol):
    def now_ms(self) -> int: ...


class TimeLimits(Protocol):
    """What ends runs that take too long."""

    def begin(self, d: Delivery, soft_s: float | None, hard_s: float | None) -> None: ...
    def end(self, d: Delivery, exc: BaseException | None = None) -> BaseException | None: ...


class _Traits:
    """What is special about the runs of one task, found once."""

    __slots__ = ("default_hard_s", "default_soft_s", "hard_s", "hooks", "models", "soft_s")

    def __init__(self, task: Any, conf: Any) -> None:
        self.hooks = hooks.Hooks(task)
        self.models = Models(task) if getattr(task, "pydantic", False) else None
        self.default_soft_s: float | None = conf.get("task_soft_time_limit")
        self.default_hard_s: float | None = conf.get("task_time_limit")
        self.soft_s = _first(getattr(task, "soft_time_limit", None), self.default_soft_s)
        self.hard_s = _first(getattr(task, "time_limit", None), self.default_hard_s)


class _Run:
    """A special run between its beginning and its end."""

    __slots__ = ("args", "kwargs", "limited", "said", "started", "traits")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], traits: _Traits | None) -> None:
        self.args = args
        self.kwargs = kwargs
        self.traits = traits
        #: what is set on its request
        self.said: dict[str, Any] | None = None
        self.limited = False
        #: its arguments are there: what it raises from now on is its own
        self.started = False


class Outcomes:
    """Prepare, conclude and settle runs. Called from slots, many at once; one run's steps come one after the other."""

    def __init__(
        self,
        *,
        app: FastQ,
        serializers: Serializers,
        failures: Failures,
        arguments: Arguments,
        meta: Meta,
        clock: Clock,
        stores: bool,
        report_started: Callable[..., None] | None = None,
        limits: TimeLimits | None = None,
        new_limits: NewLimits | None = None,
        result_max_bytes: int = 0,
    ) -> None:
        """``stores``: whether there is a result backend. ``report_started`` writes STARTED where a task asks for it."""
        self._app = app
        self._serializers = serializers
        self._failures = failures
        self._arguments = arguments
        self._meta = meta
        self._clock = clock
        self._stores = stores
        self._report_started = report_started
        self._limits = limits
        self._new_limits = new_limits
        self._result_max_bytes = result_max_bytes
        self._traits: dict[_core.Entry, _Traits] = {}
        self._runs: dict[Delivery, _Run] = {}

    def sees_all(self) -> bool:
        """Say whether every run must come through here, not only those that are special themselves."""
        return self._meta.extended or hooks.watched()

    # --- before ---

    def prepare(self, d: Delivery, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
        """Return the arguments of a special run, None: as they are. What this raises is settled like what the task raises."""
        entry = d.entry
        assert entry is not None, "what is not registered does not pass the gate"
        task = entry.task
        traits = self._traits_of(entry)
        run = self._runs[d] = _Run(args, kwargs, traits)
        following = d.flow
        if following is not None:
            run.args = self._arguments.complete(d, following, args)
        if traits is None:
            run.started = True
            return run.args, kwargs
        said = run.said = begin_request(task, d).__dict__
        if run.args is not args or (following is not None and "joined" in following):
            said["args"] = list(run.args)
            said["kwargs"] = kwargs
        run.started = True
        if self._report_started is not None and entry.track_started:
            self._report_started(d)
        if traits.hooks.before_start is not None or signals.task_prerun.receivers:
            hooks.started(task, traits.hooks, d, run.args, kwargs)
        given: tuple[Sequence[Any], Mapping[str, Any]] = (run.args, kwargs)
        if traits.models is not None:
            given = traits.models.validate(run.args, kwargs)
        if self._limits is not None:
            soft_s, hard_s = traits.soft_s, traits.hard_s
            if self._new_limits is not None and (new := self._new_limits.get(entry.name)) is not None:
                soft_s, hard_s = _first(new[0], traits.default_soft_s), _first(new[1], traits.default_hard_s)
            if following is not None and "limits" in following:
                soft_s, hard_s = _first(following["limits"][0], soft_s), _first(following["limits"][1], hard_s)
            if soft_s or hard_s:
                run.limited = True
                self._limits.begin(d, soft_s, hard_s)
        return given

    def _traits_of(self, entry: _core.Entry) -> _Traits | None:
        if entry.task is None:
            return None
        traits = self._traits.get(entry)
        if traits is None:
            traits = self._traits[entry] = _Traits(entry.task, self._app.conf)
        return traits

    # --- a return ---

    def conclude(self, d: Delivery, value: Any, runtime_ns: int) -> Settlement:
        """Settle a special run that has returned; what this raises fails the task."""
        run = self._runs.get(d)
        if run is not None and run.limited:
            assert self._limits is not None
            late = self._limits.end(d)
            run.limited = False  # not before: a strike in between would leave the limits of this run behind
            if late is not None:
                raise late
        entry = d.entry
        assert entry is not None
        more: Sequence[Any] = ()
        if entry.task is not None:
            said = entry.task.request.__dict__ if run is None or run.said is None else run.said
            if (retry := said.get("_retry")) is not None:
                raise retry
            more = said.get("_added", ())
        if run is not None and run.traits is not None and run.traits.models is not None:
            value = run.traits.models.dump(value)
        settlement = self._success(d, run, value, more)
        self._runs.pop(d, None)
        if run is not None and run.traits is not None and (run.traits.hooks.after_success or hooks.watched()):
            hooks.succeeded(entry.task, run.traits.hooks, d, run.args, run.kwargs, value, runtime_ns)
        return settlement

    def _success(self, d: Delivery, run: _Run | None, value: Any, more: Sequence[Any]) -> Settlement:
        stores = self._stores and not d.ignore_result
        follows = flow.follows(d.flow)
        record = None
        effects = None
        if stores or follows:
            now_ms = self._clock.now_ms()
            encoded = self._serializers.dumps(self._serializers.result, value)
            if 0 < self._result_max_bytes < (size := len(encoded[1])):
                raise ResultTooLarge(
                    f"the result of {d.name} is {size} bytes, more than the {self._result_max_bytes} that "
                    "result_max_bytes allows: return less, store it elsewhere and return where, or raise the setting"
                )
            meta = None
            if stores:
                args, kwargs = self._call_of(d, run) if self._meta.extended else (None, None)
                meta = self._meta.of(d, succeeded=True, args=args, kwargs=kwargs, more=more)
            record = _core.encode_result(states.SUCCESS, *encoded, None, now_ms, meta)
            if follows:
                effects = flow.succeeded(d, encoded, record, now_ms)
            if more:
                effects = followups.added(d, effects, more, now_ms)
        return Settlement(
            d.queue, d.tag, d.id, DONE, result=record if stores else None, inbox=d.inbox, record=d.record, effects=effects
        )

    # --- anything else ---

    def on_error(self, d: Delivery, exc: BaseException, runtime_ns: int) -> Settlement:
        """Settle a delivery whose run has raised, or could not begin. What this raises itself becomes a dead letter, made by
        the core."""
        run = self._runs.pop(d, None)
        if run is not None and run.limited:
            assert self._limits is not None
            exc = self._limits.end(d, exc) or exc
        try:
            return self._raised(d, exc, run)
        except (TaskCancelled, TaskKilled):  # thrown at the task from outside, after it had ended: a slot is struck only once
            return self._failures.terminated(d)
        except BaseException as second:
            if signals.task_internal_error.receivers:
                self._tell_internal(d, second, run)
            raise

    def _raised(self, d: Delivery, exc: BaseException, run: _Run | None) -> Settlement:
        failures = self._failures
        if failures.is_cancellation(exc):
            return failures.terminated(d)
        if isinstance(exc, Unready):
            return self._postpone(d, exc)
        task = None if d.entry is None else d.entry.task
        began = run is None or run.started
        if task is not None and began and failures.is_own(exc):
            try:
                exc = after(task, task.request, exc)
                if isinstance(exc, Retry):
                    return self._retry(d, task, exc, run)
                if isinstance(exc, Replaced):
                    return self._replace(d, task, exc, run)
            except Exception as second:  # a retry or a replacement that cannot be written is the failure of the task that asked
                if second is not exc:
                    second.__context__ = exc
                exc = second
        if isinstance(exc, Reject):
            return self._reject(d, task, exc, run)
        if isinstance(exc, Ignore):
            return self._ignore(d, task, exc, run)
        return self._fail(d, task, exc, run, began)

    def _fail(self, d: Delivery, task: Any, exc: BaseException, run: _Run | None, began: bool) -> Settlement:
        args, kwargs = self._call_of(d, run) if self._meta.extended else (None, None)
        meta = self._meta.of(d, succeeded=False, args=args, kwargs=kwargs)
        if not began and isinstance(exc, ChordError):
            settlement = self._failures.unjoined(d, exc, meta)
        else:
            expected = getattr(task, "throws", None) or ()
            settlement = self._failures.failed(d, exc, meta, expected=isinstance(exc, expected))
        own = self._hooks_of(d, run) if began else None
        if task is not None and (own is not None or signals.task_failure.receivers):
            hooks.failed(task, own, d, *self._call_of(d, run), exc)
        return settlement

    def _retry(self, d: Delivery, task: Any, retry: Retry, run: _Run | None) -> Settlement:
        now_ms = self._clock.now_ms()
        again = followups.retried(self._app, self._serializers, d, retry, now_ms)
        record = None
        if self._stores and not d.ignore_result:
            content_type, body, text = encode_exception(retry.exc if retry.exc is not None else retry, self._serializers)
            record = _core.encode_result(states.RETRY, content_type, body, text, now_ms, None)
        if again.queue == d.queue:
            settlement = Settlement(
                d.queue, d.tag, d.id, RETRY, result=record, message=again.message, level=again.level, delay_ms=again.delay_ms,
                record=d.record,
            )  # fmt: skip
        else:
            publication = Publication(again.queue, again.message, again.level, again.delay_ms)
            settlement = Settlement(
                d.queue, d.tag, d.id, DONE, result=record, reason="retried", record=d.record,
                effects=Effects(publications=[publication]),
            )  # fmt: skip
        logger.info("Task %s[%s] retry: %s", d.name, d.id, retry, extra=about(d))
        own = self._hooks_of(d, run)
        if own is not None or signals.task_retry.receivers:
            hooks.retried(task, own, d, *self._call_of(d, run), retry, task.request)
        return settlement

    def _replace(self, d: Delivery, task: Any, replaced: Replaced, run: _Run | None) -> Settlement:
        effects = followups.replacement(self._app, d, replaced.sig, self._clock.now_ms())
        logger.info("Task %s[%s] %s", d.name, d.id, replaced, extra=about(d))
        self._tell_end(d, task, run, replaced, IGNORED)
        return Settlement(d.queue, d.tag, d.id, DONE, reason="replaced", record=d.record, effects=effects)

    def _ignore(self, d: Delivery, task: Any, exc: Ignore, run: _Run | None) -> Settlement:
        """Keep no result. What waits for one all the same, a chord or the rest of a chain, hears that there is none."""
        logger.info("Task %s[%s] ignored", d.name, d.id, extra=about(d))
        effects = None
        if flow.follows(d.flow):
            told = Ignore(f"task {d.name}[{d.id}] was ignored: it has no result")
            now_ms = self._clock.now_ms()
            record = failure_record(self._serializers, told, now_ms, traceback="")
            effects = effects_of(d, record, now_ms, errbacks=False)
        self._tell_end(d, task, run, exc, IGNORED)
        return Settlement(d.queue, d.tag, d.id, DONE, reason="ignored", record=d.record, effects=effects)

    def _reject(self, d: Delivery, task: Any, exc: Reject, run: _Run | None) -> Settlement:
        logger.warning("Task %s[%s] %s", d.name, d.id, repr_safe(exc), extra=about(d))
        if exc.requeue:
            again = followups.requeued(d)
            settlement = Settlement(
                d.queue, d.tag, d.id, RETRY, message=again.message, level=again.level, reason="requeued", record=d.record
            )
        else:
            settlement = self._failures.rejected(d, exc)
        if signals.task_rejected.receivers:
            signals.task_rejected.send(sender=task, message=d, exc=exc)
        self._tell_end(d, task, run, exc, states.REJECTED)
        return settlement

    def _postpone(self, d: Delivery, exc: Unready) -> Settlement:
        again = followups.postponed(d)
        logger.warning("Task %s[%s] waits: the results of its chord cannot be read now (%s)", d.name, d.id, exc, extra=about(d))
        return Settlement(
            d.queue, d.tag, d.id, RETRY, message=again.message, level=again.level, delay_ms=again.delay_ms, reason="postponed",
            record=d.record,
        )  # fmt: skip

    # ---

    def _call_of(self, d: Delivery, run: _Run | None) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments of a run; of a plain one they are read again."""
        if run is not None:
            return run.args, run.kwargs
        try:
            args, kwargs = self._serializers.loads(d.content_type, d.body)
            return tuple(args), dict(kwargs)
        except Exception:  # what cannot be read is told without: the failure says so
            return (), {}

    def _hooks_of(self, d: Delivery, run: _Run | None) -> hooks.Hooks | None:
        """Return the hooks of a run; None where nobody is to be told."""
        if run is not None and run.traits is not None:
            return run.traits.hooks
        return None

    def _tell_end(self, d: Delivery, task: Any, run: _Run | None, value: Any, state: str) -> None:
        if run is not None and task is not None and signals.task_postrun.receivers:
            hooks.ended(task, d, run.args, run.kwargs, value, state)

    def _tell_internal(self, d: Delivery, exc: BaseException, run: _Run | None) -> None:
        task = None if d.entry is None else d.entry.task
        args, kwargs = self._call_of(d, run)
        signals.task_internal_error.send(
            sender=task, task_id=d.id, args=args, kwargs=kwargs, request=None if task is None else task.request, exception=exc,
            traceback=exc.__traceback__, einfo=ExceptionInfo(exc),
        )  # fmt: skip


def about(d: Delivery) -> dict[str, str]:
    """Return what log records carry of a task."""
    return {"task_id": d.id, "task_name": d.name}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
