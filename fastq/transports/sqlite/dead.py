"""Dead letters: kept per queue up to a number, the oldest go first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

__all__ = ["bury", "bury_leased", "cap"]


def bury(sql: sqlite3.Connection, letters: Sequence[tuple[int, int, int, str, bytes | None, bytes]]) -> None:
    """Keep (queue, level, time, reason, detail, message) rows."""
    sql.executemany("INSERT INTO dead (queue, level, dead_ms, reason, detail, message) VALUES (?, ?, ?, ?, ?, ?)", letters)


def bury_leased(sql: sqlite3.Connection, letters: Sequence[tuple[int, int, int, str, bytes | None, int]]) -> None:
    """Keep the messages of leases: the last column is the lease's key."""
    sql.executemany(
        "INSERT INTO dead (queue, level, dead_ms, reason, detail, message) SELECT ?, ?, ?, ?, ?, message FROM leased WHERE key = ?",
        letters,
    )


def cap(sql: sqlite3.Connection, queues: Iterable[int], most: int) -> None:
    """Drop the oldest letters of each queue beyond a number."""
    for queue in queues:
        sql.execute(
            "DELETE FROM dead WHERE queue = ? AND id <= (SELECT id FROM dead WHERE queue = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (queue, queue, max(most, 0)),
        )
