"""Look into queues on Redis and clean them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from fastq._core import unpackb
from fastq.exceptions import DecodeError
from fastq.records import DeadLetter, Swept
from fastq.transports.base import TransportOptions
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.connection import Connection, parse
from fastq.transports.redis.keys import LEVELS, Keys
from fastq.transports.redis.purging import Purge
from fastq.transports.redis.scripts import script
from fastq.transports.redis.sweeping import Sweep

__all__ = ["RedisInspector"]

#: keys per SCAN step
SCAN = 1000

#: dead letters moved or dropped per call
STEP = 100


class RedisInspector:
    """An Inspector on one Redis server."""

    def __init__(self, url: str, options: TransportOptions) -> None:
        self.address = parse(url)
        self.url = self.address.display
        self.keys = Keys(options.prefix)
        self._connection = Connection(self.address, options, "inspector")
        #: ends what a purge may not just drop
        self._broker = RedisBroker(url, options)

    def __repr__(self) -> str:
        return f"<RedisInspector {self.url}>"

    def queues(self) -> list[str]:
        """SCAN the prefix: O(keys of the database), in bounded steps."""
        found: set[str] = set()
        cursor = b"0"
        while True:
            cursor, names = self._connection.call([("SCAN", cursor, "MATCH", self.keys.every(), "COUNT", SCAN)])[0]
            found.update(queue for name in names if (queue := self.keys.queue_of(name.decode(errors="replace"))) is not None)
            if cursor == b"0":
                return sorted(found)

    def depth(self, queue: str) -> dict[str, int]:
        keys = self.keys.queue(queue)
        replies = self._connection.call(
            [
                *[("LLEN", ready) for ready in keys.ready],
                *(("ZCARD", keys.delayed), ("ZCARD", keys.dead), ("ZRANGE", keys.leases, 0, -1)),
            ]
        )
        leased = 0
        if processes := [process.decode() for process in replies[-1]]:
            holding = [keys.leased(process) for process in processes]
            answers = self._connection.call([word for key in holding for word in (("HLEN", key), ("HEXISTS", key, "#"))])
            leased = sum(answers[0::2]) - sum(answers[1::2])
        return {"ready": sum(replies[:LEVELS]), "delayed": replies[LEVELS], "leased": leased, "dead": replies[LEVELS + 1]}

    def listeners(self, queue: str) -> list[str]:
        found = self._connection.call([("ZRANGEBYSCORE", self.keys.queue(queue).leases, "(0", "+inf")])[0]
        return [name.decode() for name in found]

    def peek(self, queue: str, n: int) -> list[bytes]:
        messages: list[bytes] = []
        for ready in reversed(self.keys.queue(queue).ready):
            if len(messages) >= n:
                break
            messages += self._connection.call([("LRANGE", ready, 0, n - len(messages) - 1)])[0]
        return messages

    def purge(self, queue: str) -> int:
        return Purge(self._connection, self.keys, self._broker, queue).run()

    def revoke_waiting(self, queue: str, ids: Iterable[str], *, results: bool = True, most: int = 100_000) -> Swept:
        return Sweep(self._connection, self.keys, self._broker, queue, results=results, most=most).run(ids)

    def dead(self, queue: str, *, limit: int = 100, offset: int = 0) -> list[DeadLetter]:
        keys = self.keys.queue(queue)
        if limit <= 0:
            return []
        names = self._connection.call([("ZREVRANGE", keys.dead, offset, offset + limit - 1)])[0]
        letters: list[DeadLetter] = []
        for start in range(0, len(names), STEP):
            step = names[start : start + STEP]
            records = self._connection.call([("HMGET", keys.dead_messages, *step)])[0]
            letters += [_letter(queue, name, record) for name, record in zip(step, records, strict=True) if record is not None]
        return letters

    def retry_dead(self, queue: str, names: Iterable[str]) -> int:
        keys = self.keys.queue(queue)
        moved = 0
        for step in _steps(dict.fromkeys(names)):
            moved += self._connection.run(
                script("retry_dead"),
                (keys.dead, keys.dead_messages, keys.idle, keys.levels, *keys.ready),
                (self.keys.wake_prefix, *step),
            )
        return moved

    def delete_dead(self, queue: str, names: Iterable[str]) -> int:
        keys = self.keys.queue(queue)
        deleted = 0
        for step in _steps(names):
            # The record goes first: an entry without one is not shown, and expires.
            deleted += self._connection.call([("HDEL", keys.dead_messages, *step), ("ZREM", keys.dead, *step)])[0]
        return deleted

    def close(self) -> None:
        self._connection.close()
        self._broker.close()


def _steps(names: Iterable[str]) -> Iterable[list[str]]:
    left = iter(names)
    while step := list(islice(left, STEP)):
        yield step


def _letter(queue: str, name: bytes, record: bytes) -> DeadLetter:
    """Read what the script ``bury`` wrote: "<died at (ms)>:<level>:<length of head>:" head message."""
    dead_ms, _, size, rest = record.split(b":", 3)
    head, message = rest[: int(size)], rest[int(size) :]
    reason, detail = _head(head)
    return DeadLetter(name.decode(), queue, message, reason, int(dead_ms), detail)


def _head(head: bytes) -> tuple[str, dict[str, object]]:
    try:
        reason, packed = unpackb(head)
        detail: Any = unpackb(packed) if packed else {}
    except (DecodeError, TypeError, ValueError):
        return "unreadable", {}
    return str(reason), detail if isinstance(detail, dict) else {"detail": detail}
