"""Turns of rate limits: taken from token buckets, and recalled when a limit changes. All inside the caller's transaction.

A bucket is one theoretical arrival time; a row whose time has come says no more than none at all. A delayed message that waits for
a turn has the name of its bucket in ``turn``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from fastq import _core
from fastq.transports.base import PARKED_MS
from fastq.transports.sqlite.schema import key_base

__all__ = ["expire", "recall", "reserve"]

#: turns recalled in one transaction
STEP = 1_000


def reserve(sql: sqlite3.Connection, bucket: str, n: int, period_us: int, burst: int, now_us: int) -> list[int]:
    """Take the next n turns; return for each in how many ms it is, rounded up: a turn is never early."""
    row = sql.execute("SELECT arrival_us FROM buckets WHERE name = ?", (bucket,)).fetchone()
    arrival_us = max(now_us, row[0] if row is not None else 0)
    sql.execute("INSERT OR REPLACE INTO buckets (name, arrival_us) VALUES (?, ?)", (bucket, arrival_us + n * period_us))
    ahead_us = arrival_us - now_us - (max(burst, 1) - 1) * period_us
    return [-(min(-ahead_us - i * period_us, 0) // 1000) for i in range(n)]


def expire(sql: sqlite3.Connection, now_us: int, most: int) -> None:
    """Drop buckets that are as good as new."""
    sql.execute("DELETE FROM buckets WHERE name IN (SELECT name FROM buckets WHERE arrival_us <= ? LIMIT ?)", (now_us, most))


def recall(sql: sqlite3.Connection, queue: int, limit: str, kept: str, left: Collection[str], place: str) -> tuple[int, str]:
    """Recall one step of turns, the latest first; return how many, and the due time to go on from ("": no more)."""
    rows = sql.execute(
        # said, as the planner takes the index of all that is delayed for the sake of the order
        "SELECT id, level, message, turn, due_ms FROM delayed INDEXED BY delayed_turn"
        # a "}" is what follows on a "|"
        " WHERE queue = ? AND turn IS NOT NULL AND due_ms <= ? AND turn <> ? AND (turn = ? OR (turn >= ? AND turn < ?))"
        " ORDER BY due_ms DESC, id DESC LIMIT ?",
        (queue, int(place or PARKED_MS), kept, limit, f"{limit}|", f"{limit}}}", STEP),
    ).fetchall()
    if rows:
        ids = [(id,) for id, *_ in rows]
        cursor = sql.execute("UPDATE queues SET head = head - ? WHERE no = ? RETURNING head", (len(rows), queue))
        (head,) = cursor.fetchall()[0]
        # the earliest, which stands last, gets the first place
        moves = [
            (key_base(queue, level) | head + at, _unpaid(message)) for at, (_, level, message, *_) in enumerate(reversed(rows))
        ]
        sql.executemany("INSERT INTO ready (key, message) VALUES (?, ?)", moves)
        sql.executemany("DELETE FROM delayed WHERE id = ?", ids)
    names = {*left, *(turn for *_, turn, _ in rows)} - {kept}
    sql.executemany("DELETE FROM buckets WHERE name = ?", [(name,) for name in names])
    return len(rows), str(rows[-1][-1]) if len(rows) == STEP else ""


def _unpaid(message: bytes) -> bytes:
    return _core.remark(message, message[1] & 0x7F) if message[:1] == b"\xc1" else message
