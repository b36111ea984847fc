"""Results on Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from fastq import patience
from fastq.exceptions import OperationalError
from fastq.records import Joined, StoredResult
from fastq.transports.base import Broker, TransportOptions
from fastq.transports.redis.address import parse
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.channel import RedisInbox
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import Keys
from fastq.transports.redis.limits import CALL_BYTES, CALL_MESSAGES
from fastq.transports.redis.packing import array_bytes, notice
from fastq.transports.redis.scripts import script
from fastq.transports.redis.settling import INBOX_RECORD, Ttl

__all__ = ["RedisBackend"]

#: seconds within which a call on a connection fails that was closed while nobody used it; a server that is silent takes longer
STALE_S = 1.0

#: steps of a thousand members that are read in one round trip
JOIN_STEPS = 8


class RedisBackend:
    """A Backend on one Redis server. One connection, opened at the first call; calls of several threads take turns."""

    def __init__(self, url: str, options: TransportOptions) -> None:
        self.address = parse(url, options.extra)
        self.url = self.address.display
        self.keys = Keys(options.prefix)
        self.options = options
        self._ttl = Ttl(options.result_expires_s)
        self._connection = Connection(self.address, options, "backend")
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<RedisBackend {self.url}>"

    def shares(self, broker: Broker) -> bool:
        return (
            isinstance(broker, RedisBroker)
            and broker.address.shares(self.address)
            and broker.keys.prefix == self.keys.prefix
        )

    def store(self, results: Sequence[StoredResult], *, final: bool = True) -> None:
        groups: dict[str, list[StoredResult]] = {}
        for result in results:
            groups.setdefault(self.keys.result(result.id)[0], []).append(result)
        commands: list[tuple[Any, ...]] = []
        size = 0
        for key, items in groups.items():
            for chunk in _chunks(items):
                commands.append(self._store_command(key, chunk, final))
                size += sum(len(result.record) for result in chunk)
                if size > CALL_BYTES:
                    self._call(commands)
                    commands, size = [], 0
        self._call(commands)

    def _store_command(self, key: str, results: list[StoredResult], final: bool) -> tuple[Any, ...]:
        slot = key.startswith(self.keys.slot_prefix)
        waiting: dict[str, tuple[list[int], list[Any]]] = {}
        for index, result in enumerate(results):
            if result.inbox:
                places, notices = waiting.setdefault(result.inbox, ([], []))
                places.append(index)
                notices += (result.id, result.record if len(result.record) <= INBOX_RECORD else None)
        return (
            *(script("store"), 1, key, "h" if slot else "s", self._ttl.slot_s if slot else self._ttl.single_s, int(final)),
            len(results),
            *[word for result in results for word in (result.id, result.record)],
            *[
                word
                for name, (places, notices) in waiting.items()
                for word in (self.keys.inbox(name), array_bytes(places), notice(notices))
            ],
        )

    def get(self, ids: Sequence[str]) -> list[bytes | None]:
        slots: dict[str, list[int]] = {}
        singles: list[tuple[str, int]] = []
        for index, task_id in enumerate(ids):
            key, is_slot = self.keys.result(task_id)
            if is_slot:
                slots.setdefault(key, []).append(index)
            else:
                singles.append((key, index))
        commands: list[tuple[Any, ...]] = []
        places: list[list[int]] = []
        for key, indexes in slots.items():
            for start in range(0, len(indexes), CALL_MESSAGES):
                step = indexes[start : start + CALL_MESSAGES]
                commands.append(("HMGET", key, *[ids[index] for index in step]))
                places.append(step)
        for start in range(0, len(singles), CALL_MESSAGES):
            some = singles[start : start + CALL_MESSAGES]
            commands.append(("MGET", *[key for key, _ in some]))
            places.append([index for _, index in some])
        found: list[bytes | None] = [None] * len(ids)
        # A few commands a round trip: the answers are not bounded by what was asked.
        for start in range(0, len(commands), 64):
            replies = self._call(commands[start : start + 64])
            for step, records in zip(places[start : start + 64], replies, strict=True):
                for index, record in zip(step, records, strict=True):
                    found[index] = record
        return found

    def forget(self, ids: Sequence[str]) -> None:
        slots: dict[str, list[str]] = {}
        singles: list[str] = []
        for task_id in ids:
            key, is_slot = self.keys.result(task_id)
            if is_slot:
                slots.setdefault(key, []).append(task_id)
            else:
                singles.append(key)
        commands: list[tuple[Any, ...]] = []
        for key, names in slots.items():
            commands += [("HDEL", key, *names[start : start + CALL_MESSAGES]) for start in range(0, len(names), CALL_MESSAGES)]
        commands += [("UNLINK", *singles[start : start + CALL_MESSAGES]) for start in range(0, len(singles), CALL_MESSAGES)]
        self._call(commands)

    def joined(self, queue: str, join: str) -> Joined | None:
        """Read the members in steps: what a closed join holds does not change any more."""
        key = self.keys.queue(queue).join(join)
        size, grown, failed, failed_id = self._call([("HMGET", key, "size", "grown", "failed", "failed_id")])[0]
        if size is None:
            return None
        fields: list[Any] = [f".{member}" for member in range(int(size))]
        if grown is not None:
            first = set(fields)
            added = [name for name in self._call([("HKEYS", key)])[0] if name[:1] == b"." and name.decode() not in first]
            fields += sorted(added)
        records: list[bytes | None] = []
        commands = [("HMGET", key, *fields[start : start + CALL_MESSAGES]) for start in range(0, len(fields), CALL_MESSAGES)]
        for start in range(0, len(commands), JOIN_STEPS):
            for some in self._call(commands[start : start + JOIN_STEPS]):
                records += some
        total = int(size) + int(grown or 0)
        records += [None] * (total - len(records))
        if failed is None:
            return Joined(total, records)
        record = self._call([("HGET", key, failed)])[0]
        return Joined(total, records, (failed_id.decode(), record or b""))

    def inbox(self, name: str) -> RedisInbox:
        return RedisInbox(self.address, self.options, self.keys.inbox(name))

    def close(self) -> None:
        with self._turn:
            self._connection.close()

    def _call(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        if not commands:
            return []
        if patience.deadline() is None:
            self._turn.acquire()
        elif not self._turn.acquire(timeout=patience.limit_s(threading.TIMEOUT_MAX)):
            raise OperationalError(f"Redis at {self.url} has not answered another thread, which uses the connection.")
        try:
            connection = self._connection
            began_s = time.monotonic()
            was_open = connection.is_open
            try:
                return connection.call(commands)
            except OperationalError:
                if not was_open or time.monotonic() - began_s > STALE_S:
                    raise
                # The server had closed it since it was last used, most likely. All calls of a backend may be made again.
                return connection.call(commands)
        finally:
            self._turn.release()


def _chunks(results: list[StoredResult]) -> list[list[StoredResult]]:
    chunks: list[list[StoredResult]] = [[]]
    size = 0
    for result in results:
        if chunks[-1] and (len(chunks[-1]) >= CALL_MESSAGES or size + len(result.record) > CALL_BYTES):
            chunks.append([])
            size = 0
        chunks[-1].append(result)
        size += len(result.record)
    return chunks
