"""Look into the queues of an SQLite file and clean them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from fastq.ending import kept_join
from fastq.records import DeadLetter, Revival, Swept
from fastq.transports.base import TransportOptions
from fastq.transports.sqlite import baton, dead, joins, pausing, places, purging, results, revocations
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.mail import Post
from fastq.transports.sqlite.schema import MIDDLE, bounds
from fastq.transports.sqlite.url import Target

__all__ = ["SQLiteInspector"]


class SQLiteInspector:
    """``Inspector`` on one file."""

    def __init__(self, target: Target, options: TransportOptions) -> None:
        self.url = target.url
        self._database = Connection(target, timeout_s=options.socket_timeout_s)
        self._post = Post()
        self._results = results.Results(options.result_expires_s)

    def queues(self) -> list[str]:
        rows = self._database.read(
            "SELECT name FROM queues WHERE tail > ? OR EXISTS (SELECT 1 FROM delayed WHERE queue = no)"
            " OR EXISTS (SELECT 1 FROM dead WHERE queue = no) ORDER BY name",
            (MIDDLE,),
        )
        return [name for (name,) in rows]

    def depth(self, queue: str) -> dict[str, int]:
        no = self._no(queue)
        counts = {
            "ready": ("SELECT count(*) FROM ready WHERE key BETWEEN ? AND ?", bounds(no)),
            "delayed": ("SELECT count(*) FROM delayed WHERE queue = ?", (no,)),
            "leased": ("SELECT count(*) FROM leased WHERE key BETWEEN ? AND ?", bounds(no)),
            "dead": ("SELECT count(*) FROM dead WHERE queue = ?", (no,)),
        }
        return {name: int(self._database.read(*query)[0][0]) for name, query in counts.items()}

    def listeners(self, queue: str) -> list[str]:
        rows = self._database.read(
            "SELECT process FROM leases WHERE queue = ? AND beat > 0 AND gone_ms = 0 ORDER BY process", (self._no(queue),)
        )
        return [process for (process,) in rows]

    def peek(self, queue: str, n: int) -> list[bytes]:
        rows = self._database.read(
            "SELECT message FROM ready WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?", (*bounds(self._no(queue)), n)
        )
        return [message for (message,) in rows]

    def delayed(self, queue: str, n: int, offset: int = 0) -> list[tuple[int, int, bytes]]:
        return [
            (int(due_ms), int(level), message)
            for due_ms, level, message in self._database.read(
                "SELECT due_ms, level, message FROM delayed WHERE queue = ? ORDER BY due_ms, id LIMIT ? OFFSET ?",
                (self._no(queue), n, offset),
            )
        ]

    def purge(self, queue: str) -> int:
        purge = purging.Purge(self._no(queue))
        purged = 0
        while True:
            with self._database as sql:
                now_ms = time.time_ns() // 1_000_000
                step = purge.step(sql, now_ms, self._results)
                wakes = baton.choose(sql, step.touched, now_ms)
            self._wake(wakes)
            results.tell(self._database, self._post, step.told, now_ms)
            purged += step.purged
            if not step.more:
                return purged

    def revoke_waiting(self, queue: str, ids: Iterable[str], *, results: bool = True, most: int = 100_000) -> Swept:
        writer = self._results if results else None
        return revocations.Sweep(self._database, self._post, self._no(queue), writer, most).run(ids)

    def parked(self, queue: str) -> dict[str, int]:
        with self._database as sql:
            return pausing.count(sql, self._no(queue))

    def dead(self, queue: str, *, limit: int = 100, offset: int = 0, before: DeadLetter | None = None) -> list[DeadLetter]:
        return dead.letters(self._database, queue, self._no(queue), limit, offset, None if before is None else before.place)

    def retry_dead(
        self, queue: str, keys: Iterable[str], *, changes: Mapping[str, Revival] | None = None, to: str | None = None
    ) -> int:
        changes = changes or {}
        with self._database as sql:
            letters = dead.take(sql, self._no(queue), keys, "id, level, reason, message")
            touched = []
            if letters:
                touched = [places.queue_no(sql, to or queue)]
                revived = []
                for key, level, reason, message in letters:
                    change = changes.get(str(key), Revival())
                    # A new message: what it was charged with is forgotten.
                    revived.append((level, change.message or (message[2:] if message[:1] == b"\xc1" else message)))
                    if (join := kept_join(reason, message)) is not None:
                        joins.keep(sql, join)
                    results.forget_failures(sql, change.forget)
                places.append(sql, touched[0], revived)
            wakes = baton.choose(sql, touched, time.time_ns() // 1_000_000)
        self._wake(wakes)
        return len(letters)

    def delete_dead(self, queue: str, keys: Iterable[str]) -> int:
        with self._database as sql:
            return dead.delete(sql, self._no(queue), keys, time.time_ns() // 1_000_000)

    def erase(self, queue: str, producer: str) -> None:
        """Remove every trace of a queue and of the producer that sent to it. Only for names that no other process has ever
        used: others keep the number of a queue in memory, and it is given again."""
        no = self._no(queue)
        with self._database as sql:
            for table in ("ready", "leased"):
                sql.execute(f"DELETE FROM {table} WHERE key BETWEEN ? AND ?", bounds(no))
            for table in ("delayed", "dead", "leases", "idle"):
                sql.execute(f"DELETE FROM {table} WHERE queue = ?", (no,))
            joins.discard(sql, queue)
            sql.execute("DELETE FROM producers WHERE name = ?", (producer,))
            sql.execute("DELETE FROM queues WHERE no = ?", (no,))

    def _wake(self, processes: Iterable[str]) -> None:
        for process in processes:
            # Whoever is gone is found by the next renewal.
            self._post.wake(self._database.identity, process)

    def close(self) -> None:
        self._post.close()
        self._database.shut()

    def _no(self, queue: str) -> int:
        """Return a queue's number, 0 for one that was never mentioned: nothing has that number."""
        rows = self._database.read("SELECT no FROM queues WHERE name = ?", (queue,))
        return int(rows[0][0]) if rows else 0
