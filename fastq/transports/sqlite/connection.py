"""One connection to the file: opening, transactions, waiting for the write lock, and what a fork must not see.

**Lock.** SQLite's own busy handler sleeps 1, 2, 5, ... 100 ms, so under load the unlucky starve. The wait here starts at 0.1 ms and
stays short. ``time.sleep`` also lets other greenlets run where it is patched.

**Fork.** SQLite keeps one table of open files per process and takes its POSIX locks once for all connections to a file. A fork
copies that table but not the locks: a connection that the child opens then believes in locks that it does not hold, and the next
process to close its last connection removes the WAL under the child. So every connection of this process is closed before a fork,
inside the lock of its owner (no transaction is cut), and opened again at its next use, on both sides.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from fastq import patience
from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.transports.sqlite import schema
from fastq.transports.sqlite.errors import busy, explain
from fastq.transports.sqlite.url import Target

__all__ = ["Connection"]

T = TypeVar("T")

logger = logging.getLogger("fastq.transports")

#: seconds; the first wait for the write lock: about the length of a small transaction
FIRST_WAIT_S = 0.0001
#: seconds; the longest: a large transaction (500 settlements with results) takes about 3 ms
LONGEST_WAIT_S = 0.002
#: pages of 4 KiB after which a commit moves the WAL into the file (16 MiB): an fsync per some 20,000 tasks, not per 2,000
CHECKPOINT_PAGES = 4000
#: RETURNING, and row values in upserts
OLDEST_SQLITE = (3, 35)

_open: weakref.WeakSet[Connection] = weakref.WeakSet()
_gate = threading.RLock()


class Connection:
    """A connection that opens itself. ``with connection as sql:`` is one BEGIN IMMEDIATE transaction.

    Any thread may use it; they take turns. sqlite3's errors leave it as fastq's.
    """

    def __init__(self, target: Target, *, timeout_s: float) -> None:
        self.path = target.path
        self.lock = threading.RLock()
        #: of the file (dev, inode) and of the store in it, once open
        self.file: tuple[int, int] | None = None
        self.identity = ""
        self._synchronous = target.synchronous
        self._timeout_s = timeout_s
        #: how long the last step could wait for others: less where its caller was in a hurry
        self._waits_s = timeout_s
        self._sql: sqlite3.Connection | None = None
        self._writing = False
        #: a transaction has been committed: what fails from now on was in order once
        self._wrote = False
        #: called when what was learned from the file may not hold: opened anew (perhaps another file), or rolled back
        self.on_reset: Callable[[], object] = _nothing
        with _gate:
            _open.add(self)

    # --- transactions ---

    def __enter__(self) -> sqlite3.Connection:
        self.lock.acquire()
        if self._writing:
            # Rolling back would undo what the interrupted caller has done so far.
            self.lock.release()
            raise OperationalError(f"{self.path} is being written by the code that this call interrupts (a signal handler?).")
        self._writing = True
        try:
            sql = self.opened()
            self._patiently(lambda: sql.execute("BEGIN IMMEDIATE"))
            return sql
        except BaseException as error:
            self._undo(error)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            try:
                if self._sql is not None:
                    self._sql.execute("COMMIT")
                self._writing = False
                self._wrote = True
                self.lock.release()
            except BaseException as failure:
                self._undo(failure)
                raise
        else:
            self._undo(error)

    def _undo(self, error: BaseException) -> None:
        """Roll back, let the next caller in, and say what happened in fastq's words."""
        try:
            if self._sql is not None and self._sql.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._sql.rollback()
            self.on_reset()
        finally:
            self._writing = False
            self.lock.release()
        if isinstance(error, sqlite3.Error):
            # A file that may be read only is opened like any other, and is a wrong setting all the same.
            raise explain(error, self.path, self._waits_s, worked=self._wrote) from error

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of one query outside of any transaction."""
        with self.lock:
            try:
                sql = self.opened()
                return self._patiently(lambda: sql.execute(statement, values).fetchall())
            except sqlite3.Error as error:
                raise explain(error, self.path, self._waits_s, worked=self.file is not None) from error

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed (2 us)."""
        return int(self.read("PRAGMA data_version")[0][0])

    # --- opening and closing ---

    def opened(self) -> sqlite3.Connection:
        """Return the connection, opened if need be, and again if the file was removed or replaced meanwhile."""
        if self._sql is not None:
            try:
                seen = os.stat(self.path)
            except FileNotFoundError:
                pass
            else:
                if (seen.st_dev, seen.st_ino) == self.file:
                    return self._sql
            # Two actors: someone removes the file; a producer makes a new one. Whoever kept the old one open would share
            # nothing with it, and not notice.
            logger.warning(
                "%s was removed or replaced: going on with what is there now; what was in the other file stays in it", self.path
            )
            self.shut()
        self._sql = self._open()
        seen = os.stat(self.path)
        self.file = (seen.st_dev, seen.st_ino)
        self.identity = self._sql.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()[0]
        self.on_reset()
        return self._sql

    def _open(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ImproperlyConfigured(
                f"SQLite {sqlite3.sqlite_version} is too old for the embedded broker: 3.35 or newer is needed."
            )
        # Each owner's lock keeps threads apart, so the module's own check is not needed.
        sql = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._patiently(lambda: self._prepare(sql))
        except BaseException:
            sql.close()
            raise
        return sql

    def _prepare(self, sql: sqlite3.Connection) -> None:
        # First look whose file it is: setting the journal mode writes to it.
        version = schema.check(sql, self.path)
        (mode,) = sql.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ImproperlyConfigured(
                f"{self.path} cannot be shared by processes (SQLite's WAL is not available, journal mode is {mode!r}): "
                "use a local disk, not a network file system."
            )
        sql.execute(f"PRAGMA synchronous = {self._synchronous}")
        sql.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        sql.execute("PRAGMA journal_size_limit = 67108864")
        sql.execute("PRAGMA temp_store = MEMORY")
        sql.execute("PRAGMA trusted_schema = OFF")
        if version < schema.VERSION:
            schema.create(sql, self.path)

    def _patiently(self, step: Callable[[], T]) -> T:
        self._waits_s = round(patience.limit_s(self._timeout_s), 1)
        deadline = time.monotonic() + self._waits_s
        wait_s = FIRST_WAIT_S
        while True:
            try:
                return step()
            except sqlite3.Error as error:
                if not busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(wait_s * 1.5, LONGEST_WAIT_S)

    def shut(self) -> None:
        """Close what is open; the next use opens again. The last connection to a file moves its WAL into it."""
        with self.lock:
            sql, self._sql = self._sql, None
            if sql is not None:
                with contextlib.suppress(sqlite3.Error):
                    sql.close()

    def __del__(self) -> None:
        # Python 3.13 warns of connections that nobody closed; here every one is closed with its owner.
        sql = getattr(self, "_sql", None)
        if sql is not None:
            with contextlib.suppress(sqlite3.Error):
                sql.close()


def _nothing() -> None:
    pass


_gated: list[Connection] = []


def _before_fork() -> None:
    _gate.acquire()
    for connection in list(_open):
        connection.lock.acquire()
        _gated.append(connection)
        connection.shut()


def _after_fork() -> None:
    while _gated:
        _gated.pop().lock.release()
    _gate.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
