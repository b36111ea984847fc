"""Results in SQLite."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from fastq.records import Joined, StoredResult
from fastq.transports.base import Broker, TransportOptions
from fastq.transports.sqlite import joins, results
from fastq.transports.sqlite.broker import SQLiteBroker
from fastq.transports.sqlite.channels import SQLiteInbox
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.mail import Post
from fastq.transports.sqlite.url import Target

__all__ = ["SQLiteBackend"]

#: ids of one query; a shorter list is filled up with NULLs to the next size, so that few statements have to be prepared
SIZES = (1, 16, 500)


class SQLiteBackend:
    """``Backend`` on one file. Several threads take turns at its connection."""

    def __init__(self, target: Target, options: TransportOptions) -> None:
        self.url = target.url
        self.path = target.path
        self._target = target
        self._timeout_s = options.socket_timeout_s
        self._database = Connection(target, timeout_s=self._timeout_s)
        self._results = results.Results(options.result_expires_s)
        self._post = Post()

    def shares(self, broker: Broker) -> bool:
        if not isinstance(broker, SQLiteBroker):
            return False
        try:
            return os.path.samefile(self.path, broker.path)
        except OSError:
            # Not made yet.
            return os.path.realpath(self.path) == os.path.realpath(broker.path)

    def store(self, results_: Sequence[StoredResult], *, final: bool = True) -> None:
        if not results_:
            return
        now_ms = time.time_ns() // 1_000_000
        with self._database as sql:
            self._results.write(sql, [(result.id, result.record) for result in results_], now_ms, final=final)
        results.tell(self._database, self._post, [(result.inbox, result.id, result.record) for result in results_], now_ms)

    def get(self, ids: Sequence[str]) -> list[bytes | None]:
        found: dict[str, bytes] = {}
        now_ms = time.time_ns() // 1_000_000
        for some in _batches(ids):
            marks = ",".join("?" * len(some))
            found.update(
                self._database.read(
                    f"SELECT id, record FROM results WHERE (expires_ms IS NULL OR expires_ms > ?) AND id IN ({marks})",
                    [now_ms, *some],
                )
            )
        return [found.get(id) for id in ids]

    def forget(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        with self._database as sql:
            sql.executemany("DELETE FROM results WHERE id = ?", [(id,) for id in ids])

    def joined(self, queue: str, join: str) -> Joined | None:
        return joins.load(self._database, queue, join, time.time_ns() // 1_000_000)

    def inbox(self, name: str) -> SQLiteInbox:
        return SQLiteInbox(self._target, name, timeout_s=self._timeout_s)

    def close(self) -> None:
        self._post.close()
        self._database.shut()


def _batches(ids: Sequence[str]) -> list[list[str | None]]:
    batches: list[list[str | None]] = []
    for start in range(0, len(ids), SIZES[-1]):
        some: list[str | None] = list(ids[start : start + SIZES[-1]])
        size = next(size for size in SIZES if size >= len(some))
        batches.append(some + [None] * (size - len(some)))
    return batches
