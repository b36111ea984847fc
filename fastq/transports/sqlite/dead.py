"""Dead letters: kept per queue up to a number, the oldest go first. What goes takes the join along that was kept for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from fastq import _core
from fastq.ending import JOINED, kept_join
from fastq.exceptions import DecodeError
from fastq.records import DeadLetter
from fastq.transports.sqlite import joins
from fastq.transports.sqlite.connection import Connection

__all__ = ["bury", "bury_leased", "cap", "delete", "expire", "letters", "take"]

#: of a letter that goes: why it was one, and its message if that may be the body of a join
GONE = f"reason, CASE WHEN instr(message, x'{JOINED.hex()}') THEN message END"


def bury(sql: sqlite3.Connection, letters: Sequence[tuple[int, int, int, str, bytes | None, bytes]]) -> None:
    """Keep (queue, level, time, reason, detail, message) rows."""
    sql.executemany("INSERT INTO dead (queue, level, dead_ms, reason, detail, message) VALUES (?, ?, ?, ?, ?, ?)", letters)


def bury_leased(sql: sqlite3.Connection, letters: Sequence[tuple[int, int, int, str, bytes | None, int]]) -> None:
    """Keep the messages of leases: the last column is the lease's key."""
    sql.executemany(
        "INSERT INTO dead (queue, level, dead_ms, reason, detail, message) SELECT ?, ?, ?, ?, ?, message FROM leased WHERE key = ?",
        letters,
    )


def cap(sql: sqlite3.Connection, queues: Iterable[int], most: int, now_ms: int) -> None:
    """Drop the oldest letters of each queue beyond a number."""
    for queue in queues:
        _end(
            sql,
            sql.execute(
                "DELETE FROM dead WHERE queue = ?"
                " AND id <= (SELECT id FROM dead WHERE queue = ? ORDER BY id DESC LIMIT 1 OFFSET ?)"
                f" RETURNING {GONE}",
                (queue, queue, max(most, 0)),
            ).fetchall(),
            now_ms,
        )


def expire(sql: sqlite3.Connection, oldest_ms: int, most: int, now_ms: int) -> None:
    """Drop letters that died before a time, a bounded number: they lie in the order in which they came, so only the oldest are
    looked at."""
    _end(
        sql,
        sql.execute(
            "DELETE FROM dead WHERE id IN (SELECT id FROM (SELECT id, dead_ms FROM dead ORDER BY id LIMIT ?) WHERE dead_ms < ?)"
            f" RETURNING {GONE}",
            (most, oldest_ms),
        ).fetchall(),
        now_ms,
    )


def delete(sql: sqlite3.Connection, queue: int, keys: Iterable[str], now_ms: int) -> int:
    """Drop letters; return how many there were."""
    gone = take(sql, queue, keys, GONE)
    _end(sql, gone, now_ms)
    return len(gone)


def take(sql: sqlite3.Connection, queue: int, keys: Iterable[str], columns: str) -> list[Any]:
    """Delete letters and return some columns of those that were there, in the order of the keys."""
    taken: list[Any] = []
    for key in keys:
        if key.isascii() and key.isdecimal() and len(key) < 19:
            taken += sql.execute(f"DELETE FROM dead WHERE queue = ? AND id = ? RETURNING {columns}", (queue, int(key))).fetchall()
    return taken


def _end(sql: sqlite3.Connection, gone: Iterable[tuple[str, bytes | None]], now_ms: int) -> None:
    drops = [drop for reason, message in gone if message is not None and (drop := kept_join(reason, message)) is not None]
    joins.drop(sql, drops, now_ms)


def letters(database: Connection, name: str, queue: int, limit: int, offset: int, before: int | None) -> list[DeadLetter]:
    """Read letters of a queue, newest first; ``before``: those with a lower id."""
    rows = database.read(
        "SELECT id, message, reason, dead_ms, detail FROM dead WHERE queue = ? AND id < ? ORDER BY id DESC LIMIT ? OFFSET ?",
        (queue, (1 << 63) - 1 if before is None else before, max(limit, 0), offset),
    )
    return [DeadLetter(str(id), name, message, reason, ms, _detail(detail), id) for id, message, reason, ms, detail in rows]


def _detail(packed: bytes | None) -> dict[str, object]:
    if packed is None:
        return {}
    try:
        detail = _core.unpackb(packed)
    except DecodeError:
        return {}
    return detail if isinstance(detail, dict) else {}
