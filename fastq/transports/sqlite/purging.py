"""Empty a queue: messages that others wait for are ended, so that what was to come after them hears of it; plain ones just go."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from fastq import _core, ending
from fastq.exceptions import FastQError
from fastq.transports.sqlite import effects, places
from fastq.transports.sqlite.results import Results
from fastq.transports.sqlite.schema import PLACE_BITS, bounds
from fastq.transports.sqlite.settling import Told

__all__ = ["Purge", "Step"]

#: steps of workflows that one transaction ends: it holds the write lock for some 60 ms, then others get a turn
STEP = 5000
#: "flow" as the core writes it among a message's options: SQLite sorts out what cannot have one
MAY_HAVE_FLOW = f"instr(message, x'{_core.packb('flow').hex()}') > 0"


@dataclass(frozen=True, slots=True)
class Step:
    """What one transaction of a purge has done."""

    purged: int
    #: it was not the last
    more: bool
    #: queues that have new messages
    touched: Sequence[int]
    #: results stored
    told: Sequence[Told]


class Purge:
    """Purge one queue, as far as it was filled at the start: what comes in meanwhile, also what the purge itself brings about,
    stays. If the process dies half-way, what it has ended has ended, and the rest is as it was."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self._started = False
        #: table -> column, condition, its values: what waited at the start
        self._spans: dict[str, tuple[str, str, tuple[int, ...]]] = {}
        #: table -> the last row looked at
        self._seen = {"ready": 0, "delayed": 0}

    def _start(self, sql: sqlite3.Connection) -> None:
        row = sql.execute("SELECT tail FROM queues WHERE no = ?", (self._queue,)).fetchone()
        (last_id,) = sql.execute("SELECT max(id) FROM delayed").fetchone()
        older = f"key BETWEEN ? AND ? AND key & {(1 << PLACE_BITS) - 1} < ?"
        self._spans = {
            "ready": ("key", older, (*bounds(self._queue), row[0] if row is not None else 0)),
            "delayed": ("id", "queue = ? AND id <= ?", (self._queue, last_id or 0)),
        }
        self._started = True

    def step(self, sql: sqlite3.Connection, now_ms: int, results: Results) -> Step:
        """Make one transaction's part of it."""
        if not self._started:
            self._start(sql)
        purged, looked = 0, 0
        ended: list[_core.Delivery] = []
        found: dict[str, list[tuple[int]]] = {}
        for table, (column, condition, values) in self._spans.items():
            rows = sql.execute(
                f"SELECT {column}, message FROM {table} WHERE {condition} AND {column} > ? AND {MAY_HAVE_FLOW}"
                f" ORDER BY {column} LIMIT ?",
                (*values, self._seen[table], STEP - looked),
            ).fetchall()
            looked += len(rows)
            if rows:
                self._seen[table] = rows[-1][0]
                found[table] = [row[:1] for row in rows]
                ended += _steps(message for _, message in rows)
        more = looked >= STEP
        # Before anything is deleted: a new delayed message must not get the number of an old one.
        touched, told = _end(sql, ended, now_ms, results)
        for table, (column, condition, values) in self._spans.items():
            if not more:
                purged += sql.execute(f"DELETE FROM {table} WHERE {condition}", values).rowcount
            elif table in found:
                purged += sql.executemany(f"DELETE FROM {table} WHERE {column} = ?", found[table]).rowcount
        return Step(purged, more, touched, told)


def _steps(messages: Iterable[bytes]) -> list[_core.Delivery]:
    """Return those that are steps of a workflow."""
    found: list[_core.Delivery] = []
    for message in messages:
        try:
            d = _core.peek(message)
            if d.flow is not None:
                found.append(d)
        except FastQError:
            # No envelope: nobody waits for it.
            continue
    return found


def _end(sql: sqlite3.Connection, purged: Sequence[_core.Delivery], now_ms: int, results: Results) -> tuple[list[int], list[Told]]:
    """End steps as REVOKED; return the queues that have new messages, and the results stored."""
    if not purged:
        return [], []
    ends = [ending.revoked(d, now_ms) for d in purged]
    stored = [(result.inbox, result.id, result.record) for end in ends for result in end.results()]
    if stored:
        results.write(sql, [(id, record) for _, id, record in stored], now_ms)
    caused = [end.effects for end in ends if end.effects is not None]
    return effects.carry_out(sql, caused, now_ms, partial(places.queue_no, sql)), stored
