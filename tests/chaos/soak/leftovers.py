"""What a soak has left in the broker when every task has ended and every node has stopped."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.chaos.soak.fleet import Fleet
from tests.chaos.soak.workload import SIDE, app

__all__ = ["left_on_redis", "left_on_sqlite"]

#: without a TTL: the dead letters of a queue, which expire one by one, and what is sent when
OWNED = ("dead", "dead:messages", "timetable")


def left_on_redis(fleet: Fleet) -> tuple[dict[str, int], list[str]]:
    """Return how many keys of each kind are left, and those that nobody owns."""
    assert fleet.server is not None
    kinds: Counter[str] = Counter()
    strays: list[str] = []
    prefix = app.conf.key_prefix
    with contextlib.closing(fleet.server.client()) as client:
        for raw in client.scan_iter("*", count=1000):
            key = raw.decode(errors="replace")
            if not key.startswith(prefix):
                strays.append(f"{key}: not fastq's")
                continue
            # fastq:{queue}:kind:... or fastq:kind:...
            kind = key.removeprefix(prefix).rpartition("}:")[2]
            kind = kind if kind in OWNED else kind.split(":")[0]
            expires = client.ttl(raw) >= 0
            kinds[f"{kind}{' (expires)' if expires else ''}"] += 1
            if not expires and kind not in OWNED:
                strays.append(f"{key} has no TTL: {_contents(client, raw)}")
        for queue in ("default", SIDE):
            dead, messages = (client.zcard(f"{prefix}{{{queue}}}:dead"), client.hlen(f"{prefix}{{{queue}}}:dead:messages"))
            if dead != messages:
                strays.append(f"{queue}: {dead} dead letters but {messages} messages of such")
    return dict(kinds), strays


def _contents(client: Any, key: bytes) -> str:
    kind = client.type(key).decode()
    read: dict[str, Callable[[], object]] = {
        "zset": lambda: client.zrange(key, 0, 5, withscores=True),
        "hash": lambda: list(client.hscan_iter(key))[:5],
        "list": lambda: client.lrange(key, 0, 2),
        "set": lambda: client.smembers(key),
        "string": lambda: client.get(key),
    }
    return f"{kind} {read[kind]()!r:.400}" if kind in read else kind


def left_on_sqlite(fleet: Fleet) -> tuple[dict[str, int], list[str]]:
    """Return how many rows of each table are left, and those that nobody owns."""
    strays: list[str] = []
    with contextlib.closing(sqlite3.connect(fleet.folder / "fastq.db")) as sql:

        def rows(text: str) -> int:
            return int(sql.execute(f"SELECT count(*) FROM {text}").fetchone()[0])

        named = sql.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'").fetchall()
        tables = [name for (name,) in named]
        kinds = {name: rows(name) for name in tables}
        for what in (
            "ready", "delayed", "leased", "idle", "leases WHERE gone_ms = 0", "joins WHERE expires_ms IS NULL",
            "members WHERE joined NOT IN (SELECT no FROM joins)", "results WHERE expires_ms IS NULL",
        ):  # fmt: skip
            if n := rows(what):
                strays.append(f"{n} rows of {what}")
    return kinds, strays
