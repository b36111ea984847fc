"""Run a canvas here and now: ``apply()``, and ``apply_async()`` with ``task_always_eager``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastq import _core, states
from fastq.canvas.chain import chain
from fastq.canvas.chord import chord
from fastq.canvas.group import group
from fastq.canvas.maps import chunks
from fastq.canvas.signature import Signature
from fastq.canvas.stamping import call_options
from fastq.canvas.steps import Call, Fork, Given, Step, steps
from fastq.eager_result import EagerResult
from fastq.exceptions import ChordError
from fastq.results import GroupResult

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["apply"]


def apply(sig: Signature[Any], args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
    """Run a signature, completed by arguments and options; return an EagerResult, for a group a GroupResult of these.

    Tasks run one after the other, each member of a group once the one before has ended. What comes after a task that failed has
    the same result, and does not run. None for an empty chain. The option ``throw`` raises the failure, once all has run that can.
    """
    app = sig.app
    options = {key: value for key, value in options.items() if value is not None}
    if isinstance(sig, chord):
        sig, kwargs = sig.with_body(kwargs)
    if isinstance(sig, chain | group | chord | chunks):
        throw = options.pop("throw", False)
        result = _run(app, steps(sig, app, Given(args or (), kwargs or {}, options)), joined=False)
        if throw and result is not None:
            result.get()
        return result
    positional, named, merged = sig._merge(args, kwargs, options)
    return sig.type.apply(positional, named, **call_options(merged))


def _run(app: FastQ, found: Sequence[Step], *, joined: bool) -> Any:
    """Run steps; ``joined``: what comes after them wants one value, a group's is the list of its members'."""
    last: Any = None
    for i, step in enumerate(found):
        above = last
        if above is not None:
            value, failure = _value(app, above)
            if failure is not None:
                return _failed(app, found[i:], failure, above)
            above_args: tuple[Any, ...] = (value,)
        else:
            above_args = ()
        last = _call(app, step, above_args) if isinstance(step, Call) else _fork(app, step, above_args)
        last.parent = above
    if joined and isinstance(last, GroupResult):
        value, failure = _value(app, last)
        id = _core.new_id(app.producer.clock_ms())
        gathered = EagerResult(id, value, states.SUCCESS) if failure is None else failure
        gathered.parent = last
        return gathered
    return last


def _call(app: FastQ, step: Call, above_args: tuple[Any, ...]) -> Any:
    given = step.given
    options = call_options(given.options)
    if step.links:
        options["link"] = step.links
    if step.errbacks:
        options["link_error"] = step.errbacks
    if step.id is not None:
        options["task_id"] = step.id
    task = step.sig._type or app.tasks[step.sig.task]
    args = given.args if given.immutable else (*above_args, *given.args)
    return task.apply(args, given.kwargs, **options)


def _fork(app: FastQ, step: Fork, above_args: tuple[Any, ...]) -> GroupResult[Any]:
    results: list[Any] = []
    for part in step.parts:
        given = part.given
        if above_args and not given.immutable:
            given = Given((*above_args, *given.args), given.kwargs, given.options)
        for task in part.tasks:
            results.append(_run(app, steps(task, app, given, errbacks=part.errbacks), joined=bool(step.links)))
    made: GroupResult[Any] = GroupResult(step.id or _core.new_id(app.producer.clock_ms()), results, app=app)
    if step.links:
        value, failure = _value(app, made)
        if failure is None:
            for link in step.links:
                apply(link, (value,), None, {})
    return made


def _value(app: FastQ, result: Any) -> tuple[Any, EagerResult[Any] | None]:
    """Return what the next step is called with, or how those that cannot run end."""
    if isinstance(result, GroupResult):
        values = []
        for member in result.results:
            value, failure = _value(app, member)
            if failure is not None:
                cause: Any = failure.result
                error = ChordError(f"Dependency {failure.id} raised {cause!r}")
                error.__cause__ = cause if isinstance(cause, BaseException) else None
                return None, EagerResult(failure.id, error, states.FAILURE)
            values.append(value)
        return values, None
    if result.state == states.SUCCESS:
        return result.result, None
    return None, result


def _failed(app: FastQ, rest: Sequence[Step], failure: EagerResult[Any], above: Any) -> Any:
    """Return the result of steps that cannot run."""
    step = rest[-1]
    if isinstance(step, Fork):
        results = [_failed(app, [Call(task, Given(), None, [], [])], failure, None) for part in step.parts for task in part.tasks]
        made: Any = GroupResult(step.id or _core.new_id(app.producer.clock_ms()), results, app=app)
    else:
        id = step.id or _core.new_id(app.producer.clock_ms())
        made = EagerResult(id, failure.result, failure.state, failure.traceback, step.sig.task)
    made.parent = above
    return made
