"""One queue on Redis as it is at a moment, and what is wrong with its keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fastq.transports.base import Finding, TransportOptions
from fastq.transports.judging import DELIVERIES, PROCESSES, QueueSeen, counted, judge, sent_ms
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import LEVELS, Keys

__all__ = ["Look", "findings", "look", "worth_another_look"]

#: what a second look may show to have been on its way
_FLEETING = frozenset({"ownerless-entry", "stranded-messages"})

_LEVELS = frozenset(str(level) for level in range(LEVELS))


@dataclass(slots=True)
class Look:
    """What the keys of a queue hold."""

    keys: Keys
    seen: QueueSeen
    ready: list[int] = field(default_factory=lambda: [0] * LEVELS)
    levels: set[str] = field(default_factory=set)
    idle: list[str] = field(default_factory=list)
    #: names in one of the two keys of dead letters only
    dead_unmatched: list[str] = field(default_factory=list)


def look(connection: Connection, keys: Keys, queue: str, limit: int) -> Look:
    """Read one queue: a few round trips. ``limit``: dead letters whose names are compared at most."""
    names = keys.queue(queue)
    seen = QueueSeen(queue)
    found = Look(keys, seen)
    replies = connection.call(
        [
            ("TIME",),
            *[("LLEN", ready) for ready in names.ready],
            ("SMEMBERS", names.levels),
            ("ZCARD", names.delayed),
            ("ZRANGE", names.delayed, 0, 0, "WITHSCORES"),
            ("ZRANGE", names.leases, 0, -1, "WITHSCORES"),
            ("ZRANGE", names.idle, 0, -1),
            ("ZCARD", names.dead),
            ("HLEN", names.dead_messages),
        ]
    )
    seconds, us = replies[0]
    seen.now_ms = int(seconds) * 1000 + int(us) // 1000
    found.ready = replies[1 : 1 + LEVELS]
    seen.ready = sum(found.ready)
    levels, seen.delayed, due, leases, idle, seen.dead, records = replies[1 + LEVELS :]
    found.levels = {level.decode(errors="replace") for level in levels}
    seen.due_ms = float(due[1]) if due else 0
    seen.leases = {leases[i].decode(errors="replace"): float(leases[i + 1]) for i in range(0, len(leases), 2)}
    found.idle = [process.decode(errors="replace") for process in idle]
    if seen.dead != records and seen.dead + records <= limit:
        listed, kept = connection.call([("ZRANGE", names.dead, 0, -1), ("HKEYS", names.dead_messages)])
        found.dead_unmatched = sorted(name.decode(errors="replace") for name in set(listed) ^ set(kept))
    heads = connection.call([("LINDEX", ready, 0) for ready in names.ready])
    seen.oldest_ms = min((sent for head in heads if head is not None and (sent := sent_ms(head))), default=0)
    _read_holders(connection, keys, seen)
    return found


def _read_holders(connection: Connection, keys: Keys, seen: QueueSeen) -> None:
    """Read how many deliveries each process has, and which of them were sent long ago."""
    processes = list(seen.leases)
    if not processes:
        return
    hashes = [keys.queue(seen.queue).leased(process) for process in processes]
    answers = connection.call([word for key in hashes for word in (("HLEN", key), ("HEXISTS", key, "#"))])
    seen.holds = {process: answers[2 * i] - answers[2 * i + 1] for i, process in enumerate(processes)}
    for process, key in list(zip(processes, hashes, strict=True))[:PROCESSES]:
        if 0 < seen.holds[process] <= DELIVERIES:
            for message in connection.call([("HGETALL", key)])[0][1::2]:
                seen.note_old(process, message)


def worth_another_look(finding: Finding) -> bool:
    """Say whether this may have been something on its way between two keys."""
    return finding.code in _FLEETING


def findings(found: Look, options: TransportOptions, *, declared: bool, paused: bool = False) -> Iterator[Finding]:
    """Say what is wrong. Pure. ``declared``, ``paused``: see ``judging.judge``."""
    yield from judge(found.seen, options, declared=declared, paused=paused)
    yield from _levels(found)
    yield from _entries(found)


def _levels(found: Look) -> Iterator[Finding]:
    """Find levels where nothing waits, and lists that no fetch looks at."""
    names = found.keys.queue(found.seen.queue)
    for level in sorted(found.levels):
        if level not in _LEVELS or not found.ready[int(level)]:
            yield Finding(
                "warning",
                "ownerless-entry",
                f"{names.levels} {level}",
                f"level {level} is noted as in use, and nothing waits there: each fetch looks in vain",
                "run fastq doctor --fix; a live worker's next fetch removes it too",
            )
    for number in range(1, LEVELS):
        if found.ready[number] and str(number) not in found.levels:
            yield Finding(
                "error",
                "stranded-messages",
                names.ready[number],
                f"level {number} is not noted as in use, so no fetch looks there: {counted(found.ready[number], 'message')}",
                "run fastq doctor --fix, which notes it",
            )


def _entries(found: Look) -> Iterator[Finding]:
    """Find entries that belong to nobody."""
    names = found.keys.queue(found.seen.queue)
    for process in found.idle:
        if process not in found.seen.leases:
            yield Finding(
                "warning",
                "ownerless-entry",
                f"{names.idle} {process}",
                f"the process {process} is registered as idle and has no lease: it costs one wake in vain",
                "run fastq doctor --fix; the next wake removes it too",
            )
    for name in found.dead_unmatched[:10]:
        yield Finding(
            "warning",
            "ownerless-entry",
            f"{names.dead} {name}",
            f"dead letter {name} is only in one of {names.dead} and {names.dead_messages}: it is not shown",
            "run fastq doctor --fix: a record without an entry is shown again, an entry without a record goes",
        )
