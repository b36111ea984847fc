"""Carry out the verdicts of a batch of deliveries, with their results and effects, inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from fastq.ending import lasting
from fastq.records import DEAD, DONE, RETRY, RETURN, Settlement
from fastq.transports.sqlite import dead, effects, pausing, places
from fastq.transports.sqlite.results import Results
from fastq.transports.sqlite.schema import level_of

__all__ = ["Told", "settle"]

OF_PROCESS = "leased WHERE key IN (SELECT value FROM json_each(?)) AND process = ?"
HELD = f"SELECT key FROM {OF_PROCESS}"
DROP = f"DELETE FROM {OF_PROCESS}"

#: inbox, id, record
Told = tuple[str, str, bytes]


def settle(
    sql: sqlite3.Connection,
    process: str,
    settlements: Sequence[Settlement],
    now_ms: int,
    number: Callable[[str], int],
    *,
    results: Results | None,
    dead_letter_max: int,
    dead_letter_s: int,
) -> tuple[list[str], list[Told], set[int]]:
    """Return the tags skipped, the results stored, and the queues that have new messages.

    ``results``: None if they are stored elsewhere; ``number`` gives a queue's.
    """
    if not settlements:
        return [], [], set()
    tags = [settlement.tag for settlement in settlements]
    mine: Sequence[Settlement] = settlements
    touched: set[int] = set()
    if all([settlement.verdict == DONE for settlement in settlements]):
        held = sql.execute(f"{DROP} RETURNING key", (_keys(tags), process)).fetchall()
        if len(held) != len(tags):
            mine = _held(settlements, held)
    else:
        # What moves is copied out of the lease first, by SQLite itself.
        held = sql.execute(HELD, (_keys(tags), process)).fetchall()
        mine = _held(settlements, held)
        touched = _move(sql, mine, now_ms, dead_letter_max)
        sql.execute(DROP, (_keys(tags), process))
    caused = [
        settlement.effects if settlement.verdict != DEAD else lasting(settlement.effects, dead_letter_s)
        for settlement in mine
        if settlement.effects is not None
    ]
    if caused:
        touched.update(effects.carry_out(sql, caused, now_ms, number))
    stored: list[Told] = []
    if results is not None:
        stored = [(s.inbox, s.id, s.result) for s in mine if s.result is not None]
        if caused:
            stored += [(result.inbox, result.id, result.record) for some in caused for result in some.results]
        if stored:
            results.write(sql, [(id, record) for _, id, record in stored], now_ms)
    if mine is settlements:
        return [], stored, touched
    applied = set(map(id, mine))
    return [s.tag for s in settlements if id(s) not in applied], stored, touched


def _move(sql: sqlite3.Connection, settlements: Sequence[Settlement], now_ms: int, dead_letter_max: int) -> set[int]:
    """Carry out every verdict but DONE; return the queues that have new messages."""
    touched: set[int] = set()
    back: list[int] = []
    parked: list[int] = []
    # an empty table nearly always; a task name is looked for here so that what is not paused any more is not parked for ever
    paused = pausing.read(sql).tasks
    retried: dict[int, list[tuple[int, bytes]]] = {}
    delayed: list[tuple[int, int, int, bytes, str | None]] = []
    letters: list[tuple[int, int, int, str, bytes | None, bytes]] = []
    leased_letters: list[tuple[int, int, int, str, bytes | None, int]] = []
    graves: set[int] = set()
    for settlement in settlements:
        verdict = settlement.verdict
        if verdict == DONE:
            continue
        key, message = int(settlement.tag), settlement.message
        queue = places.queue_of(key)
        if verdict == RETURN:
            (parked if settlement.reason in paused else back).append(key)
            touched.add(queue)
        elif verdict == RETRY:
            if message is None:
                raise ValueError(f"the retry of {settlement.id} has no message")
            if settlement.delay_ms > 0:
                turn = settlement.detail.decode() if settlement.detail else None
                delayed.append((queue, now_ms + settlement.delay_ms, settlement.level, message, turn))
            else:
                retried.setdefault(queue, []).append((settlement.level, message))
            touched.add(queue)
        elif verdict == DEAD:
            letter = (queue, level_of(key), now_ms, settlement.reason, settlement.detail)
            if message is None:
                leased_letters.append((*letter, key))
            else:
                letters.append((*letter, message))
            graves.add(queue)
        else:
            raise ValueError(f"{verdict} is no verdict")
    places.give_back(sql, back, {})
    if parked:
        pausing.park(sql, parked, now_ms)
    for queue, messages in retried.items():
        places.append(sql, queue, messages)
    if delayed:
        sql.executemany("INSERT INTO delayed (queue, due_ms, level, message, turn) VALUES (?, ?, ?, ?, ?)", delayed)
    if graves:
        dead.bury(sql, letters)
        dead.bury_leased(sql, leased_letters)
        dead.cap(sql, graves, dead_letter_max, now_ms)
    return touched


def _keys(tags: Sequence[str]) -> str:
    """Return the tags as a JSON array of numbers; what is no tag of this store is left out, so it is skipped."""
    joined = ",".join(tags)
    if not joined.replace(",", "").isdecimal() or not joined.isascii():
        joined = ",".join(tag for tag in tags if tag.isascii() and tag.isdecimal())
    return f"[{joined}]"


def _held(settlements: Sequence[Settlement], keys: Sequence[tuple[int]]) -> list[Settlement]:
    """Return the settlements whose leases are held, each lease once."""
    left = {str(key) for (key,) in keys}
    mine = []
    for settlement in settlements:
        if settlement.tag in left:
            left.remove(settlement.tag)
            mine.append(settlement)
    return mine
