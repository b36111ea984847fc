"""Who is idle, who keeps time, and whom to wake. All of it runs inside the caller's transaction.

A row of ``idle`` is a process waiting on a queue. ``due_ms`` is when it will wake by itself: set for one process per queue, the
timekeeper, 0 for the others. ``woken_ms`` is set when a wake has been decided on, and the row stays until the process fetches:
a process on its way is neither woken twice nor forgotten (killed between commit and datagram, its waker leaves a row that
``renew`` finds). Fair shares count it, so that the first of two woken processes does not take the second one's work.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from fastq.transports.base import PARKED_MS
from fastq.transports.sqlite.schema import bounds

__all__ = ["choose", "enter", "leave", "next_due_ms", "others", "ready_up_to"]

#: queue, process, due_ms, woken_ms, no_last_chance
Idle = tuple[int, str, int, int, int]


def ready_up_to(sql: sqlite3.Connection, queue: int, limit: int) -> int:
    """Count ready messages, at most up to a limit (a full count reads the whole queue)."""
    (n,) = sql.execute(
        "SELECT count(*) FROM (SELECT 1 FROM ready WHERE key BETWEEN ? AND ? LIMIT ?)", (*bounds(queue), limit)
    ).fetchone()
    return int(n)


def next_due_ms(sql: sqlite3.Connection, queue: int) -> int:
    """Return when the earliest delayed message is due, 0 if there is none; what is parked never is."""
    (due_ms,) = sql.execute("SELECT min(due_ms) FROM delayed WHERE queue = ? AND due_ms < ?", (queue, PARKED_MS)).fetchone()
    return due_ms or 0


def leave(sql: sqlite3.Connection, process: str) -> None:
    """Take a process off all its queues: it is looking."""
    sql.execute("DELETE FROM idle WHERE process = ?", (process,))


def others(sql: sqlite3.Connection, queue: int, process: str) -> int:
    """Count the other processes that are idle on a queue or have been woken and not come yet."""
    (n,) = sql.execute("SELECT count(*) FROM idle WHERE queue = ? AND process <> ?", (queue, process)).fetchone()
    return int(n)


def enter(sql: sqlite3.Connection, process: str, queues: Iterable[int], *, no_last_chance: bool) -> int:
    """Register a process as idle; return when it has to wake by itself (0: others keep the time).

    ``no_last_chance``: it is running a delivery on its last chance and may take no second one.
    """
    earliest_ms = 0
    for queue in queues:
        due_ms = next_due_ms(sql, queue)
        if due_ms and _covered(sql, queue, due_ms):
            due_ms = 0
        sql.execute(
            "INSERT OR REPLACE INTO idle (process, queue, due_ms, no_last_chance) VALUES (?, ?, ?, ?)",
            (process, queue, due_ms, no_last_chance),
        )
        if due_ms and (not earliest_ms or due_ms < earliest_ms):
            earliest_ms = due_ms
    return earliest_ms


def _covered(sql: sqlite3.Connection, queue: int, due_ms: int) -> bool:
    row = sql.execute(
        "SELECT 1 FROM idle WHERE queue = ? AND woken_ms = 0 AND due_ms BETWEEN 1 AND ? LIMIT 1", (queue, due_ms)
    ).fetchone()
    return row is not None


def choose(
    sql: sqlite3.Connection, queues: Iterable[int], now_ms: int, *, me: str = "", again: bool = False, any_message: bool = False
) -> list[str]:
    """Pass the baton: mark as woken, and return, as many idle processes as there is work for, the timekeeper last.

    ``me`` is never chosen. ``again``: those woken before and not come are candidates too, after the others. ``any_message``: only
    those that may take any message are woken for work. Two actors, each running a delivery on its last chance, while only such
    are left: A finds nothing it may take and wakes B, B the same and wakes A, for ever.
    """
    rows: list[Idle] = sql.execute("SELECT queue, process, due_ms, woken_ms, no_last_chance FROM idle").fetchall()
    if not rows:
        return []
    chosen: list[str] = []
    for queue in queues:
        here = [row for row in rows if row[0] == queue and row[1] != me]
        waiting = [row for row in here if (again or not row[3]) and row[1] not in chosen]
        if not waiting:
            continue
        waiting.sort(key=_latest_first)
        coming = len(here) - len(waiting)
        able = [row[1] for row in waiting if not (any_message and row[4])]
        need = min(ready_up_to(sql, queue, len(here)) - coming, len(able))
        if need > 0:
            chosen += able[:need]
        elif not coming:
            # Nobody is on the way, so somebody who stays has to know the next due time.
            due_ms = next_due_ms(sql, queue)
            if due_ms and not _covered(sql, queue, due_ms):
                chosen.append(waiting[-1][1])
    if chosen:
        sql.executemany("UPDATE idle SET woken_ms = ? WHERE process = ?", [(now_ms, process) for process in chosen])
    return chosen


def _latest_first(row: Idle) -> tuple[int, bool, int]:
    """Order candidates: never woken first, then those without a wake-up time of their own, then the latest."""
    _, _, due_ms, woken_ms, _ = row
    return woken_ms, due_ms > 0, -due_ms
