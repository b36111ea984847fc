"""What follows a task: the part of its message that says so, and the effects that its end has.

A workflow is resolved when it is sent: every step of it has its id, queue and encoded arguments, so whoever ends a task (also a
supervisor, which knows no application) can say what happens next without anything but the message. A *node* is bytes, so that
carrying it on costs nothing: the MessagePack array of a kind and its fields.

    LEAF   id, name, queue, level, content type, body, immutable, timing, options, waited
    GROUP  id, [member, ...]                    members run side by side, nothing waits for all of them
    CHORD  join, queue of the body, [member, ...], body (a leaf)
    CHAIN  [node, ...]

``timing`` is nil or [delay ms, due ms, expires after ms, expires at ms] (0: none), ``options`` the envelope's own (nil: none),
``waited`` whether the sender may wait for that result: then it is told.

In a message the option ``flow`` is a map with some of:

    chain     [node, ...]                       what comes next, the *last* one first: taking it off copies no node
    links     [node, ...]                       what is called with the result, beside the chain
    errbacks  [node, ...]                       what is called if it fails for good
    join      [join, member, queue]             whose member the end of this chain is
    joined    [join, queue]                     it is the body: its first argument are the results of this join
    loaded    true                              those results are among its own arguments already (a retry has changed them)
    args      [[content type, bytes], ...]      arguments in front of those of the body
    errback   [task id, record, message]        it is called because that task failed
    inbox     name                              who waits for what comes later, where nobody waits for this task itself
    limits    [soft s, hard s]                  time limits of this call (nil: as the task says)

The option ``group`` is [group id, index] of what was sent in a group; it is none of the flow, for nothing follows from it.

Follow-ups are effects of the settlement, so they are published once, if and only if the task's end is kept. The value that a task
returned is handed on as it was encoded for its result; nothing is decoded until the next task runs. A message holds what is still
to come once, so its size is linear in the length of the workflow; members of a chord carry no more than the join's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastq import _core
from fastq.exceptions import DecodeError
from fastq.records import Count, Drop, Effects, Opening, Publication, StoredResult

__all__ = [
    "CHAIN", "CHORD", "GROUP", "LEAF", "Place", "begin", "chain", "check", "children", "chord", "failed", "follows", "group", "ids",
    "leaf", "succeeded",
]  # fmt: skip

LEAF, GROUP, CHORD, CHAIN = 1, 2, 3, 4

#: times in messages are below it, so that brokers can add them up exactly (the year 142,000)
LATEST_MS = 1 << 52

_packb = _core.packb
_unpackb = _core.unpackb

#: [content type, encoded value]
Encoded = tuple[str, bytes]


# --- nodes ---


def leaf(
    id: str,
    name: str,
    queue: str,
    level: int,
    content_type: str,
    body: bytes,
    *,
    immutable: bool = False,
    timing: tuple[int, int, int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    waited: bool = False,
) -> bytes:
    """Write one task. ``options`` may hold a ``flow`` with links and errbacks of its own."""
    return _packb([LEAF, id, name, queue, level, content_type, body, immutable, timing, options or None, waited])


def group(id: str, members: Sequence[bytes]) -> bytes:
    """Write tasks that run side by side."""
    return _packb([GROUP, id, list(members)])


def chord(join: str, queue: str, members: Sequence[bytes], body: bytes) -> bytes:
    """Write tasks that run side by side, and a leaf that is called with the list of their results; ``queue`` is the leaf's."""
    return _packb([CHORD, join, queue, list(members), body])


def chain(nodes: Sequence[bytes]) -> bytes:
    """Write nodes that run one after the other; only the last may be a group. One node is itself."""
    return nodes[0] if len(nodes) == 1 else _packb([CHAIN, list(nodes)])


_SHAPES: dict[int, tuple[frozenset[type], ...]] = {
    kind: tuple(frozenset(types) if isinstance(types, tuple) else frozenset((types,)) for types in shape)
    for kind, shape in {
        LEAF: (str, str, str, int, str, bytes, bool, (list, type(None)), (dict, type(None)), bool),
        GROUP: (str, list),
        CHORD: (str, str, list, bytes),
        CHAIN: (list,),
    }.items()
}


def _read(node: object) -> tuple[int, list[Any]]:
    """Return a node's kind and fields; DecodeError for anything else (what a later version adds behind them is left out)."""
    value = _unpackb(node) if type(node) is bytes else None
    shape = _SHAPES.get(value[0]) if type(value) is list and value and type(value[0]) is int else None
    if value is None or shape is None or len(value) <= len(shape):
        raise DecodeError(f"not a node of a workflow: {node!r:.80}")
    kind, fields = value[0], value[1 : len(shape) + 1]
    # a plain loop over exact types, as they come out of MessagePack: every step of a chain is read here
    for value, types in zip(fields, shape, strict=True):
        if type(value) not in types:
            raise DecodeError(f"a field of a workflow's node is of the wrong type: {fields!r:.80}")
    if kind == LEAF:
        timing: Any = fields[7]
        options: Any = fields[8]
        if timing is not None and (len(timing) != 4 or not all(type(ms) is int and 0 <= ms < LATEST_MS for ms in timing)):
            raise DecodeError(f"the timing of a workflow's node is not four times in ms: {timing!r:.80}")
        if options is not None and not isinstance(options.get("flow") or {}, dict):
            raise DecodeError("the flow of a workflow's node is not a map")
        if not 0 <= fields[3] <= 9:
            raise DecodeError(f"the priority of a workflow's node is {fields[3]}, expected 0 to 9")
    if (kind == LEAF and not fields[2]) or (kind == CHORD and not fields[1]):
        raise DecodeError("a workflow's node names no queue")
    if kind == CHAIN and not fields[0]:
        raise DecodeError("a chain of a workflow is empty")
    if kind == CHORD and _read(fields[3])[0] != LEAF:
        raise DecodeError("the body of a workflow's chord is not one task")
    return kind, fields


def check(flow: Mapping[str, Any]) -> None:
    """Raise DecodeError unless a message's flow has the form described above; nodes are read when they begin."""
    for key in ("chain", "links", "errbacks", "args"):
        if not isinstance(flow.get(key, []), list):
            raise DecodeError(f"the flow's {key} is not a list")
    for key, length in (("join", 3), ("joined", 2)):
        value = flow.get(key)
        if value is not None and not (isinstance(value, list) and len(value) == length and all(type(v) is str for v in value)):
            raise DecodeError(f"the flow's {key} is not {length} texts")
        if value is not None and not value[-1]:
            raise DecodeError(f"the flow's {key} names no queue")
    if not isinstance(flow.get("inbox", ""), str):
        raise DecodeError("the flow's inbox is not text")
    limits = flow.get("limits")
    if limits is not None and not (isinstance(limits, list) and len(limits) == 2 and all(map(_is_limit, limits))):
        raise DecodeError("the flow's limits are not two numbers")
    errback = flow.get("errback")
    if errback is not None and not (isinstance(errback, list) and [type(part) for part in errback] == [str, bytes, bytes]):
        raise DecodeError("the flow's errback is not an id, a record and a message")
    for pair in flow.get("args", ()):
        if not (isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is str and type(pair[1]) is bytes):
            raise DecodeError("an argument in the flow is not a content type and bytes")
    for key in ("chain", "links", "errbacks"):
        if not all(type(node) is bytes for node in flow.get(key, ())):
            raise DecodeError(f"a node among the flow's {key} is not bytes")


def _is_limit(value: Any) -> bool:
    return value is None or type(value) is int or type(value) is float


def ids(node: bytes) -> Iterator[tuple[str, bool]]:
    """Yield every task of a node: its id, and whether the sender may wait for it."""
    kind, fields = _read(node)
    if kind == LEAF:
        yield fields[0], fields[9]
    elif kind == GROUP:
        for member in fields[1]:
            yield from ids(member)
    elif kind == CHORD:
        for member in fields[2]:
            yield from ids(member)
        yield from ids(fields[3])
    else:
        for part in fields[0]:
            yield from ids(part)


def children(flow: Mapping[str, Any] | None) -> list[Any]:
    """Return what a task's success starts, as ``as_tuple`` of their results has it: [[id, parent], members or None] each."""
    if flow is None:
        return []
    rest = flow.get("chain")
    return [_tuple(node) for node in (*flow.get("links", ()), *(rest[-1:] if rest else ()))]


def _tuple(node: bytes) -> list[Any]:
    value = _unpackb(node)
    if type(value) is list and len(value) > 1 and value[0] == LEAF and type(value[1]) is str:
        return [[value[1], None], None]  # the rest of it is read when it begins
    kind, fields = _read(node)
    if kind == CHAIN:
        return _tuple(fields[0][0])
    if kind == GROUP:
        return [[fields[0], None], [_tuple(member) for member in fields[1]]]
    join, _queue, members, body = fields
    return [[_unpackb(body)[1], [[join, None], [_tuple(member) for member in members]]], None]


# --- starting a node ---


class Place(NamedTuple):
    """Where a node stands: what it is given, and what is waiting for its end."""

    now_ms: int
    #: producer that waits, "": nobody
    inbox: str = ""
    #: arguments in front of its own
    args: Sequence[Encoded] = ()
    #: what comes after it, the next one last
    rest: Sequence[bytes] = ()
    #: join, member, queue of the join
    join: Sequence[str] | None = None
    #: join and queue of which it is the body
    joined: Sequence[str] | None = None
    #: the failure it is told of: task id, record, message
    errback: Sequence[Any] | None = None
    group: Sequence[Any] | None = None
    root_id: str | None = None
    parent_id: str | None = None


@dataclass(slots=True)
class _Started:
    publications: list[Publication] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)


def begin(node: bytes, place: Place) -> Effects:
    """Return the messages that start a node, and the joins to be opened for them."""
    started = _Started()
    _begin(node, place, started)
    return Effects(openings=started.openings, publications=started.publications)


def _begin(node: bytes, place: Place, started: _Started) -> None:
    kind, fields = _read(node)
    if kind == LEAF:
        started.publications.append(_publication(fields, place))
    elif kind == CHAIN:
        first, *others = fields[0]
        _begin(first, place._replace(rest=[*place.rest, *reversed(others)]), started)
    elif kind == GROUP:
        id, members = fields
        if place.rest or place.join is not None:
            raise DecodeError("a group with something behind it must be sent as a chord")
        for index, member in enumerate(members):
            _begin(member, place._replace(group=(id, index)), started)
    else:
        join, queue, members, body = fields
        if not members:
            empty = place._replace(args=[("application/x-msgpack", b"\x90")])
            _begin(body, empty, started)
            return
        body_fields = _read(body)[1]
        started.openings.append(
            Opening(join, len(members), _publication(body_fields, place._replace(args=(), errback=None, joined=(join, queue))))
        )
        for index, member in enumerate(members):
            _begin(member, place._replace(rest=(), join=(join, str(index), queue), group=(join, index)), started)


def _publication(fields: Sequence[Any], place: Place) -> Publication:
    id, name, queue, level, content_type, body, immutable, timing, own, waited = fields
    options: dict[str, Any] = dict(own) if own else {}
    flow: dict[str, Any] = dict(options.get("flow") or {})
    if place.args and not immutable:
        flow["args"] = [list(pair) for pair in place.args]
    if place.rest:
        flow["chain"] = list(place.rest)
    if place.group is not None:
        options["group"] = list(place.group)
    if place.join is not None:
        flow["join"] = list(place.join)
    if place.joined is not None:
        flow["joined"] = list(place.joined)
    # an immutable errback is told nothing, as an immutable callback is
    if place.errback is not None and not immutable:
        flow["errback"] = list(place.errback)
    inbox = place.inbox if waited and place.inbox else None
    if place.inbox and inbox is None and (place.rest or "links" in flow or "errbacks" in flow):
        flow["inbox"] = place.inbox
    if flow:
        options["flow"] = flow
    if place.root_id is not None:
        options["root_id"] = place.root_id
    if place.parent_id is not None:
        options["parent_id"] = place.parent_id
    delay_ms, due_ms, expires_after_ms, expires_at_ms = timing or (0, 0, 0, 0)
    now_ms = place.now_ms
    if delay_ms or due_ms:
        options["eta_ms"] = due_ms or now_ms + delay_ms
    expires_ms = expires_at_ms or (now_ms + expires_after_ms if expires_after_ms else None)
    message = _core.encode(id, name, content_type, body, now_ms, expires_ms, 0, inbox, options or None)
    return Publication(queue, message, level, delay_ms, due_ms)


# --- the end of a task ---


def follows(flow: Mapping[str, Any] | None) -> bool:
    """Say whether a task's end has effects."""
    return flow is not None and (
        "join" in flow or "chain" in flow or "links" in flow or "joined" in flow or "errbacks" in flow
    )


def succeeded(d: _core.Delivery, value: Encoded, record: bytes, now_ms: int) -> Effects | None:
    """Return what follows a task that has returned ``value``; ``record`` is its result record. Its flow has passed ``check``."""
    flow = d.flow
    if flow is None:
        return None
    rest = flow.get("chain")
    join = flow.get("join")
    links = flow.get("links")
    joined = flow.get("joined")
    counts = [_count(join, d.id, record, failed=False)] if join and not rest else []
    drops = [Drop(joined[1], joined[0])] if joined else []
    if not (rest or links):  # a plain member of a chord, or its body
        return Effects(counts=counts, drops=drops) if counts or drops else None
    started = _Started()
    place = _after(d, now_ms, (value,))
    if rest:
        _begin(rest[-1], place._replace(rest=rest[:-1], join=join) if join or len(rest) > 1 else place, started)
    for link in links or ():
        _begin(link, place, started)
    return Effects(openings=started.openings, publications=started.publications, counts=counts, drops=drops)


def failed(d: _core.Delivery, record: bytes, now_ms: int, *, errbacks: bool = True) -> Effects | None:
    """Return what follows a task that has ended in any other way; ``record`` is its result record, whether it is stored or not.

    What was to come after it cannot run: those tasks have the same end. A join hears of it; one whose body this is goes with it.
    DecodeError for a flow that ``check`` refuses.
    """
    flow = d.flow
    if flow is None:
        return None
    check(flow)
    started = _Started()
    place = _after(d, now_ms)
    results: list[StoredResult] = []
    for node in reversed(flow.get("chain", ())):
        with suppress(DecodeError):  # damaged: who it was for cannot be told
            results.extend([StoredResult(id, record, place.inbox if waited else "") for id, waited in ids(node)])
    join = flow.get("join")
    counts = [_count(join, d.id, record, failed=True)] if join else []
    if errbacks:
        message = _core.remark(d.message, 0)
        for errback in flow.get("errbacks", ()):
            with suppress(DecodeError):
                _begin(errback, place._replace(errback=(d.id, record, message)), started)
    joined = flow.get("joined")
    drops = [Drop(joined[1], joined[0])] if joined else []
    return Effects(
        openings=started.openings, publications=started.publications, counts=counts, drops=drops, results=results
    )


def _after(d: _core.Delivery, now_ms: int, args: Sequence[Encoded] = ()) -> Place:
    id = d.id
    root_id = (d.options or {}).get("root_id") or id
    inbox = d.inbox or (d.flow or {}).get("inbox") or ""
    return Place(now_ms, inbox, args, root_id=root_id, parent_id=id)


def _count(join: Sequence[str], task_id: str, record: bytes, *, failed: bool) -> Count:
    name, member, queue = join
    return Count(queue, name, member, task_id, record, failed)
