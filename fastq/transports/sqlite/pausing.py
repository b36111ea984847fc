"""What is paused, and the messages parked for it. All of it runs inside the caller's transaction.

A parked message is a delayed one with a due time from ``PARKED_MS`` on, which never comes: its place among the parked of its queue.
The row with the empty kind holds the number of the last change in place of a time; it goes with the last of the others. While what
is parked is put back there is a row per resuming task name, and one per held queue with the place that its next step goes on below.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable, Sequence

from fastq import _core
from fastq.exceptions import EnvelopeError
from fastq.records import Paused
from fastq.transports.base import PARKED_MS
from fastq.transports.sqlite.schema import QUEUE_SHIFT, key_base, level_of

__all__ = ["ANYTHING_RESUMING", "change", "count", "holders", "park", "read", "unpark"]

#: the kinds of names
QUEUE, TASK, RESUMING, HELD = "q", "t", "r", "h"
ANYTHING_RESUMING = f"SELECT 1 FROM paused WHERE kind IN ('{RESUMING}', '{HELD}') LIMIT 1"
#: parked messages looked at in one transaction
STEP = 1000


def read(sql: sqlite3.Connection) -> Paused:
    """Return what is paused."""
    rows = sql.execute("SELECT kind, name, since_ms FROM paused").fetchall()
    if not rows:
        return NOTHING
    named = {kind: {name: since for own, name, since in rows if own == kind} for kind in (QUEUE, TASK, RESUMING, HELD)}
    number = next((number for kind, _, number in rows if not kind), 0)
    return Paused(number, named[QUEUE], named[TASK], named[RESUMING], frozenset(named[HELD]))


NOTHING = Paused()


def change(sql: sqlite3.Connection, pausing: bool, queues: Sequence[str], tasks: Sequence[str], now_us: int) -> Paused:
    """Pause or resume; a change gets a number above the last one."""
    names = [*[(QUEUE, name) for name in queues], *[(TASK, name) for name in tasks]]
    if pausing:
        rows = [(kind, name, now_us // 1000) for kind, name in names]
        sql.executemany("INSERT OR IGNORE INTO paused (kind, name, since_ms) VALUES (?, ?, ?)", rows)
        sql.executemany("DELETE FROM paused WHERE kind = ? AND name = ?", [(RESUMING, name) for name in tasks])
    else:
        sql.executemany("DELETE FROM paused WHERE kind = ? AND name = ?", names)
        if tasks:
            _hold(sql, tasks, now_us // 1000)
    if sql.execute("SELECT 1 FROM paused WHERE kind <> '' LIMIT 1").fetchone():
        sql.execute(
            "INSERT INTO paused (kind, name, since_ms) VALUES ('', '', ?)"
            " ON CONFLICT (kind, name) DO UPDATE SET since_ms = max(excluded.since_ms, since_ms + 1)",
            (now_us,),
        )
    else:
        sql.execute("DELETE FROM paused")
    return read(sql)


def _hold(sql: sqlite3.Connection, tasks: Sequence[str], now_ms: int) -> None:
    """Let tasks be resuming, if anything is parked, and hold the queues where something is; from the newest on, for all of them."""
    found = sql.execute(
        "SELECT no, name FROM queues WHERE EXISTS (SELECT 1 FROM delayed WHERE queue = queues.no AND due_ms >= ?)", (PARKED_MS,)
    ).fetchall()
    if found:
        # a process that waits for a held queue would be woken by what comes there, for nothing
        sql.executemany("DELETE FROM idle WHERE queue = ?", [(no,) for no, _ in found])
        rows = [*[(HELD, name, ABOVE) for _, name in found], *[(RESUMING, name, now_ms) for name in tasks]]
        sql.executemany("INSERT OR REPLACE INTO paused (kind, name, since_ms) VALUES (?, ?, ?)", rows)


def holders(sql: sqlite3.Connection, queues: Iterable[int]) -> list[str]:
    """Return the processes with a live lease on these queues."""
    rows = sql.execute(
        "SELECT DISTINCT process FROM leases WHERE gone_ms = 0 AND beat > 0 AND queue IN (SELECT value FROM json_each(?))",
        (str(list(queues)),),
    )
    return [process for (process,) in rows]


def park(sql: sqlite3.Connection, keys: Iterable[int], now_ms: int) -> None:
    """Copy leased messages to the parked ones of their queue, in order; the caller deletes the leases."""
    for key in sorted(keys):
        queue = key >> QUEUE_SHIFT
        (newest,) = sql.execute("SELECT max(due_ms) FROM delayed WHERE queue = ?", (queue,)).fetchone()
        place = max(PARKED_MS + now_ms, (newest or 0) + 1)
        sql.execute(
            "INSERT INTO delayed (queue, due_ms, level, message) SELECT ?, ?, ?, message FROM leased WHERE key = ?",
            (queue, place, level_of(key), key),
        )


def unpark(sql: sqlite3.Connection) -> tuple[bool, list[str]]:
    """Take one step in a held queue; return whether there is more to do, and whom to wake."""
    paused = read(sql)
    woken: list[str] = []
    held = sorted(paused.held)
    if held:
        name = held[0]
        (no, below) = sql.execute(
            "SELECT no, since_ms FROM paused LEFT JOIN queues USING (name) WHERE kind = ? AND name = ?", (HELD, name)
        ).fetchone()
        below = _step(sql, no, paused.resuming, below) if no is not None and paused.resuming else 0
        if below:
            sql.execute("UPDATE paused SET since_ms = ? WHERE kind = ? AND name = ?", (below, HELD, name))
            return True, []
        sql.execute("DELETE FROM paused WHERE kind = ? AND name = ?", (HELD, name))
        if name not in paused.queues and no is not None:
            woken = holders(sql, [no])
    if len(held) > 1:
        return True, woken
    sql.execute("DELETE FROM paused WHERE kind = ?", (RESUMING,))
    if not paused.queues and not paused.tasks:
        sql.execute("DELETE FROM paused")
    return False, woken


def _step(sql: sqlite3.Connection, queue: int, tasks: Container[str], below: int) -> int:
    """Put back one step of what is parked, the newest first; return where the next step begins (0: no more)."""
    rows = _parked(sql, queue, below)
    mine = [(id, level) for id, _, level, message in rows if _name(message) in tasks]
    if mine:
        cursor = sql.execute("UPDATE queues SET head = head - ? WHERE no = ? RETURNING head", (len(mine), queue))
        (head,) = cursor.fetchall()[0]
        # the oldest, which stands last, gets the first place
        moves = [(key_base(queue, level) | head + at, id) for at, (id, level) in enumerate(reversed(mine))]
        sql.executemany("INSERT INTO ready (key, message) SELECT ?, message FROM delayed WHERE id = ?", moves)
        sql.executemany("DELETE FROM delayed WHERE id = ?", [(id,) for id, _ in mine])
    return int(rows[-1][1]) if len(rows) == STEP else 0


def count(sql: sqlite3.Connection, queue: int) -> dict[str, int]:
    """Count what is parked, by task name."""
    counts: dict[str, int] = {}
    below = ABOVE
    while rows := _parked(sql, queue, below):
        for *_, message in rows:
            name = _name(message)
            counts[name] = counts.get(name, 0) + 1
        below = rows[-1][1]
    return counts


#: beyond the last place
ABOVE = 1 << 62


def _parked(sql: sqlite3.Connection, queue: int, below: int) -> list[tuple[int, int, int, bytes]]:
    return sql.execute(
        "SELECT id, due_ms, level, message FROM delayed"
        " WHERE queue = ? AND due_ms >= ? AND due_ms < ? ORDER BY due_ms DESC LIMIT ?",
        (queue, PARKED_MS, below, STEP),
    ).fetchall()


def _name(message: bytes) -> str:
    try:
        return _core.peek(message).name
    except EnvelopeError:
        return ""  # no task has this name
