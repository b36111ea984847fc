"""Turns of rate limits: taken from a bucket, remembered with the message that waits for one, and recalled when the limit changes.

A delayed message that waits for a turn has the name of its bucket in front of its nonce, between the bytes 1 and 0.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastq.transports.base import PARKED_MS
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import Keys
from fastq.transports.redis.limits import CALL_BYTES
from fastq.transports.redis.scripts import script

__all__ = ["recall", "remembered", "reserve"]

#: messages that one step looks at: some 1 ms of the server
STEP = 1_000
#: bytes of a bucket's name that can be remembered: all of the nonce are counted by one byte
BUCKET_BYTES = 200


def reserve(connection: Connection, key: str, n: int, period_us: int, burst: int) -> list[int]:
    """Take turns; return in how many ms each is, rounded up: a turn is never early."""
    if n <= 0:
        return []
    period_us, burst = max(period_us, 1), max(burst, 1)
    lead_us = connection.run(script("reserve"), (key,), (n, period_us))
    return [max(0, -(-(lead_us + (turn - burst + 1) * period_us) // 1000)) for turn in range(n)]


def remembered(bucket: bytes | None) -> bytes:
    """Return what stands in front of the nonce of a message that waits for a turn of a bucket."""
    if not bucket:
        return b""
    if len(bucket) > BUCKET_BYTES or b"\0" in bucket:
        raise ValueError(f"bucket {bucket[:40]!r}...: its name must have {BUCKET_BYTES} bytes at most, and no NUL")
    return b"\1%b\0" % bucket


def recall(
    connection: Connection, keys: Keys, queue: str, limit: str, kept: str, left: Collection[str], place: str
) -> tuple[int, str]:
    """Make one step; ``place`` is where it goes on: a due time, a space, and how many of that time are passed over."""
    here = keys.queue(queue)
    due, _, over = place.partition(" ")
    words = (here.delayed, here.idle, here.levels, *here.ready)
    numbers = (keys.wake_prefix, limit, kept, due or f"({PARKED_MS}", over or 0, STEP, CALL_BYTES)

    def step(look: int) -> tuple[Any, ...]:
        return script("recall"), len(words), *words, *numbers, look

    # First a look, for the names of the buckets, which go before what they have let wait: a call that is repeated after a lost
    # answer would not find those names any more.
    answer = connection.call([step(1)])[0]
    names = {*map(bytes.decode, answer[3:]), *(() if place else left)} - {kept}
    commands: list[tuple[Any, ...]] = [("DEL", *map(keys.rate, sorted(names)))] if names else []
    if answer[0]:
        answer = connection.call([*commands, step(0)])[-1]
    elif commands:
        connection.call(commands)
    moved, due_left, over_left = answer[:3]
    return moved, f"{due_left.decode()} {over_left}" if due_left else ""
