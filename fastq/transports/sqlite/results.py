"""Result records: written inside the caller's transaction, told to their inboxes after it, expired in bounded steps."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from fastq import _core
from fastq.ending import FAILURE
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.mail import Post

__all__ = ["Results", "expire", "forget_failures", "tell"]

#: results written between two sweeps; each sweep may drop twice as many as were written, so it keeps up with any rate
SWEEP_EVERY = 1000
#: batches of results noted for an inbox that does not read (its application sends tasks and never waits)
MISSED_NOTES = 1000
#: a record is a MessagePack array whose first element is the state: these are the bytes after the array's own for the states
#: that stay (SUCCESS, FAILURE and REVOKED have seven letters each)
FINAL = ", ".join(f"x'a7{state.encode().hex()}'" for state in ("SUCCESS", "FAILURE", "REVOKED"))
WRITE = (
    "INSERT INTO results (id, record, expires_ms) VALUES (?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET record = excluded.record, expires_ms = excluded.expires_ms"
)
#: an expired record counts as none
WRITE_UNLESS_FINAL = f"{WRITE} WHERE substr(results.record, 2, 8) NOT IN ({FINAL}) OR results.expires_ms <= ?"


class Results:
    """Write records with one expiry."""

    def __init__(self, expires_s: int | None) -> None:
        self._expires_ms = None if expires_s is None else expires_s * 1000
        self._since_sweep = 0

    def write(self, sql: sqlite3.Connection, records: Sequence[tuple[str, bytes]], now_ms: int, *, final: bool = True) -> None:
        """Keep (id, record) pairs; without ``final``, only where no final record stands."""
        expires_ms = None if self._expires_ms is None else now_ms + self._expires_ms
        if final:
            sql.executemany(WRITE, [(id, record, expires_ms) for id, record in records])
        else:
            sql.executemany(WRITE_UNLESS_FINAL, [(id, record, expires_ms, now_ms) for id, record in records])
        self._since_sweep += len(records)
        if self._since_sweep >= SWEEP_EVERY:
            expire(sql, now_ms, 2 * self._since_sweep)
            self._since_sweep = 0


def forget_failures(sql: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Drop the records of these tasks that say FAILURE."""
    sql.executemany(f"DELETE FROM results WHERE id = ? AND substr(record, 1, 9) = x'{FAILURE.hex()}'", [(id,) for id in ids])


def expire(sql: sqlite3.Connection, now_ms: int, most: int) -> None:
    """Drop expired records, a bounded number, the oldest first."""
    sql.execute(
        "DELETE FROM results WHERE id IN (SELECT id FROM results WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?)", (now_ms, most)
    )


def tell(database: Connection, post: Post, results: Iterable[tuple[str, str, bytes]], now_ms: int) -> None:
    """Send (inbox, id, record) to whoever waits; what a full inbox does not take is noted in ``missed``."""
    inboxes: dict[str, list[tuple[str, bytes | None]]] = {}
    for inbox, id, record in results:
        if inbox:
            inboxes.setdefault(inbox, []).append((id, record))
    for inbox, told in inboxes.items():
        lost = post.results(database.identity, inbox, told)
        # After too many notes one without ids ends the list, until the inbox has taken them.
        if not lost or database.read("SELECT 1 FROM missed WHERE inbox = ? AND ids IS NULL", (inbox,)):
            continue
        with database as sql:
            (notes,) = sql.execute("SELECT count(*) FROM missed WHERE inbox = ?", (inbox,)).fetchone()
            ids = _core.packb(lost) if notes < MISSED_NOTES else None
            sql.execute("INSERT INTO missed (inbox, missed_ms, ids) VALUES (?, ?, ?)", (inbox, now_ms, ids))
