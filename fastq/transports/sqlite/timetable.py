"""A timetable in an SQLite file."""

from __future__ import annotations

import select
import sqlite3
import time
from collections.abc import Sequence
from functools import partial

from fastq.transports.base import TransportOptions
from fastq.transports.sqlite import baton, places
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.mail import Post
from fastq.transports.sqlite.url import Target
from fastq.transports.timetable import Edit, Lead, Listing, Planned, Tick

__all__ = ["COLUMNS", "SQLiteTimetable", "planned"]

#: names of removed entries that are remembered
REMOVED = 1_000
#: edits and ticks of one transaction
STEP = 500
#: how often it is looked whether the file has changed, s: a look is 10 us
LOOK_S = 0.05

COLUMNS = "name, definition, due_ms, paused, edit, last_due_ms, last_run_ms, runs"


class SQLiteTimetable:
    """``Timetable`` in one file. The broker's clock is the machine's."""

    def __init__(self, target: Target, options: TransportOptions, scope: str) -> None:
        self.url = target.url
        self._scope = scope
        self._database = Connection(target, timeout_s=options.socket_timeout_s)
        self._post = Post()
        #: what ``wait`` has seen last: the last edit, and who leads
        self._seen: tuple[int, str] | None = None
        self._version = -1

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # --- entries ---

    def entries(self, since: int = 0) -> Listing:
        with self._database as sql:
            rows = sql.execute(
                f"SELECT {COLUMNS} FROM timetable WHERE scope = ? AND edit > ? ORDER BY name", (self._scope, since)
            ).fetchall()
            (total,) = sql.execute(
                "SELECT count(*) FROM timetable WHERE scope = ? AND definition IS NOT NULL", (self._scope,)
            ).fetchone()
            version = self._last_edit(sql)
        removed = [row[0] for row in rows if row[1] is None] if since else []
        return Listing(version, total, [planned(row) for row in rows if row[1] is not None], removed)

    def get(self, names: Sequence[str]) -> list[Planned | None]:
        query = f"SELECT {COLUMNS} FROM timetable WHERE scope = ? AND name = ? AND definition IS NOT NULL"
        found = [self._database.read(query, (self._scope, name)) for name in names]
        return [planned(rows[0]) if rows else None for rows in found]

    def edit(self, edits: Sequence[Edit]) -> list[int]:
        numbers: list[int] = []
        for start in range(0, len(edits), STEP):
            with self._database as sql:
                number = max(self.now_ms(), self._last_edit(sql) + 1)
                numbers += [self._edit(sql, edit, number) for edit in edits[start : start + STEP]]
                sql.execute(
                    "DELETE FROM timetable WHERE scope = ? AND definition IS NULL AND edit < (SELECT edit FROM timetable"
                    " WHERE scope = ? AND definition IS NULL ORDER BY edit DESC LIMIT 1 OFFSET ?)",
                    (self._scope, self._scope, REMOVED - 1),
                )
        return numbers

    def _edit(self, sql: sqlite3.Connection, edit: Edit, number: int) -> int:
        place = (self._scope, edit.name)
        row = sql.execute(f"SELECT {COLUMNS} FROM timetable WHERE scope = ? AND name = ?", place).fetchone()
        plan = planned(row) if row is not None and row[1] is not None else None
        if edit.seen is not None and edit.seen != (plan.edit if plan is not None else 0):
            return 0
        if plan is None and (edit.definition is None or edit.remove):
            return 0
        if edit.remove:
            sql.execute("UPDATE timetable SET definition = NULL, edit = ? WHERE scope = ? AND name = ?", (number, *place))
            return number
        if plan is None:
            plan = Planned(edit.name, b"", 0)
        sql.execute(
            "INSERT OR REPLACE INTO timetable (scope, name, definition, due_ms, paused, edit, last_due_ms, last_run_ms, runs)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *place,
                plan.definition if edit.definition is None else edit.definition,
                plan.due_ms if edit.due_ms is None else edit.due_ms,
                plan.paused if edit.paused is None else edit.paused,
                *(number, plan.last_due_ms, plan.last_run_ms, plan.runs),
            ),
        )
        return number

    def _last_edit(self, sql: sqlite3.Connection) -> int:
        (number,) = sql.execute("SELECT max(edit) FROM timetable WHERE scope = ?", (self._scope,)).fetchone()
        return number or 0

    # --- ticks ---

    def fire(self, by: str, ticks: Sequence[Tick]) -> list[bool]:
        for tick in ticks:
            for one in tick.publications:
                places.check_level(one.level)
        fired: list[bool] = []
        for start in range(0, len(ticks), STEP):
            with self._database as sql:
                now_ms = self.now_ms()
                queues: dict[int, None] = {}
                for tick in ticks[start : start + STEP]:
                    done, mine = self._fire(sql, by, tick, now_ms)
                    fired.append(done)
                    if mine and tick.publications:
                        number = partial(places.queue_no, sql)
                        queues.update(dict.fromkeys(places.keep(sql, tick.publications, now_ms, number)))
                wakes = baton.choose(sql, queues, now_ms) if queues else []
            self._wake(wakes, list(queues))
        return fired

    def _fire(self, sql: sqlite3.Connection, by: str, tick: Tick, now_ms: int) -> tuple[bool, bool]:
        """Return whether the tick is fired, and whether it was by this call."""
        place = (self._scope, tick.name, tick.edit)
        run = ", last_run_ms = ?, runs = runs + 1" if tick.publications else ""
        moved = sql.execute(
            f"UPDATE timetable SET due_ms = ?, last_due_ms = ?, fired_by = ?{run} WHERE scope = ? AND name = ? AND edit = ?"
            " AND due_ms = ? AND paused = 0 AND definition IS NOT NULL",
            (tick.next_due_ms, tick.due_ms, by, *([now_ms] if run else []), *place, tick.due_ms),
        ).rowcount
        if moved:
            return True, True
        query = "SELECT 1 FROM timetable WHERE scope = ? AND name = ? AND edit = ? AND fired_by = ? AND last_due_ms >= ?"
        return sql.execute(query, (*place, by, tick.due_ms)).fetchone() is not None, False

    def _wake(self, processes: list[str], queues: Sequence[int]) -> None:
        while processes:
            gone = [process for process in processes if not self._post.wake(self._database.identity, process)]
            if not gone:
                return
            with self._database as sql:
                sql.executemany("DELETE FROM idle WHERE process = ?", [(process,) for process in gone])
                processes = baton.choose(sql, queues, self.now_ms())

    # --- the lead ---

    def lead(self, name: str, lease_ms: int) -> Lead:
        with self._database as sql:
            now_ms = self.now_ms()
            row = sql.execute("SELECT name, until_ms FROM leaders WHERE scope = ?", (self._scope,)).fetchone()
            # an end beyond the lease: the clock was set back
            alive = row is not None and now_ms < row[1] <= now_ms + max(lease_ms, 60_000)
            leader = row[0] if alive else name
            until_ms = row[1] if alive and leader != name else now_ms + lease_ms
            if leader == name:
                row = (self._scope, name, until_ms)
                sql.execute("INSERT OR REPLACE INTO leaders (scope, name, until_ms) VALUES (?, ?, ?)", row)
            version = self._last_edit(sql)
        return Lead(leader == name, leader == name and not alive, until_ms - now_ms, version, now_ms, leader)

    def resign(self, name: str) -> None:
        with self._database as sql:
            sql.execute("DELETE FROM leaders WHERE scope = ? AND name = ?", (self._scope, name))

    def leader(self) -> str:
        rows = self._database.read("SELECT name FROM leaders WHERE scope = ? AND until_ms > ?", (self._scope, self.now_ms()))
        return str(rows[0][0]) if rows else ""

    def wait(self, timeout_s: float, interrupt: int) -> bool:
        """There is nothing to wait for in a file: it is looked at, and read when it has changed."""
        deadline = time.monotonic() + timeout_s
        while True:
            version = self._database.data_version()
            if version != self._version:
                self._version = version
                ((edit, leader),) = self._database.read(
                    "SELECT (SELECT max(edit) FROM timetable WHERE scope = ?), (SELECT name FROM leaders WHERE scope = ?)",
                    (self._scope, self._scope),
                )
                seen = (edit or 0, leader or "")
                if seen != self._seen:
                    self._seen = seen
                    return True
            left_s = deadline - time.monotonic()
            if left_s <= 0 or select.select([interrupt], [], [], min(left_s, LOOK_S))[0]:
                return False

    def close(self) -> None:
        self._post.close()
        self._database.shut()


def planned(row: tuple[str, bytes | None, int, int, int, int, int, int]) -> Planned:
    """Return a row of ``COLUMNS`` as an entry."""
    name, definition, due_ms, paused, edit, last_due_ms, last_run_ms, runs = row
    return Planned(name, definition or b"", due_ms, bool(paused), edit, last_due_ms, last_run_ms, runs)
