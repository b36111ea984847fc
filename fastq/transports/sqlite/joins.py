"""Joins: how many members of a chord are still to come, their records, and the message that follows. All of it runs inside the
caller's transaction, except ``load``.

A row of ``joins`` is open while it has a ``body``; publishing the body empties it, and from then on nothing changes the join but
its end. A row of ``members`` is a member that has been counted. Its key is what makes a count idempotent: the member's place,
or, for one that was added later, the place behind all others and its task id.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from fastq.records import Count, Drop, Growth, Joined, Opening, Publication
from fastq.transports.sqlite.connection import Connection

__all__ = ["OPENING_MS", "count", "discard", "drop", "expire", "grow", "keep", "load", "open_all", "seal"]

#: ms; a join whose members come in several transactions goes after this time, unless the last of them was made
OPENING_MS = 600_000
#: neither expired nor to be swept
ALIVE = "(expires_ms IS NULL OR expires_ms > ?)"
OPEN = (
    "INSERT INTO joins (queue, id, size, missing, level, delay_ms, due_ms, body, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (queue, id) DO NOTHING"
)
#: a member's second count meets its first
ENTER = "INSERT INTO members (joined, place, id, record, failed) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"


def open_all(sql: sqlite3.Connection, openings: Sequence[Opening], now_ms: int, *, sealed: bool = True) -> None:
    """Open joins; one that is there stays as it is. Not ``sealed``: it expires, unless ``seal`` is called in time."""
    expires_ms = None if sealed else now_ms + OPENING_MS
    rows = [
        (o.body.queue, o.id, o.size, o.size, o.body.level, o.body.delay_ms, o.body.due_ms, o.body.message, expires_ms)
        for o in openings
    ]
    if sql.executemany(OPEN, rows).rowcount == len(rows):
        return
    # Some are there, or were: an expired one that no sweep has found yet makes room.
    for opening in openings:
        row = sql.execute(
            f"SELECT no FROM joins WHERE queue = ? AND id = ? AND NOT {ALIVE}", (opening.body.queue, opening.id, now_ms)
        ).fetchone()
        if row is not None:
            _delete(sql, row[0])
    sql.executemany(OPEN, rows)


def seal(sql: sqlite3.Connection, openings: Iterable[Opening]) -> None:
    """Keep joins for as long as they are needed: all their members are there."""
    # Two actors: a worker whose member failed publishes the body, which runs and has its join kept for a time; the producer then
    # makes its last transaction. The join's end stands.
    sql.executemany(
        "UPDATE joins SET expires_ms = NULL WHERE queue = ? AND id = ? AND ended = 0", [(o.body.queue, o.id) for o in openings]
    )


def grow(sql: sqlite3.Connection, growths: Iterable[Growth], now_ms: int) -> None:
    """Let open joins wait for more members."""
    sql.executemany(
        f"UPDATE joins SET added = added + ?, missing = missing + ? WHERE queue = ? AND id = ? AND body IS NOT NULL AND {ALIVE}",
        [(growth.n, growth.n, growth.queue, growth.join, now_ms) for growth in growths],
    )


def count(sql: sqlite3.Connection, counts: Iterable[Count], now_ms: int) -> list[Publication]:
    """Count members, and return the bodies that are to be published now."""
    by_join: dict[tuple[str, str], list[Count]] = {}
    for one in counts:
        by_join.setdefault((one.queue, one.join), []).append(one)
    bodies: list[Publication] = []
    for (queue, join), members in by_join.items():
        row = sql.execute(
            f"SELECT no, size FROM joins WHERE queue = ? AND id = ? AND body IS NOT NULL AND {ALIVE}", (queue, join, now_ms)
        ).fetchone()
        if row is None:
            continue
        no, size = row
        if _complete(sql, no, size, members):
            (body,) = sql.execute("SELECT body, level, delay_ms, due_ms FROM joins WHERE no = ?", (no,)).fetchall()
            sql.execute("UPDATE joins SET body = NULL WHERE no = ?", (no,))
            bodies.append(Publication(queue, *body))
    return bodies


def _complete(sql: sqlite3.Connection, no: int, size: int, counts: Sequence[Count]) -> bool:
    """Enter members of one join, up to the first that failed; say whether its body is due."""
    rows = [(no, *_place(one.member, size), one.record, one.task_id if one.failed else None) for one in counts]
    entered = start = 0
    for at in [at for at, one in enumerate(counts) if one.failed]:
        entered += _enter(sql, rows[start:at])
        start = at + 1
        if _enter(sql, rows[at:start]):
            # What comes behind it is late.
            return True
    entered += _enter(sql, rows[start:])
    if not entered:
        return False
    (missing,) = sql.execute("UPDATE joins SET missing = missing - ? WHERE no = ? RETURNING missing", (entered, no)).fetchall()[0]
    return bool(missing <= 0)


def _enter(sql: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> int:
    return sql.executemany(ENTER, rows).rowcount if rows else 0


def _place(member: str, size: int) -> tuple[int, str]:
    """Return where a member's record stands: the number it was opened with, or behind these under its own name."""
    if member.isascii() and member.isdecimal() and len(member) < 19 and (place := int(member)) < size:
        return place, ""
    return size, member


def drop(sql: sqlite3.Connection, drops: Iterable[Drop], now_ms: int) -> None:
    """Let joins go whose bodies have come to their end: at once, or after a time."""
    later: list[tuple[int, str, str]] = []
    for one in drops:
        if one.keep_s > 0:
            later.append((now_ms + one.keep_s * 1000, one.queue, one.join))
            continue
        for (no,) in sql.execute("SELECT no FROM joins WHERE queue = ? AND id = ?", (one.queue, one.join)).fetchall():
            _delete(sql, no)
    if later:
        sql.executemany("UPDATE joins SET expires_ms = ?, ended = 1 WHERE queue = ? AND id = ?", later)


def keep(sql: sqlite3.Connection, one: Drop) -> None:
    """Take back the end of a join: its body is to run again."""
    sql.execute("UPDATE joins SET expires_ms = NULL, ended = 0 WHERE queue = ? AND id = ?", (one.queue, one.join))


def discard(sql: sqlite3.Connection, queue: str) -> None:
    """Drop every join of a queue."""
    for (no,) in sql.execute("SELECT no FROM joins WHERE queue = ?", (queue,)).fetchall():
        _delete(sql, no)


def _delete(sql: sqlite3.Connection, no: int) -> None:
    sql.execute("DELETE FROM members WHERE joined = ?", (no,))
    sql.execute("DELETE FROM joins WHERE no = ?", (no,))


def expire(sql: sqlite3.Connection, now_ms: int, most: int) -> None:
    """Drop expired joins, up to a number of members at a time, the oldest first."""
    while most > 0:
        row = sql.execute("SELECT no FROM joins WHERE expires_ms <= ? ORDER BY expires_ms LIMIT 1", (now_ms,)).fetchone()
        if row is None:
            return
        gone = sql.execute(
            "DELETE FROM members WHERE joined = ? AND (place, id) IN (SELECT place, id FROM members WHERE joined = ? LIMIT ?)",
            (row[0], row[0], most),
        ).rowcount
        if gone < most:
            sql.execute("DELETE FROM joins WHERE no = ?", row)
        most -= gone + 1


def load(database: Connection, queue: str, join: str, now_ms: int) -> Joined | None:
    """Return what a join holds, in one look; None if it is not there."""
    rows = database.read(
        "SELECT joins.size, joins.added, members.place, members.record, members.failed"
        " FROM joins LEFT JOIN members ON members.joined = joins.no"
        f" WHERE joins.queue = ? AND joins.id = ? AND {ALIVE} ORDER BY members.place, members.id",
        (queue, join, now_ms),
    )
    if not rows:
        return None
    size, added = rows[0][:2]
    later = [record for *_, place, record, _ in rows if place is not None and place >= size]
    records: list[bytes | None] = [None] * max(size + added - len(later), 0)
    failed: tuple[str, bytes] | None = None
    for _, _, place, record, failure in rows:
        if place is not None and place < min(size, len(records)):
            records[place] = record
        if failure is not None:
            failed = (failure, record)
    return Joined(size + added, records + later, failed)
