"""What a key is, judged by its name: its kind, its queue, the type it must have and whether it must expire. See ``keys``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fastq.transports.redis.keys import Keys

__all__ = ["KINDS", "Kind", "Place", "expected_types", "place"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What all keys of one kind have in common."""

    type: str
    #: must: it has one whenever it is there. never: with one, messages or leases would vanish. may: some do
    ttl: Literal["must", "never", "may"]


#: kind -> what it is. Results have a TTL unless ``result_expires`` says for ever
KINDS = {
    "ready": Kind("list", "never"),
    "levels": Kind("set", "never"),
    "delayed": Kind("zset", "never"),
    "leased": Kind("hash", "never"),
    "leases": Kind("zset", "never"),
    "idle": Kind("zset", "never"),
    "dead": Kind("zset", "must"),
    "dead:messages": Kind("hash", "must"),
    "from": Kind("string", "must"),
    "join": Kind("hash", "may"),
    "results": Kind("hash", "must"),
    "result": Kind("string", "must"),
    "revoked": Kind("zset", "must"),
    "terminated": Kind("zset", "must"),
    "paused": Kind("hash", "never"),
    "rate": Kind("string", "must"),
    "nodes": Kind("hash", "must"),
    "nodes:until": Kind("zset", "must"),
    "listeners": Kind("zset", "must"),
    "events": Kind("stream", "must"),
    "timetable:entries": Kind("hash", "never"),
    "timetable:states": Kind("hash", "never"),
    "timetable:edits": Kind("zset", "never"),
    "timetable:leader": Kind("string", "must"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key belongs."""

    kind: str
    queue: str = ""
    #: the process, producer or join in its name
    owner: str = ""

    @property
    def of(self) -> Kind:
        return KINDS[self.kind]


def place(keys: Keys, name: str) -> Place | None:
    """Say what a key is; None: fastq makes none of that name."""
    if not name.startswith(keys.prefix):
        return None
    queue = keys.queue_of(name)
    if queue is not None:
        rest = name[len(keys.queue(queue).base) :]
        kind, mark, owner = rest.partition(":")
        if rest in ("levels", "delayed", "leases", "idle", "dead", "dead:messages"):
            return Place(rest, queue)
        if kind == "ready" and re.fullmatch("[0-9]", owner):
            return Place(kind, queue)
        if kind in ("leased", "from", "join") and mark and owner:
            return Place(kind, queue, owner)
        return None
    if name in (keys.revoked, keys.terminated, keys.paused, keys.nodes, keys.nodes_until, keys.listeners, keys.events):
        return Place(name[len(keys.prefix) :])
    kind, mark, owner = name[len(keys.prefix) :].partition(":")
    if kind == "timetable":
        scope, mark, part = owner.rpartition(":")
        return Place(f"{kind}:{part}", owner=scope) if mark and scope and f"{kind}:{part}" in KINDS else None
    if kind == "results":
        return Place(kind) if re.fullmatch("[0-9a-fA-F]{9}", owner) else None
    if kind in ("result", "rate") and mark and owner:
        return Place(kind)
    return None


def expected_types(keys: Keys, queue: str) -> Iterator[tuple[str, str]]:
    """Return the keys of a queue that every worker of it uses, each with its type."""
    names = keys.queue(queue)
    yield from ((name, "list") for name in names.ready)
    yield from ((names.levels, "set"), (names.delayed, "zset"), (names.leases, "zset"), (names.idle, "zset"))
    yield from ((names.dead, "zset"), (names.dead_messages, "hash"), (keys.revoked, "zset"))
    yield from ((keys.terminated, "zset"), (keys.paused, "hash"))
