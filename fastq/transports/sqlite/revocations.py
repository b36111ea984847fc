"""Revoked tasks: remembered by id, and taken out of the queue in which they wait."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial

from fastq import _core, ending
from fastq.exceptions import EnvelopeError
from fastq.records import StoredResult, Swept
from fastq.transports.base import REVOKED_MAX
from fastq.transports.sqlite import baton, effects, places, results
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.mail import Post
from fastq.transports.sqlite.schema import LAST_LEVEL, PLACE_BITS, bounds, key_base

__all__ = ["Sweep", "add", "expire", "last", "since", "terminated"]

#: rows looked at in one read
STEP = 5_000
#: bytes of a message in which its id is: mark, array, str8, at most 255 bytes
HEAD = f"substr(message, 1, {2 + 3 + 255})"


def last(sql: sqlite3.Connection) -> int:
    """Return the number of the last revocation, 0 if none is remembered."""
    (number,) = sql.execute("SELECT max(number) FROM revoked").fetchone()
    return number or 0


def add(sql: sqlite3.Connection, ids: Sequence[str], expires_s: int, now_ms: int, signal: str = "") -> int:
    """Remember ids; return the number of this revocation: the clock in ms, or one more than the last."""
    expire(sql, now_ms, REVOKED_MAX)
    number = max(now_ms, last(sql) + 1)
    expires_ms = now_ms + max(expires_s, 1) * 1000
    rows = [(id, number, expires_ms) for id in ids]
    sql.executemany("INSERT OR REPLACE INTO revoked (id, number, expires_ms) VALUES (?, ?, ?)", rows)
    (count,) = sql.execute("SELECT count(*) FROM revoked").fetchone()
    if count > REVOKED_MAX:
        sql.execute("DELETE FROM revoked WHERE id IN (SELECT id FROM revoked ORDER BY number LIMIT ?)", (count - REVOKED_MAX,))
    if signal:
        sql.executemany(
            "INSERT OR REPLACE INTO terminated (id, number, signal, expires_ms) VALUES (?, ?, ?, ?)",
            [(id, number, signal, expires_ms) for id in ids],
        )
        sql.execute(
            "DELETE FROM terminated WHERE id IN (SELECT id FROM terminated ORDER BY number DESC LIMIT -1 OFFSET ?)", (REVOKED_MAX,)
        )
    return number


def since(sql: sqlite3.Connection, number: int) -> tuple[int, list[str]]:
    """Return the last number, and the ids revoked after a number."""
    return last(sql), [id for (id,) in sql.execute("SELECT id FROM revoked WHERE number > ? ORDER BY number", (number,))]


def terminated(sql: sqlite3.Connection, number: int) -> tuple[int, dict[str, str]]:
    """Return the last number of a revocation with a signal, and the signals by id of those after a number."""
    (newest,) = sql.execute("SELECT max(number) FROM terminated").fetchone()
    rows = sql.execute("SELECT id, signal FROM terminated WHERE number > ? ORDER BY number", (number,)).fetchall()
    return newest or 0, dict(rows)


def expire(sql: sqlite3.Connection, now_ms: int, most: int) -> None:
    """Forget ids whose time is over."""
    for table in ("revoked", "terminated"):
        sql.execute(f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE expires_ms <= ? LIMIT ?)", (now_ms, most))


class Sweep:
    """Sweep one queue for some tasks: looks without the write lock, and takes what it finds in one short transaction each."""

    def __init__(self, database: Connection, post: Post, queue: int, writer: results.Results | None, most: int) -> None:
        """``writer``: None if results are stored elsewhere."""
        self._database = database
        self._post = post
        self._queue = queue
        self._writer = writer
        self._most = most
        self._ended: set[str] = set()
        self._stored: list[StoredResult] = []

    def run(self, ids: Iterable[str]) -> Swept:
        wanted = frozenset(ids)
        # In the order in which messages move: delayed, ready, leased. What moves on meanwhile is found there.
        self._look("delayed", "id", "queue = ?", (self._queue,), wanted)
        for level in range(LAST_LEVEL + 1):
            base = key_base(self._queue, level)
            self._look("ready", "key", "key BETWEEN ? AND ?", (base, base + (1 << PLACE_BITS) - 1), wanted)
        rows = self._database.read(f"SELECT {HEAD} FROM leased WHERE key BETWEEN ? AND ?", bounds(self._queue))
        leased = {id for (head,) in rows if (id := _id(head)) in wanted}
        return Swept(frozenset(self._ended), frozenset(leased - self._ended), self._stored)

    def _look(self, table: str, column: str, condition: str, values: tuple[int, ...], wanted: Collection[str]) -> None:
        """Look at a table from its newest row."""
        before, looked = (1 << 63) - 1, 0
        while looked < self._most:
            rows = self._database.read(
                f"SELECT {column}, {HEAD} FROM {table} WHERE {condition} AND {column} < ? ORDER BY {column} DESC LIMIT ?",
                (*values, before, min(STEP, self._most - looked)),
            )
            if not rows:
                return
            looked += len(rows)
            before = rows[-1][0]
            found = [row for row, head in rows if _id(head) in wanted]
            if found:
                self._end(table, column, found)

    def _end(self, table: str, column: str, rows: Sequence[int]) -> None:
        told: list[tuple[str, str, bytes]] = []
        with self._database as sql:
            now_ms = time.time_ns() // 1_000_000
            ends = [(d.id, ending.revoked(d, now_ms)) for d in _take(sql, table, column, rows)]
            caused = [end.effects for _, end in ends if end.effects is not None]
            touched = effects.carry_out(sql, caused, now_ms, partial(places.queue_no, sql))
            stored = [result for _, end in ends for result in end.results()]
            if self._writer is not None and stored:
                self._writer.write(sql, [(result.id, result.record) for result in stored], now_ms)
                told = [(result.inbox, result.id, result.record) for result in stored]
            wakes = baton.choose(sql, touched, now_ms) if touched else []
        for process in wakes:
            # Whoever is gone is found by the next renewal.
            self._post.wake(self._database.identity, process)
        if self._writer is None:
            self._stored += stored
        results.tell(self._database, self._post, told, now_ms)
        self._ended.update(id for id, _ in ends)


def _take(sql: sqlite3.Connection, table: str, column: str, rows: Sequence[int]) -> Iterator[_core.Delivery]:
    """Take rows out that are still there; yield their messages."""
    for row in rows:
        for (message,) in sql.execute(f"DELETE FROM {table} WHERE {column} = ? RETURNING message", (row,)).fetchall():
            yield _core.peek(message)


def _id(head: bytes | None) -> str:
    try:
        return _core.task_id(head or b"")  # SQLite cuts nothing out of nothing
    except EnvelopeError:
        return ""  # no task has this id
