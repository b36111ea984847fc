"""Look into queues on Redis and clean them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastq._core import unpackb
from fastq.exceptions import DecodeError
from fastq.records import DeadLetter, Revival, Swept
from fastq.transports.base import TransportOptions
from fastq.transports.redis import pausing
from fastq.transports.redis.address import parse
from fastq.transports.redis.broker import RedisBroker
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import LEVELS, Keys
from fastq.transports.redis.purging import Purge
from fastq.transports.redis.scripts import script
from fastq.transports.redis.sweeping import Sweep

__all__ = ["RedisInspector"]

#: keys per SCAN step
SCAN = 1000

#: dead letters and results of theirs that one call moves or drops
STEP = 200

#: bytes of a message that count as one more
MESSAGE = 10_000

#: dead letters read in one call: each has a traceback, and a message of any size
READ = 50


class RedisInspector:
    """An Inspector on one Redis server."""

    def __init__(self, url: str, options: TransportOptions) -> None:
        self.address = parse(url, options.extra)
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

    def delayed(self, queue: str, n: int, offset: int = 0) -> list[tuple[int, int, bytes]]:
        if n <= 0:
            return []
        reply = self._connection.call([("ZRANGE", self.keys.queue(queue).delayed, offset, offset + n - 1, "WITHSCORES")])[0]
        # a member: level digit, length of the nonce as one byte, nonce, message
        return [(due_ms, member[0] - 48, member[2 + member[1] :]) for member, due_ms in _scored(reply)]

    def purge(self, queue: str) -> int:
        return Purge(self._connection, self.keys, self._broker, queue).run()

    def revoke_waiting(self, queue: str, ids: Iterable[str], *, results: bool = True, most: int = 100_000) -> Swept:
        return Sweep(self._connection, self.keys, self._broker, queue, results=results, most=most).run(ids)

    def parked(self, queue: str) -> dict[str, int]:
        return pausing.count(self._connection, self.keys.queue(queue))

    def dead(self, queue: str, *, limit: int = 100, offset: int = 0, before: DeadLetter | None = None) -> list[DeadLetter]:
        if limit <= 0:
            return []
        names = self._names(queue, limit, offset) if before is None else self._older(queue, limit, offset, before)
        letters: list[DeadLetter] = []
        for start in range(0, len(names), READ):
            step = names[start : start + READ]
            records = self._connection.call([("HMGET", self.keys.queue(queue).dead_messages, *[name for name, _ in step])])[0]
            letters += [
                _letter(queue, name, record, place)
                for (name, place), record in zip(step, records, strict=True)
                if record is not None
            ]
        if names and not letters:
            # All of them have gone between the two looks: [] would say that there are no more.
            return self.dead(queue, limit=limit, before=DeadLetter(names[-1][0].decode(), queue, b"", "", 0, place=names[-1][1]))
        return letters

    def _names(self, queue: str, limit: int, offset: int) -> list[tuple[bytes, int]]:
        dead = self.keys.queue(queue).dead
        return _scored(self._connection.call([("ZREVRANGE", dead, offset, offset + limit - 1, "WITHSCORES")])[0])

    def _older(self, queue: str, limit: int, offset: int, before: DeadLetter) -> list[tuple[bytes, int]]:
        """Two batches can bury at one microsecond: of those with the same score the greater name comes first."""
        dead, last = self.keys.queue(queue).dead, (before.place, before.key.encode())
        older: list[tuple[bytes, int]] = []
        at = 0
        while len(older) < offset + limit:
            step = _scored(
                self._connection.call(
                    [("ZREVRANGEBYSCORE", dead, before.place, "-inf", "WITHSCORES", "LIMIT", at, offset + limit)]
                )[0]
            )
            older += [(name, place) for name, place in step if (place, name) < last]
            at += len(step)
            if len(step) < offset + limit:
                break
        return older[offset : offset + limit]

    def retry_dead(
        self, queue: str, names: Iterable[str], *, changes: Mapping[str, Revival] | None = None, to: str | None = None
    ) -> int:
        source, target, changes = self.keys.queue(queue), self.keys.queue(to or queue), changes or {}
        moved = 0
        for step in _bounded(dict.fromkeys(names), changes):
            letters: list[str | bytes] = []
            results: list[str] = []
            owners: list[Any] = []
            for number, name in enumerate(step, 1):
                change = changes.get(name, Revival())
                letters += (name, change.message or b"")
                for id in change.forget:
                    key, is_hash = self.keys.result(id)
                    results.append(key)
                    owners += (number, "h" if is_hash else "s", id)
            moved += self._connection.run(
                script("retry_dead"),
                (source.dead, source.dead_messages, target.idle, target.levels, *target.ready, *results),
                (self.keys.wake_prefix, len(step), *letters, *owners),
            )
        return moved

    def delete_dead(self, queue: str, names: Iterable[str]) -> int:
        keys = self.keys.queue(queue)
        return sum(
            self._connection.run(script("delete_dead"), (keys.dead, keys.dead_messages), step)
            for step in _bounded(names, {})
        )

    def close(self) -> None:
        self._connection.close()
        self._broker.close()


def _bounded(names: Iterable[str], changes: Mapping[str, Revival]) -> Iterator[list[str]]:
    """Split into steps of bounded size; a letter with very many results to be forgotten makes one of its own."""
    step: list[str] = []
    weight = 0
    for name in names:
        change = changes.get(name)
        own = 1 if change is None else 1 + len(change.forget) + len(change.message or b"") // MESSAGE
        if step and weight + own > STEP:
            yield step
            step, weight = [], 0
        step.append(name)
        weight += own
    if step:
        yield step


def _scored(reply: list[bytes]) -> list[tuple[bytes, int]]:
    return [(name, int(float(score))) for name, score in zip(reply[0::2], reply[1::2], strict=True)]


def _letter(queue: str, name: bytes, record: bytes, place: int) -> DeadLetter:
    """Read what the script ``bury`` wrote: "<died at (ms)>:<level>:<length of head>:" head message."""
    dead_ms, _, size, rest = record.split(b":", 3)
    head, message = rest[: int(size)], rest[int(size) :]
    reason, detail = _head(head)
    return DeadLetter(name.decode(), queue, message, reason, int(dead_ms), detail, place)


def _head(head: bytes) -> tuple[str, dict[str, object]]:
    try:
        reason, packed, *_ = unpackb(head)
        detail: Any = unpackb(packed) if packed else {}
    except (DecodeError, TypeError, ValueError):
        return "unreadable", {}
    return str(reason), detail if isinstance(detail, dict) else {"detail": detail}
