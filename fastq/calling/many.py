"""Send one task many times: ``delay_many``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from fastq import _core
from fastq.calling.announce import listened
from fastq.calling.made import SINGLE, Made
from fastq.calling.times import expires_ms, when
from fastq.exceptions import OperationalError
from fastq.records import Publication
from fastq.result import AsyncResult
from fastq.results import ResultSet
from fastq.running import Parent, parent

if TYPE_CHECKING:
    from fastq.calling.plan import Plan

__all__ = ["CHUNK", "asend", "send"]

#: messages of one round trip (DESIGN, protocol rules)
CHUNK = 1_000


def send(plan: Plan, calls: Iterable[Sequence[Any]], call: dict[str, Any]) -> ResultSet[Any]:
    """Publish many calls, a chunk in each round trip."""
    if plan.eager:
        return ResultSet([plan.send(_checked(plan, i, args), {}, call) for i, args in enumerate(calls)], plan.app)
    sent: list[AsyncResult[Any]] = []
    producer = plan.app.producer
    iterator = iter(calls)
    above = parent()
    while chunk := list(islice(iterator, CHUNK)):
        made = _chunk(plan, chunk, len(sent), producer.now_ms(plan.policy), call, above)
        try:
            producer.publish(_publications(made), [one.result.id for one in made], plan.policy)
        except OperationalError as exc:
            exc.results = ResultSet(sent, plan.app)  # type: ignore[attr-defined]
            raise
        plan.sent(made, call, above)
        sent.extend([one.result for one in made])
    return ResultSet(sent, plan.app)


async def asend(plan: Plan, calls: Iterable[Sequence[Any]], call: dict[str, Any]) -> ResultSet[Any]:
    """``send`` for an event loop."""
    if plan.eager:
        return ResultSet([await plan.asend(_checked(plan, i, args), {}, call) for i, args in enumerate(calls)], plan.app)
    sent: list[AsyncResult[Any]] = []
    producer = plan.app.producer
    iterator = iter(calls)
    above = parent()
    while chunk := list(islice(iterator, CHUNK)):
        made = _chunk(plan, chunk, len(sent), await producer.anow_ms(plan.policy), call, above)
        try:
            await producer.apublish(_publications(made), [one.result.id for one in made], plan.policy)
        except OperationalError as exc:
            exc.results = ResultSet(sent, plan.app)  # type: ignore[attr-defined]
            raise
        plan.sent(made, call, above)
        sent.extend([one.result for one in made])
    return ResultSet(sent, plan.app)


def _chunk(
    plan: Plan, calls: list[Sequence[Any]], offset: int, now_ms: int, call: dict[str, Any], above: Parent | None
) -> list[Made]:
    app = plan.app
    low, high, ignored = plan.low, plan.high, plan.ignore_result
    for i, args in enumerate(calls):
        if not isinstance(args, tuple | list) or not low <= len(args) <= high:
            _checked(plan, offset + i, args)
    ids = _core.new_ids(now_ms, len(calls))
    if plan.detour or "router" in call:
        made = []
        for id, args in zip(ids, calls, strict=True):
            arranged, positional, named, own = plan.arranged(args, {}, call)
            made.append(arranged.make(positional, named, own, now_ms, above, id))
        return made
    if listened[0] or plan.inherits or plan.queues is not None or not call.keys().isdisjoint(SINGLE):
        return [plan.make(args, {}, call, now_ms, above, id) for id, args in zip(ids, calls, strict=True)]
    delay_ms, due_ms = when(app, now_ms, call.get("countdown"), call.get("eta"))
    expires = expires_ms(app, now_ms, plan.expires)
    options = plan.options
    if call or above is not None:
        options = plan.envelope_options(call, above, "", due_ms or (now_ms + delay_ms if delay_ms else 0))
    queue, level, message = plan.queue, plan.level, plan.message
    expect = app.backend.waiter.expect if plan.inbox_wanted else None
    made = []
    for id, args in zip(ids, calls, strict=True):
        written = message(id, args, {}, now_ms, expires, options)
        result: AsyncResult[Any] = AsyncResult(id, app, ignored=ignored)
        made.append(Made((Publication(queue, written, level, delay_ms, due_ms),), result, None))
    if expect is not None:
        for one in made:
            expect(one.result)
    return made


def _checked(plan: Plan, index: int, args: Any) -> Sequence[Any]:
    """Return the arguments of one call; TypeError, with its number, for what cannot be such."""
    if not isinstance(args, tuple | list):
        raise TypeError(
            f"call {index}: expected a tuple of arguments, got {type(args).__name__}: {args!r} (one argument is `(value,)`)"
        )
    try:
        plan.check(args, {})
    except TypeError as exc:
        raise TypeError(f"call {index}: {exc}") from None
    return args


def _publications(made: Iterable[Made]) -> list[Publication]:
    return [publication for one in made for publication in one.publications]
