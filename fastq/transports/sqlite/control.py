"""The Channel in one file: what is said lies there as letters, and a datagram says so; nodes and events are tables."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence

from fastq.exceptions import OperationalError
from fastq.transports.base import TransportOptions
from fastq.transports.channel import Beat, NodeRecord
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.mail import Post, Receiver
from fastq.transports.sqlite.url import Target

__all__ = ["SQLiteChannel", "SQLiteEar"]

#: the topic of all nodes; a name that a client gives itself is never empty
EVERY_NODE = ""
#: ms; a letter that its ear has not taken by then is for nobody
LETTER_MS = 60_000
#: seconds between two looks into the file while an ear waits: only a letter whose sender died before its datagram is found so
LOOK_S = 0.5
#: seconds between two looks of a reader of events: such a look is a query of about 20 us
EVENTS_LOOK_S = 0.025


class SQLiteChannel:
    """``Channel`` on one file."""

    def __init__(self, target: Target, options: TransportOptions) -> None:
        self.url = target.url
        self.path = target.path
        self._database = Connection(target, timeout_s=options.socket_timeout_s)
        self._post = Post()

    def __repr__(self) -> str:
        return f"<SQLiteChannel {self.url}>"

    # --- control ---

    def broadcast(self, message: bytes) -> int:
        return self._say(EVERY_NODE, message)

    def ear(self, node: str) -> SQLiteEar:
        return SQLiteEar(self._database, self._post, EVERY_NODE)

    def reply(self, to: str, payload: bytes) -> None:
        if to:
            self._say(to, payload)

    def replies(self, name: str) -> SQLiteEar:
        return SQLiteEar(self._database, self._post, name)

    def _say(self, topic: str, message: bytes) -> int:
        """Leave a letter for each ear. One whose socket is gone has died without closing, and is forgotten with its letters."""
        if not self._database.read("SELECT 1 FROM ears WHERE topic = ? LIMIT 1", (topic,)):
            return 0
        now_ms = _now_ms()
        with self._database as sql:
            ears = [socket for (socket,) in sql.execute("SELECT socket FROM ears WHERE topic = ?", (topic,)).fetchall()]
            sql.executemany(
                "INSERT INTO letters (socket, said_ms, message) VALUES (?, ?, ?)", [(ear, now_ms, message) for ear in ears]
            )
            sql.execute("DELETE FROM letters WHERE said_ms < ?", (now_ms - LETTER_MS,))
        dead = [ear for ear in ears if not self._post.letter(self._database.identity, ear)]
        if dead:
            with self._database as sql:
                _forget(sql, dead)
        return len(ears) - len(dead)

    # --- nodes ---

    def beat(self, node: str, info: bytes, expires_ms: int) -> Beat:
        now_ms = _now_ms()
        with self._database as sql:
            sql.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?)", (node, now_ms, now_ms + expires_ms, info))
            sql.execute("DELETE FROM nodes WHERE expires_ms <= ?", (now_ms,))
            sql.execute("DELETE FROM listeners WHERE expires_ms <= ?", (now_ms,))
            sql.execute("DELETE FROM letters WHERE said_ms < ?", (now_ms - LETTER_MS,))
            _expire_events(sql, now_ms)
            listened = sql.execute("SELECT 1 FROM listeners LIMIT 1").fetchone()
        return Beat(now_ms, listened is not None)

    def leave(self, node: str) -> None:
        with self._database as sql:
            sql.execute("DELETE FROM nodes WHERE name = ?", (node,))

    def nodes(self) -> dict[str, NodeRecord]:
        now_ms = _now_ms()
        rows = self._database.read("SELECT name, info, said_ms FROM nodes WHERE expires_ms > ? ORDER BY name", (now_ms,))
        return {name: NodeRecord(info, max(0, now_ms - said_ms)) for name, info, said_ms in rows}

    # --- events ---

    def send_events(self, batches: Sequence[bytes], *, keep: int, expires_s: int) -> None:
        if not batches:
            return
        now_ms = _now_ms()
        with self._database as sql:
            _expire_events(sql, now_ms)
            sql.executemany(
                "INSERT INTO events (expires_ms, batch) VALUES (?, ?)", [(now_ms + expires_s * 1000, batch) for batch in batches]
            )
            sql.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (keep,))

    def events(self, after: str, timeout_s: float, n: int = 1000) -> list[tuple[str, bytes]]:
        position = int(after) if after else self._last()
        deadline = time.monotonic() + timeout_s
        while True:
            rows = self._database.read("SELECT id, batch FROM events WHERE id > ? ORDER BY id LIMIT ?", (position, n))
            if rows:
                return [(str(number), batch) for number, batch in rows]
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return [] if after else [(str(position), b"")]
            time.sleep(min(left_s, EVENTS_LOOK_S))

    def _last(self) -> int:
        """Return the number of the newest batch there ever was."""
        found = self._database.read("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(found[0][0]) if found else 0

    def listen(self, name: str, expires_s: float) -> None:
        with self._database as sql:
            if expires_s > 0:
                sql.execute("INSERT OR REPLACE INTO listeners VALUES (?, ?)", (name, _now_ms() + round(expires_s * 1000)))
            else:
                sql.execute("DELETE FROM listeners WHERE name = ?", (name,))

    def listened(self) -> bool:
        return bool(self._database.read("SELECT 1 FROM listeners WHERE expires_ms > ? LIMIT 1", (_now_ms(),)))

    def close(self) -> None:
        self._post.close()
        self._database.shut()


class SQLiteEar:
    """``Ear`` on a datagram socket with a name of its own: two nodes that call themselves the same both hear."""

    def __init__(self, database: Connection, post: Post, topic: str) -> None:
        self._database = database
        self._post = post
        self._topic = topic
        self._socket = f"ear:{secrets.token_hex(8)}"
        self._receiver = Receiver(self._socket)
        self._identity = ""

    def __repr__(self) -> str:
        return f"<SQLiteEar {self._topic or 'of a node'} in {self._database.path}>"

    def open(self) -> None:
        self._database.data_version()  # any reading call opens the file, and opens it again if it was replaced
        if self._identity != self._database.identity:
            self._receiver.close()
        self._identity = self._database.identity
        self._receiver.open(self._identity)
        with self._database as sql:
            others = [socket for (socket,) in sql.execute("SELECT socket FROM ears").fetchall()]
            # Who was killed while waiting for answers is written to by nobody any more, so it is looked for here.
            _forget(sql, [ear for ear in others if ear != self._socket and not self._post.letter(self._identity, ear)])
            sql.execute("INSERT OR REPLACE INTO ears VALUES (?, ?)", (self._socket, self._topic))

    def fileno(self) -> int:
        return self._receiver.fileno()

    def read(self, timeout_s: float | None) -> list[bytes]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            while self._receiver.receive() is not None:
                pass
            if messages := self._letters():
                return messages
            left_s = LOOK_S if deadline is None else min(LOOK_S, deadline - time.monotonic())
            if left_s <= 0:
                return []
            self._receiver.wait(left_s)

    def _letters(self) -> list[bytes]:
        if not self._database.read("SELECT 1 FROM letters WHERE socket = ? LIMIT 1", (self._socket,)):
            self._same_file()
            return []
        with self._database as sql:
            rows = sql.execute("DELETE FROM letters WHERE socket = ? RETURNING id, message", (self._socket,)).fetchall()
        return [message for _, message in sorted(rows)]

    def _same_file(self) -> None:
        if self._identity != self._database.identity:
            raise OperationalError(f"{self._database.path} was replaced by another file: nobody knows this ear there.")

    def check(self) -> None:
        self._receiver.fileno()
        found = self._database.read("SELECT 1 FROM ears WHERE socket = ?", (self._socket,))
        self._same_file()
        if not found:
            raise OperationalError(f"{self._database.path} does not know this ear any more: nothing is said to it.")

    def close(self) -> None:
        if not self._receiver.is_open:
            return
        self._receiver.close()
        if not os.path.exists(self._database.path):
            return  # a transaction would make it
        with contextlib.suppress(OperationalError), self._database as sql:
            _forget(sql, [self._socket])


def _forget(sql: sqlite3.Connection, ears: Iterable[str]) -> None:
    names = [(ear,) for ear in ears]
    sql.executemany("DELETE FROM ears WHERE socket = ?", names)
    sql.executemany("DELETE FROM letters WHERE socket = ?", names)


def _expire_events(sql: sqlite3.Connection, now_ms: int) -> None:
    """Drop all once the newest has expired."""
    sql.execute("DELETE FROM events WHERE (SELECT expires_ms FROM events ORDER BY id DESC LIMIT 1) <= ?", (now_ms,))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
