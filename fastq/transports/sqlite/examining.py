"""Look for what is wrong with an SQLite file, and for what was left behind in it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from functools import partial

from fastq.transports.base import Finding, Scope, TransportOptions
from fastq.transports.judging import (
    DELIVERIES,
    PROCESSES,
    QueueSeen,
    TimetableSeen,
    judge,
    judge_pauses,
    judge_timetable,
    sent_ms,
)
from fastq.transports.sqlite import pausing, schema
from fastq.transports.sqlite.errors import code
from fastq.transports.sqlite.file_health import file_findings
from fastq.transports.sqlite.mending import LEFTOVERS, mend
from fastq.transports.sqlite.schema import bounds
from fastq.transports.sqlite.timetable import COLUMNS, planned
from fastq.transports.sqlite.url import Target

__all__ = ["SQLiteExaminer"]

#: bytes up to which every page of the file is checked: about a second
CHECKED_BYTES = 256 << 20

#: errors that a check of the pages tells one by one
EACH = 10


class SQLiteExaminer:
    """An Examiner of one file. It reads; it never makes the file, and never waits for a writer longer than others do."""

    def __init__(self, target: Target, options: TransportOptions, scope: Scope) -> None:
        self.server = f"SQLite {sqlite3.sqlite_version} at {target.path}"
        self.looked = 0
        self.queues: list[str] = []
        self._target = target
        self._path = target.path
        self._options = options
        self._scope = scope
        self._mendable = False

    def __repr__(self) -> str:
        return f"<SQLiteExaminer {self._path}>"

    def examine(self) -> Iterator[Finding]:
        usable = True
        for finding in file_findings(self._path):
            usable = usable and finding.level != "error"
            yield finding
        if not os.path.isfile(self._path) or not (usable or os.access(self._path, os.R_OK)):
            return
        try:
            with contextlib.closing(self._open()) as sql:
                yield from self._inside(sql)
        except sqlite3.Error as error:
            yield _trouble(error, self._path)

    def _open(self) -> sqlite3.Connection:
        """Open without making anything. Where it may be written, as a writer: a reader that closes last would leave the WAL."""
        writable = os.access(self._path, os.W_OK) and os.access(os.path.dirname(self._path), os.W_OK)
        mode = "rw" if writable else "ro"
        quoted = self._path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        sql = sqlite3.connect(f"file:{quoted}?mode={mode}", uri=True, timeout=self._options.socket_timeout_s, isolation_level=None)
        if not writable and not os.path.exists(f"{self._path}-wal"):
            sql.close()
            # without -shm and the right to make it only a file that nobody changes can be read
            sql = sqlite3.connect(f"file:{quoted}?immutable=1", uri=True, isolation_level=None)
        return sql

    def _inside(self, sql: sqlite3.Connection) -> Iterator[Finding]:
        used = sql.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        (application,) = sql.execute("PRAGMA application_id").fetchone()
        (version,) = sql.execute("PRAGMA user_version").fetchone()
        if not used:
            return
        if application != schema.APPLICATION_ID:
            yield Finding(
                "error",
                "foreign-file",
                self._path,
                "this file is the database of another application",
                "give fastq a file of its own (broker_url)",
            )
            return
        if version > schema.VERSION:
            yield Finding(
                "error",
                "newer-tables",
                self._path,
                f"its tables have version {version}, and this fastq knows up to {schema.VERSION}",
                "upgrade fastq here too, or name another file",
            )
            return
        yield from self._file(sql)
        if version < schema.VERSION:
            yield Finding(
                "note",
                "older-tables",
                self._path,
                f"its tables have version {version} of {schema.VERSION}",
                "nothing: the next worker or producer brings them up to date",
            )
            return
        yield from self._tables(sql)
        if self._scope.messages:
            yield from self._queues(sql)
            yield from self._leftovers(sql)
            yield from self._timetables(sql)
            self._mendable = True

    def _file(self, sql: sqlite3.Connection) -> Iterator[Finding]:
        (mode,) = sql.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            yield Finding(
                "warning",
                "no-wal",
                self._path,
                f"its journal mode is {mode!r}: readers and writers wait for each other",
                "let only fastq open the file; the next worker sets WAL again, where the disk allows it",
            )
        size = os.path.getsize(self._path)
        if size > CHECKED_BYTES:
            yield Finding(
                "note",
                "pages-not-checked",
                self._path,
                f"the file has {size >> 20:,} MiB, and its pages are checked up to {CHECKED_BYTES >> 20} MiB only",
                'at a quiet time: sqlite3 FILE "PRAGMA quick_check"',
            )
            return
        for (text,) in sql.execute(f"PRAGMA quick_check({EACH})"):
            if text != "ok":
                yield Finding("error", "damaged-file", self._path, text.replace("\n", " "), _RECOVER)
        if self._target.synchronous == "normal" and self._scope.messages:
            yield Finding(
                "note",
                "synchronous-normal",
                self._path,
                "a killed process loses nothing, but a power failure can take what was accepted in the last moments",
                "add ?synchronous=full to the URL where that matters; it costs an fsync for each write",
            )

    def _tables(self, sql: sqlite3.Connection) -> Iterator[Finding]:
        ours = set(schema.names())
        for type, name in sql.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"):
            if name not in ours:
                yield Finding(
                    "warning",
                    "foreign-table",
                    name,
                    f"this is a {type}, and fastq makes none of that name",
                    "give the other program a file of its own: they wait for each other's writes",
                )

    def _queues(self, sql: sqlite3.Connection) -> Iterator[Finding]:
        scope = self._scope
        numbers = {name: no for no, name in sql.execute("SELECT no, name FROM queues")}
        declared = [name for name in scope.declared if not scope.queues or name in scope.queues]
        self.queues = sorted({*(scope.queues or numbers), *declared})
        paused = pausing.read(sql)
        for queue in self.queues:
            seen = self._look(sql, queue, numbers.get(queue, 0))
            self.looked += seen.ready + seen.delayed + sum(seen.holds.values()) + seen.dead
            yield from judge(seen, self._options, declared=queue in declared, paused=paused.rests(queue))
        parked = {queue: counts for queue in self.queues if (counts := pausing.count(sql, numbers.get(queue, 0)))}
        yield from judge_pauses(paused, parked, time.time_ns() // 1_000_000)

    def _timetables(self, sql: sqlite3.Connection) -> Iterator[Finding]:
        for (name,) in sql.execute("SELECT DISTINCT scope FROM timetable ORDER BY scope").fetchall():
            yield from judge_timetable(name, self._scope, partial(self._timetable, sql, name))

    def _timetable(self, sql: sqlite3.Connection, name: str) -> TimetableSeen:
        now_ms = time.time_ns() // 1_000_000
        # in the order of time: what is overdue comes first, where there are more than may be looked at
        rows = sql.execute(
            f"SELECT {COLUMNS} FROM timetable WHERE scope = ? AND definition IS NOT NULL ORDER BY due_ms LIMIT ?",
            (name, self._scope.limit),
        ).fetchall()
        leads = sql.execute("SELECT name FROM leaders WHERE scope = ? AND until_ms > ?", (name, now_ms)).fetchone()
        return TimetableSeen([planned(row) for row in rows], leads[0] if leads else "", now_ms)

    def _look(self, sql: sqlite3.Connection, queue: str, no: int) -> QueueSeen:
        low, high = bounds(no)
        seen = QueueSeen(queue, now_ms=time.time_ns() // 1_000_000)
        sql.execute("BEGIN")
        try:
            (seen.ready,) = sql.execute("SELECT count(*) FROM ready WHERE key BETWEEN ? AND ?", (low, high)).fetchone()
            seen.delayed, due_ms = sql.execute("SELECT count(*), min(due_ms) FROM delayed WHERE queue = ?", (no,)).fetchone()
            seen.due_ms = due_ms or 0
            (seen.dead,) = sql.execute("SELECT count(*) FROM dead WHERE queue = ?", (no,)).fetchone()
            seen.leases = {
                process: renewed_ms if beat > 0 else 0
                for process, beat, renewed_ms in sql.execute(
                    "SELECT process, beat, renewed_ms FROM leases WHERE queue = ? AND gone_ms = 0 ORDER BY process", (no,)
                )
            }
            seen.holds = dict(
                sql.execute("SELECT process, count(*) FROM leased WHERE key BETWEEN ? AND ? GROUP BY process", (low, high))
            )
            for process in list(seen.leases)[:PROCESSES]:
                if seen.holds.get(process, 0):
                    for (message,) in sql.execute(
                        "SELECT message FROM leased WHERE key BETWEEN ? AND ? AND process = ? LIMIT ?",
                        (low, high, process, DELIVERIES),
                    ):
                        seen.note_old(process, message)
            head = sql.execute("SELECT message FROM ready WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 1", (low, high)).fetchone()
        finally:
            sql.execute("COMMIT")
        if head is not None:
            seen.oldest_ms = sent_ms(head[0])
        return seen

    def _leftovers(self, sql: sqlite3.Connection) -> Iterator[Finding]:
        for leftover in LEFTOVERS:
            for name, count in sql.execute(f"{leftover.query} LIMIT {EACH}").fetchall():
                text = leftover.text.format(count)
                yield Finding(leftover.level, leftover.code, f"{leftover.table} {name}", text, leftover.advice)
        yield from self._joins(sql)

    def _joins(self, sql: sqlite3.Connection) -> Iterator[Finding]:
        """Find chords that no message mentions: in one transaction, so nothing is on its way."""
        sql.execute("BEGIN")
        try:
            (waiting,) = sql.execute(
                "SELECT (SELECT count(*) FROM ready) + (SELECT count(*) FROM delayed) + (SELECT count(*) FROM leased)"
            ).fetchone()
            joins = {id: queue for queue, id in sql.execute("SELECT queue, id FROM joins WHERE expires_ms IS NULL LIMIT 1000")}
            if not joins:
                return
            if waiting > self._scope.limit:
                yield Finding(
                    "note",
                    "joins-not-checked",
                    f"{len(joins)} joins",
                    f"more than {self._scope.limit:,} messages wait, too many to see whether each open chord still has members",
                    "look again when the queues are shorter, or raise --limit",
                )
                return
            for table, column in (("ready", "message"), ("delayed", "message"), ("leased", "message"), ("joins", "body")):
                # the name of the field is plain text in every message that mentions a join
                rows = sql.execute(f"SELECT {column} FROM {table} WHERE instr({column}, x'6a6f696e')")
                _strike(joins, (message for (message,) in rows))
        finally:
            sql.execute("COMMIT")
        for join, queue in joins.items():
            yield Finding(
                "warning",
                "ownerless-row",
                f"joins {join}",
                f"this chord of queue {queue} is kept, and no message is left that would count for it or read it",
                "its body will not run: send it again if it is wanted",
            )

    def mend(self) -> list[str]:
        if not self._mendable:
            return []
        return mend(self._target, self._options)

    def close(self) -> None:
        pass


def _strike(joins: dict[str, str], messages: Iterator[bytes] | Sequence[bytes]) -> None:
    for message in messages:
        for join in [join for join in joins if join.encode() in message]:
            del joins[join]


_RECOVER = "move it away, and save what can be read with `sqlite3 FILE .recover`"


def _trouble(error: sqlite3.Error, path: str) -> Finding:
    match code(error):
        case sqlite3.SQLITE_NOTADB:
            return Finding(
                "error",
                "foreign-file",
                path,
                "this file is not an SQLite database",
                "name another file, or move this one away",
            )
        case sqlite3.SQLITE_CORRUPT:
            return Finding("error", "damaged-file", path, str(error), _RECOVER)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Finding("error", "locked-file", path, f"another process has kept it locked ({error})", "end that process")
    return Finding(
        "error",
        "file-trouble",
        path,
        f"it cannot be read ({getattr(error, 'sqlite_errorname', type(error).__name__)}: {error})",
        "look at the disk, and at who may read the file and write its directory",
    )
