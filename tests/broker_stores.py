"""The stores of the three transports, seen raw: what is in them, time moved on in them, and a release cut off half-way.

Only for ``broker_machine``. Nothing here goes through the code under test, except that ``advance`` of the memory store is its own.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastq.exceptions import OperationalError
from fastq.transports import memory
from fastq.transports.sqlite import leases as sqlite_leases
from fastq.transports.sqlite.schema import bounds, level_of

__all__ = ["HOUR_MS", "MemoryView", "RedisView", "SQLiteView", "Store", "View"]

#: time moves in hours, so that real time does not matter
HOUR_MS = 3_600_000
LEVELS = range(10)
_numbers = itertools.count(1)


@dataclass
class View:
    """Everything that a store holds of some queues."""

    #: queue -> level -> messages, the next one first
    ready: dict[str, dict[int, list[bytes]]] = field(default_factory=dict)
    #: queue -> (due at (ms), level, message), the next one first
    delayed: dict[str, list[tuple[int, int, bytes]]] = field(default_factory=dict)
    #: (queue, process) -> tag -> message, in the order in which they were leased
    leased: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    #: (queue, process) -> value; "0": condemned
    leases: dict[tuple[str, str], str] = field(default_factory=dict)


class Store:
    """One store, empty."""

    name = ""
    url = ""
    #: a fetch goes through its queues one by one: it may lease in the first before it is refused by the second
    stepwise = False
    #: what is given back in one step stands in the order of its age, not in that of its leases
    by_age = False
    #: a release has steps
    steps = True

    def view(self, queues: tuple[str, ...]) -> View:
        raise NotImplementedError

    def advance(self) -> None:
        """Let an hour pass."""
        raise NotImplementedError

    def now_ms(self) -> int | None:
        """Return the time if it is this store's own; None: it is real, and what is due is moved instead."""
        return None

    def leftovers(self) -> list[str]:
        """Name everything that would stay for ever."""
        raise NotImplementedError

    @contextmanager
    def interrupted(self, broker: Any, steps: int, *, reply: bool) -> Iterator[None]:
        """Cut a release off after some steps; ``reply``: one step more is carried out, and its reply is lost."""
        yield

    def close(self) -> None:
        pass


def _failing(real: Callable[..., Any], steps: int, reply: bool) -> Callable[..., Any]:
    calls = itertools.count()

    def run(*args: Any, **kwargs: Any) -> Any:
        if (call := next(calls)) >= steps:
            if reply and call == steps:
                real(*args, **kwargs)
            raise OperationalError("cut off")
        return real(*args, **kwargs)

    return run


class RedisView(Store):
    name, stepwise = "redis", True

    def __init__(self, url: str, client: Any) -> None:
        self.url = url
        self._client = client
        client.flushall()

    def view(self, queues: tuple[str, ...]) -> View:
        view = View()
        for queue in queues:
            base = f"fastq:{{{queue}}}:"
            pipe = self._client.pipeline(transaction=True)
            for level in LEVELS:
                pipe.lrange(f"{base}ready:{level}", 0, -1)
            pipe.smembers(f"{base}levels")
            pipe.zrange(f"{base}delayed", 0, -1, withscores=True)
            pipe.zrange(f"{base}leases", 0, -1, withscores=True)
            pipe.keys(f"{base}leased:*")
            *ready, levels, delayed, leases, leased = pipe.execute()
            view.ready[queue] = {level: messages for level, messages in zip(LEVELS, ready, strict=True) if messages}
            unseen = set(view.ready[queue]) - {0} - {int(level) for level in levels}
            assert not unseen, f"levels {unseen} of {queue} hold messages that no fetch would see"
            view.delayed[queue] = [(int(due), member[0] - 48, member[2 + member[1] :]) for member, due in delayed]
            for process, beat in leases:
                view.leases[queue, process.decode()] = f"{beat:.0f}"
            for key in leased:
                held = {tag.decode(): message for tag, message in self._client.hgetall(key).items() if tag != b"#"}
                oldest = sorted(held, key=lambda tag: tuple(map(int, tag.split(":")[1:])))
                view.leased[queue, key.decode().removeprefix(f"{base}leased:")] = {tag: held[tag] for tag in oldest}
        return view

    def advance(self) -> None:
        for kind in ("delayed", "idle"):
            for key in self._client.keys(f"fastq:*:{kind}"):
                for member, due in self._client.zrange(key, 0, -1, withscores=True):
                    if due < 1e15:
                        self._client.zadd(key, {member: due - HOUR_MS})

    def leftovers(self) -> list[str]:
        return [key.decode() for key in self._client.scan_iter() if self._client.ttl(key) == -1]

    @contextmanager
    def interrupted(self, broker: Any, steps: int, *, reply: bool) -> Iterator[None]:
        connection = broker._connection
        connection.run = _failing(connection.run, steps, reply)
        try:
            yield
        finally:
            del connection.run

    def close(self) -> None:
        self._client.flushall()


class SQLiteView(Store):
    name, by_age = "sqlite", True

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"laws-{next(_numbers)}.db"
        self.url = f"sqlite:///{self.path}"
        self._sql: sqlite3.Connection | None = None

    @property
    def sql(self) -> sqlite3.Connection:
        """A connection of its own, once a broker has made the tables."""
        if self._sql is None:
            self._sql = sqlite3.connect(self.path, isolation_level=None)
        return self._sql

    def view(self, queues: tuple[str, ...]) -> View:
        view = View()
        self.sql.execute("BEGIN")
        numbers = dict(self.sql.execute("SELECT no, name FROM queues"))
        for queue in queues:
            view.ready[queue], view.delayed[queue] = {}, []
        for no, queue in numbers.items():
            waiting = self.sql.execute("SELECT key, message FROM ready WHERE key BETWEEN ? AND ? ORDER BY key", bounds(no))
            for key, message in waiting:
                view.ready[queue].setdefault(level_of(key), []).append(message)
            for key, process, message in self.sql.execute(
                "SELECT key, process, message FROM leased WHERE key BETWEEN ? AND ? ORDER BY number, key", bounds(no)
            ):
                view.leased.setdefault((queue, process), {})[str(key)] = message
        for no, due_ms, level, message in self.sql.execute("SELECT queue, due_ms, level, message FROM delayed ORDER BY due_ms, id"):
            view.delayed[numbers[no]].append((due_ms, level, message))
        for no, process, beat in self.sql.execute("SELECT queue, process, beat FROM leases WHERE gone_ms = 0"):
            view.leases[numbers[no], process] = str(beat)
        self.sql.execute("COMMIT")
        return view

    def advance(self) -> None:
        self.sql.execute("UPDATE delayed SET due_ms = due_ms - ?", (HOUR_MS,))
        self.sql.execute("UPDATE idle SET due_ms = due_ms - ? WHERE due_ms > 0", (HOUR_MS,))

    def leftovers(self) -> list[str]:
        tables = ("ready", "leased", "delayed", "idle", "dead", "missed", "joins", "members", "buckets")
        found = [table for table in tables if self.sql.execute(f"SELECT 1 FROM {table}").fetchone()]
        if self.sql.execute("SELECT 1 FROM leases WHERE gone_ms = 0").fetchone():
            found.append("leases")
        if self.sql.execute("SELECT 1 FROM results WHERE expires_ms IS NULL").fetchone():
            found.append("results")
        return found

    @contextmanager
    def interrupted(self, broker: Any, steps: int, *, reply: bool) -> Iterator[None]:
        # A step is a transaction: its reply cannot be lost.
        real = sqlite_leases.release
        sqlite_leases.release = _failing(real, steps, False)
        try:
            yield
        finally:
            sqlite_leases.release = real

    def close(self) -> None:
        if self._sql is not None:
            self._sql.close()
        for ending in ("", "-wal", "-shm"):
            Path(f"{self.path}{ending}").unlink(missing_ok=True)


class MemoryView(Store):
    name, steps = "memory", False

    def __init__(self) -> None:
        self._name = f"laws-{next(_numbers)}"
        self.url = f"memory://{self._name}"
        memory.store(self._name).clock = lambda: 1_700_000_000.0

    @property
    def store(self) -> Any:
        return memory.store(self._name)

    def view(self, queues: tuple[str, ...]) -> View:
        view = View()
        for name in queues:
            queue = self.store.queue(name)
            view.ready[name] = {level: list(queue.ready[level]) for level in LEVELS if queue.ready[level]}
            view.delayed[name] = [(due_ms, level, message) for due_ms, _, level, message in sorted(queue.delayed)]
            for process, held in queue.leased.items():
                view.leased[name, process] = {tag: one.message for tag, one in held.items()}
            for process, lease in queue.leases.items():
                if not lease.gone:
                    view.leases[name, process] = str(lease.beat)
        return view

    def advance(self) -> None:
        self.store.advance(HOUR_MS)

    def now_ms(self) -> int | None:
        return int(self.store.now_ms())

    def leftovers(self) -> list[str]:
        found = []
        for name, queue in self.store.queues.items():
            for kind in ("delayed", "idle", "dead"):
                if getattr(queue, kind):
                    found.append(f"{name}.{kind}")
            if len(queue) or any(queue.leased.values()):
                found.append(f"{name}.messages")
            if any(not lease.gone for lease in queue.leases.values()):
                found.append(f"{name}.leases")
        return found

    def close(self) -> None:
        memory.reset(self._name)
