"""What is sent, and what must have come of each: one ``Kind`` per sort of unit, the smallest thing that one call sends.

A unit has a number; its tasks have *tokens*, ``unit << 8 | index``, which travel as arguments and come back in the records of runs.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastq import chain, chord, group
from tests.chaos.soak import workload as w

__all__ = ["INDEX_BITS", "KINDS", "LARGE", "Kind", "token_of"]

INDEX_BITS = 8
LARGE = 100_000
#: seconds until a task is due that will be revoked; it must be revoked well before
REVOKED_AFTER_S = 6.0


@dataclass(frozen=True)
class Kind:
    name: str
    #: of a unit
    tasks: int
    #: send units from this number on; return the ids of each, that of its end first
    send: Callable[[int, int], list[list[str]]]
    #: the state in which it ends, or several: the first task of the unit alone; the others of a workflow succeed
    state: str = "SUCCESS"
    #: what its end returns, by unit
    value: Callable[[int], int] | None = None
    #: index -> runs that it takes (retries); others must not run
    runs: dict[int, int] = field(default_factory=lambda: {0: 1})
    #: reason of a dead letter -> how many tasks of the unit end as such
    dead: dict[str, int] = field(default_factory=dict)
    stored: bool = True
    #: all units of a call are one message to the broker
    batched: bool = False


def token_of(unit: int, index: int = 0) -> int:
    return unit << INDEX_BITS | index


def _single(unit: int) -> int:
    return w.value_of(token_of(unit))


def _many(task: Any, **options: Any) -> Callable[[int, int], list[list[str]]]:
    def send(unit: int, n: int) -> list[list[str]]:
        return [[result.id] for result in task.delay_many([(token_of(unit + i),) for i in range(n)], **options)]

    return send


def _each(send_one: Callable[[int], list[str]]) -> Callable[[int, int], list[list[str]]]:
    return lambda unit, n: [send_one(unit + i) for i in range(n)]


def _ids(result: Any) -> list[str]:
    """Return the ids of a workflow's tasks, that of its end first."""
    if hasattr(result, "children") and hasattr(result, "results"):  # a group
        found = [id for child in result.results for id in _ids(child)]
        return found + (_ids(result.parent) if result.parent is not None else [])
    return [result.id, *(_ids(result.parent) if result.parent is not None else [])]


def _later(unit: int) -> list[str]:
    if unit & 1:
        return [w.noop.apply_async((token_of(unit),), countdown=0.2 + unit % 7 * 0.4).id]
    eta = w.app.now() + datetime.timedelta(seconds=0.2 + unit % 7 * 0.4)
    return [w.noop.apply_async((token_of(unit),), eta=eta).id]


def _large(unit: int) -> list[str]:
    return [w.large.delay(token_of(unit), bytes([unit & 255]) * LARGE).id]


def _chain(unit: int) -> list[str]:
    first, *rest = (token_of(unit, i) for i in range(4))
    return _ids(chain(w.member.s(first), *(w.step.s(token) for token in rest)).delay())


def _group(unit: int) -> list[str]:
    return _ids(group([w.member.s(token_of(unit, i)) for i in range(8)]).delay())


def _chord(unit: int) -> list[str]:
    return _ids(chord([w.member.s(token_of(unit, i)) for i in range(6)], w.body.s(token_of(unit, 6))).delay())


def _nested(unit: int) -> list[str]:
    """A chain of a task, a chord with a chain and a group among its members, and a task."""
    t = [token_of(unit, i) for i in range(9)]
    header = [
        w.step.s(t[1]),
        chain(w.step.s(t[2]), w.step.s(t[3])),
        chord([w.step.s(t[4]), w.step.s(t[5])], w.body.s(t[6])),
    ]
    return _ids(chain(w.member.s(t[0]), chord(header, w.body.s(t[7])), w.step.s(t[8])).delay())


def _nested_value(unit: int) -> int:
    v = [w.value_of(token_of(unit, i)) for i in range(9)]
    members = (v[0] + v[1]) + (v[0] + v[2] + v[3]) + (v[0] + v[4] + v[0] + v[5])
    return members + v[8]


def _broken(unit: int) -> list[str]:
    """A chord of which one member fails: its body ends with ChordError, never runs, and is no dead letter; the member is one."""
    header = [w.member.s(token_of(unit, 0)), w.member.s(token_of(unit, 1)), w.failing.s(token_of(unit, 2))]
    return _ids(chord(header, w.body.s(token_of(unit, 3))).delay())


def _sum(n: int) -> Callable[[int], int]:
    return lambda unit: sum(w.value_of(token_of(unit, i)) for i in range(n))


def _once(indexes: Sequence[int]) -> dict[int, int]:
    return dict.fromkeys(indexes, 1)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("noop", 1, _many(w.noop), value=_single, batched=True),
        Kind("urgent", 1, _many(w.urgent), value=_single, batched=True),
        Kind("ignored", 1, _many(w.ignored), stored=False, batched=True),
        Kind("nap", 1, _many(w.nap), value=_single, batched=True),
        Kind("anap", 1, _many(w.anap), value=_single, batched=True),
        Kind("crunch", 1, _many(w.crunch), value=_single, batched=True),
        Kind("later", 1, _each(_later), value=_single),
        Kind("large", 1, _each(_large), value=lambda unit: _single(unit) + LARGE),
        Kind("limited", 1, _many(w.limited), value=_single, batched=True),
        Kind("again", 1, _many(w.again), value=_single, runs={0: 3}, batched=True),
        Kind("flaky", 1, _many(w.flaky), value=_single, runs={0: 2}, batched=True),
        Kind("chain", 4, _each(_chain), value=_sum(4), runs=_once(range(4))),
        Kind("group", 8, _each(_group), runs=_once(range(8))),
        Kind("chord", 7, _each(_chord), value=_sum(6), runs=_once(range(7))),
        Kind("nested", 9, _each(_nested), value=_nested_value, runs=_once(range(9))),
        Kind("broken", 4, _each(_broken), state="FAILURE", runs=_once(range(3)), dead={"failed": 1}),
        Kind("failing", 1, _many(w.failing), state="FAILURE", dead={"failed": 1}, batched=True),
        Kind("revoked", 1, _many(w.never, countdown=REVOKED_AFTER_S), state="REVOKED", runs={}, batched=True),
        Kind("aside", 1, _many(w.noop, queue=w.SIDE), value=_single, batched=True),
        Kind("doomed", 1, _many(w.doomed), state="REVOKED", runs={}, batched=True),
        Kind("expired", 1, _many(w.never, countdown=1.5, expires=0.5), state="REVOKED", runs={}, batched=True),
        Kind("poison", 1, _many(w.poison), state="FAILURE", dead={"worker-lost": 1}, batched=True),
    )
}
