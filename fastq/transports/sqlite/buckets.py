"""Token buckets: one theoretical arrival time each. A row whose time has come says no more than none at all."""

from __future__ import annotations

import sqlite3

__all__ = ["expire", "reserve"]


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
