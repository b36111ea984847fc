"""What a run leaves to be done: the message of a retry, the messages of a replacement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from fastq import _core, compression, flow
from fastq.calling.follow import nodes
from fastq.calling.options import split
from fastq.calling.times import expires_ms, when
from fastq.exceptions import Retry
from fastq.records import Delivery, Drop, Effects, Growth
from fastq.retries import Again
from fastq.serialization import MSGPACK, Serializers, default

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Message", "added", "level_of", "postponed", "replacement", "requeued", "retried"]

#: how long a task waits whose join could not be read, ms
POSTPONED_MS = 1_000


class Message(NamedTuple):
    """A message that takes the place of the one that ran."""

    message: bytes
    queue: str
    level: int
    delay_ms: int = 0


def level_of(d: Delivery) -> int:
    """Return the priority level that a delivery says it came from; 0 if it says nothing that can be one."""
    level = (d.options or {}).get("priority")
    return level if type(level) is int and 0 <= level <= 9 else 0


def requeued(d: Delivery) -> Message:
    """Return the same call, marked as delivered before, for the tail of its queue; its count of deliveries stays."""
    options = {**(d.options or {}), "requeued": True}
    message = _core.encode(
        d.id, d.name, d.content_type, d.body, d.enqueued_ms, d.expires_ms or None, d.retries, d.inbox or None, options
    )
    return Message(_core.remark(message, d.deliveries), d.queue, level_of(d))


def postponed(d: Delivery) -> Message:
    """Return the same message for a little later: nothing of it has run."""
    return Message(d.message, d.queue, level_of(d), POSTPONED_MS)


def retried(app: FastQ, serializers: Serializers, d: Delivery, retry: Retry, now_ms: int) -> Message:
    """Return the next run's message: same id, ``retries`` one higher, all that the retry does not change kept.

    Raises EncodeError for arguments that cannot be written, TypeError for an option that does not exist.
    """
    again = retry.call if isinstance(retry.call, Again) else Again()
    options = dict(d.options or {})
    options.pop("requeued", None)
    due = retry.when
    delay_ms, due_ms = when(app, now_ms, *((None, due) if isinstance(due, datetime) else (due or 0, None)))
    delay_ms = max(0, due_ms - now_ms) if due_ms else delay_ms
    options.pop("eta_ms", None)
    if delay_ms:
        options["eta_ms"] = now_ms + delay_ms
    queue, level, expires_at = d.queue, level_of(d), d.expires_ms or None
    content_type, body = d.content_type, d.body
    serializer = codec = None
    if again.options:
        planned, call = split(again.options, "retry()")
        assert d.entry is not None
        plan = d.entry.task._planned().changed(planned)
        if not planned.keys().isdisjoint(("queue", "exchange", "routing_key")):
            queue = plan.queue
        if "priority" in planned:
            level = plan.level
            options["priority"] = level
        if "expires" in planned:
            expires_at = expires_ms(app, now_ms, planned["expires"])
        if "ignore_result" in planned:
            options["ignore_result"] = bool(planned["ignore_result"])
        serializer, codec = (plan.serializer if "serializer" in planned else None), planned.get("compression")
        if call.get("headers"):
            options["headers"] = {**(options.get("headers") or {}), **call["headers"]}
        _change_flow(app, options, (plan.options or {}).get("flow") or {}, call)
    if again.args is not None and "flow" in options:
        # they stand for all that the task was called with, what came before it in its chain included
        options["flow"] = {key: value for key, value in options["flow"].items() if key not in ("args", "errback")}
        if "joined" in options["flow"]:
            options["flow"]["loaded"] = True
    if not (again.args is None and again.kwargs is None and serializer is None and codec is None):
        content_type, body = _body(serializers, d, again, serializer, codec)
    message = _core.encode(
        d.id, d.name, content_type, body, now_ms, expires_at, d.retries + 1, d.inbox or None, options or None
    )
    return Message(message, queue, level, delay_ms)


def _change_flow(app: FastQ, options: dict[str, Any], planned: Mapping[str, Any], call: Mapping[str, Any]) -> None:
    changed = dict(options.get("flow") or {})
    if "limits" in planned:
        changed["limits"] = planned["limits"]
    for option, key in (("link", "links"), ("link_error", "errbacks")):
        if more := nodes(app, call.get(option), options.get("root_id")):
            changed[key] = [*changed.get(key, ()), *more]
    if changed:
        options["flow"] = changed


def _body(serializers: Serializers, d: Delivery, again: Again, serializer: str | None, codec: str | None) -> tuple[str, bytes]:
    """Write the arguments anew, in the form in which they came if no other is asked for."""
    base, _, packed = d.content_type.partition(";")
    args: Sequence[Any]
    args, kwargs = serializers.loads(d.content_type, d.body) if again.args is None or again.kwargs is None else ((), {})
    args = list(args if again.args is None else again.args)
    kwargs = dict(kwargs if again.kwargs is None else again.kwargs)
    codec = compression.codec(codec) if codec else packed or None
    if serializer is None and base == MSGPACK:
        body = _core.encode_call(args, kwargs, default)
        return (f"{base};{codec}", compression.compress(codec, body)) if codec else (base, body)
    return serializers.dumps(serializer or base, [args, kwargs], codec)


# --- going on as something else ---


def replacement(app: FastQ, d: Delivery, sig: Any, now_ms: int) -> Effects:
    """Return what starts a signature in the place of a running task: under its id, with everything that was to follow it.

    A group becomes a chord that collects the results; the last task of whatever it is carries the id.
    """
    from fastq.canvas import maybe_signature  # lazy: only where a task is replaced
    from fastq.canvas.build import build  # lazy: as above

    options = d.options or {}
    following = d.flow or {}
    sig = maybe_signature(sig, app=app)
    place = flow.Place(
        now_ms,
        inbox=d.inbox or following.get("inbox", ""),
        rest=following.get("chain", ()),
        join=following.get("join"),
        group=options.get("group"),
        root_id=options.get("root_id") or d.id,
        parent_id=options.get("parent_id"),
    )
    built = build(
        sig,
        app,
        links=following.get("links", ()),
        errbacks=following.get("errbacks", ()),
        task_id=d.id,
        root_id=place.root_id,
        continued=True,
    )
    begun = flow.begin(built.node, place)
    nesting = int(options.get("replaced_task_nesting") or 0) + 1
    publications = [p._replace(message=_nested(p.message, nesting)) for p in begun.publications]
    openings = [o._replace(body=o.body._replace(message=_nested(o.body.message, nesting))) for o in begun.openings]
    joined = following.get("joined")
    return begun._replace(
        openings=openings, publications=publications, drops=[Drop(joined[1], joined[0])] if joined else []
    )


def _nested(message: bytes, nesting: int) -> bytes:
    """Return a message that says how many replacements led to it."""
    d = _core.peek(message)
    options = {**(d.options or {}), "replaced_task_nesting": nesting}
    return _core.encode(
        d.id, d.name, d.content_type, d.body, d.enqueued_ms, d.expires_ms or None, d.retries, d.inbox or None, options
    )


def added(d: Delivery, effects: Effects | None, more: Sequence[Any], now_ms: int) -> Effects:
    """Return the effects with the members that a running member has added to its chord."""
    following = d.flow or {}
    join, _, queue = following["join"]
    options = d.options or {}
    place = flow.Place(now_ms, inbox=d.inbox, group=options.get("group"), root_id=options.get("root_id") or d.id, parent_id=d.id)
    begun = [flow.begin(built.node, place._replace(join=(join, built.result.id, queue))) for built in more]
    known = effects or Effects()
    return known._replace(
        openings=[*known.openings, *(o for b in begun for o in b.openings)],
        growths=[*known.growths, Growth(queue, join, len(begun))],
        publications=[*known.publications, *(p for b in begun for p in b.publications)],
    )
