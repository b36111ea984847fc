"""Let expired things go, a bounded number at a time; ``renew`` calls it, so a store that nobody works on keeps them."""

from __future__ import annotations

import sqlite3

from fastq.transports.base import TransportOptions
from fastq.transports.sqlite import dead, joins, results, revocations, turns

__all__ = ["sweep"]

#: rows of one kind in one sweep
MOST = 1000
#: ms; a publish call is repeated within this time or never
PRODUCER_MS = 600_000
#: ms; a supervisor frozen for longer than this may renew a released lease (see ``leases``)
TOMBSTONE_MS = 600_000
#: ms; an inbox that has not looked for so long is gone
MISSED_MS = 3_600_000


def sweep(sql: sqlite3.Connection, now_ms: int, options: TransportOptions) -> None:
    """Drop what nobody can ask for any more."""
    results.expire(sql, now_ms, MOST)
    joins.expire(sql, now_ms, MOST)
    turns.expire(sql, now_ms * 1000, MOST)
    revocations.expire(sql, now_ms, MOST)
    sql.execute("DELETE FROM producers WHERE seen_ms < ?", (now_ms - PRODUCER_MS,))
    sql.execute("DELETE FROM leases WHERE gone_ms BETWEEN 1 AND ?", (now_ms - TOMBSTONE_MS,))
    sql.execute("DELETE FROM missed WHERE missed_ms < ?", (now_ms - MISSED_MS,))
    dead.expire(sql, now_ms - options.dead_letter_expires_s * 1000, MOST, now_ms)
