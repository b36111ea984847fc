"""Leases of worker processes: entered and renewed by their supervisor, condemned by the look rule, released.

**Why no lock file per process.** A lock that the system frees at death would say sooner that a process has died. But a dead child
is reaped by its supervisor, which releases it within a second, and a dead supervisor takes its children with it: what is left
is a dead node, and the look rule finds it within two leases, as on Redis. One rule for both transports, no second file, and a
frozen process (which still holds its lock) needs the look rule anyway.

**Gone.** A released lease stays for ten minutes as a tombstone: a supervisor that was frozen meanwhile must not revive it by its
next renewal, or its process would never be told that its deliveries have moved.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from fastq.exceptions import OperationalError
from fastq.records import Lease
from fastq.transports.sqlite import places
from fastq.transports.sqlite.schema import bounds

__all__ = ["bury", "condemn", "held", "last_number", "release", "renew", "stale"]

#: messages that one transaction of a release moves at most
STEP = 1000
CONDEMNED = "0"


def last_number(sql: sqlite3.Connection, process: str, queues: Collection[int]) -> int | None:
    """Return the number of a process' last fetch; None if its lease on one of the queues is missing or condemned."""
    last = found = 0
    for queue, beat, number in sql.execute("SELECT queue, beat, number FROM leases WHERE process = ? AND gone_ms = 0", (process,)):
        last = max(last, number)
        found += beat > 0 and queue in queues
    return last if found == len(queues) else None


def renew(sql: sqlite3.Connection, queues: Sequence[int], processes: Sequence[str], now_ms: int) -> None:
    """Enter or renew, but never revive. The beat counts up, so a clock that jumps back gives no old value again."""
    sql.executemany(
        "INSERT INTO leases (process, queue, beat, renewed_ms) VALUES (?, ?, 1, ?) ON CONFLICT (process, queue) DO UPDATE"
        " SET beat = beat + 1, renewed_ms = excluded.renewed_ms WHERE beat > 0 AND gone_ms = 0",
        [(process, queue, now_ms) for process in processes for queue in queues],
    )


def stale(sql: sqlite3.Connection, queues: Sequence[int], before_ms: int) -> list[Lease]:
    """Return the leases on these queues last renewed before a time, condemned ones always."""
    return [
        Lease(name, process, str(beat))
        for name, process, beat in sql.execute(
            "SELECT queues.name, process, beat FROM leases JOIN queues ON queues.no = leases.queue"
            " WHERE gone_ms = 0 AND (renewed_ms < ? OR beat = 0) AND queue IN (SELECT value FROM json_each(?))"
            " ORDER BY process, queue",
            (before_ms, str(list(queues))),
        )
    ]


def condemn(sql: sqlite3.Connection, seen: Sequence[tuple[int, Lease]]) -> list[Lease]:
    """Condemn those whose value is still the one seen ("" matches any); return those given that are condemned now."""
    condemned = []
    for queue, lease in seen:
        if not lease.value or lease.value.isdecimal():
            sql.execute(
                "UPDATE leases SET beat = 0 WHERE process = ? AND queue = ? AND gone_ms = 0 AND (beat = ? OR ? = '')",
                (lease.process, queue, int(lease.value or 0), lease.value),
            )
        row = sql.execute(
            "SELECT beat FROM leases WHERE process = ? AND queue = ? AND gone_ms = 0", (lease.process, queue)
        ).fetchone()
        if row == (0,):
            condemned.append(Lease(lease.queue, lease.process, CONDEMNED))
    return condemned


def held(sql: sqlite3.Connection, queue: int, process: str) -> list[tuple[int, bytes]]:
    """Return (key, message) of what a process has leased, oldest first."""
    return sql.execute(
        "SELECT key, message FROM leased WHERE process = ? AND key BETWEEN ? AND ? ORDER BY number, key", (process, *bounds(queue))
    ).fetchall()


def _alive(sql: sqlite3.Connection, queue: int, process: str) -> bool:
    row = sql.execute("SELECT beat > 0 AND gone_ms = 0 FROM leases WHERE process = ? AND queue = ?", (process, queue)).fetchone()
    return row is not None and bool(row[0])


def release(sql: sqlite3.Connection, queue: int, process: str, marks: dict[str, bytes]) -> tuple[int, bool]:
    """Move the newest messages of a process back to the head; return how many, and whether any may be left."""
    if _alive(sql, queue, process):
        raise OperationalError(f"{process} holds a live lease: condemn it before its deliveries are released.")
    keys = [
        key
        for (key,) in sql.execute(
            "SELECT key FROM leased WHERE process = ? AND key BETWEEN ? AND ? ORDER BY key DESC LIMIT ?",
            (process, *bounds(queue), STEP),
        )
    ]
    places.give_back(sql, keys, {key: marks[str(key)] for key in keys if str(key) in marks})
    sql.executemany("DELETE FROM leased WHERE key = ?", [(key,) for key in keys])
    return len(keys), len(keys) == STEP


def bury(sql: sqlite3.Connection, queue: int, process: str, now_ms: int) -> None:
    """Let the lease of a condemned process that has nothing left go, and its wake registration."""
    if not _alive(sql, queue, process):
        sql.execute("UPDATE leases SET gone_ms = ? WHERE process = ? AND queue = ? AND gone_ms = 0", (now_ms, process, queue))
        sql.execute("DELETE FROM idle WHERE process = ? AND queue = ?", (process, queue))
