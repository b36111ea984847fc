"""What is paused, as the hash ``paused`` says it, and the messages parked for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastq import _core
from fastq.exceptions import EnvelopeError
from fastq.records import Paused
from fastq.transports.base import PARKED_MS
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import Keys, QueueKeys
from fastq.transports.redis.scripts import script

__all__ = ["change", "count", "held_field", "look", "parked_field", "queue_field", "read", "task_field", "unpark"]

#: parked messages looked at in one step
STEP = 500


def queue_field(queue: str) -> str:
    return f"q:{queue}"


def task_field(task: str) -> str:
    return f"t:{task}"


def held_field(queue: str) -> str:
    return f"h:{queue}"


def parked_field(queue: str) -> str:
    return f"p:{queue}"


def read(reply: Sequence[bytes]) -> Paused:
    """Read the fields of the hash."""
    fields = {name.decode(): value for name, value in zip(reply[0::2], reply[1::2], strict=True)}

    def times(kind: str) -> dict[str, int]:
        return {name[2:]: int(value) for name, value in fields.items() if name.startswith(kind)}

    held = frozenset(name[2:] for name in fields if name.startswith("h:"))
    return Paused(int(fields.get("#", 0)), times("q:"), times("t:"), times("r:"), held)


def look(connection: Connection, keys: Keys) -> Paused:
    """Return what is paused."""
    return read(connection.call([("HGETALL", keys.paused)])[0])


def change(
    connection: Connection, keys: Keys, pausing: bool, queues: Sequence[str], tasks: Sequence[str], lost: Sequence[str] = ()
) -> Paused:
    """Pause or resume."""
    of_queues = [key for queue in queues for key in (keys.queue(queue).idle, keys.queue(queue).leases)]
    fields = [*map(queue_field, queues), *map(task_field, tasks), *map(parked_field, lost)]
    return read(connection.run(script("pause"), (keys.paused, *of_queues), (int(pausing), keys.wake_prefix, *fields)))


def unpark(connection: Connection, keys: Keys) -> bool:
    """Take one step in each held queue."""
    held = look(connection, keys).held
    commands = []
    for queue in sorted(held):
        at = keys.queue(queue)
        own = (keys.paused, at.delayed, at.idle, at.leases, at.levels, *at.ready)
        commands.append((script("unpark"), len(own), *own, keys.wake_prefix, held_field(queue), STEP))
    return any(connection.call(commands)) if commands else False


def count(connection: Connection, keys: QueueKeys) -> dict[str, int]:
    """Count what is parked, by task name."""
    counts: dict[str, int] = {}
    for members in _parked(connection, keys):
        for name in map(_name, members):
            counts[name] = counts.get(name, 0) + 1
    return counts


def _parked(connection: Connection, keys: QueueKeys) -> Iterator[list[bytes]]:
    """Yield the parked members of a queue, the newest first. Each has a place of its own, so none is passed over."""
    below = "+inf"
    while True:
        reply: list[Any] = connection.call([("ZREVRANGEBYSCORE", keys.delayed, below, PARKED_MS, "WITHSCORES", "LIMIT", 0, STEP)])[
            0
        ]
        members = reply[0::2]
        if members:
            yield members
        if len(members) < STEP:
            return
        below = f"({int(float(reply[-1]))}"


def _name(member: bytes) -> str:
    try:
        return _core.peek(member[2 + member[1] :]).name
    except EnvelopeError:
        return ""  # no task has this name
