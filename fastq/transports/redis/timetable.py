"""A timetable on Redis. What is atomic happens in the scripts."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import Any

from fastq.exceptions import OperationalError
from fastq.transports.base import TransportOptions
from fastq.transports.redis.address import parse
from fastq.transports.redis.channel import RedisWake
from fastq.transports.redis.connection import Connection
from fastq.transports.redis.keys import Keys, checked_level
from fastq.transports.redis.limits import CALL_BYTES, CALL_MESSAGES
from fastq.transports.redis.scripts import script
from fastq.transports.timetable import Edit, Lead, Listing, Planned, Tick

__all__ = ["RedisTimetable"]

#: names of removed entries that are remembered
REMOVED = 1_000
#: edits of one call
EDITS = 200
#: a clock that goes wrong by a second in this many is taken for granted
DRIFT = 1_000


class RedisTimetable:
    """``Timetable`` on one Redis server: one connection for calls, and one that listens while it waits."""

    def __init__(self, url: str, options: TransportOptions, scope: str) -> None:
        self.address = parse(url, options.extra)
        self.url = self.address.display
        self.keys = Keys(options.prefix)
        self._connection = Connection(self.address, options, "beat")
        self._entries, self._states, self._edits, self._leader, self._notice = (
            self.keys.timetable(scope, part) for part in ("entries", "states", "edits", "leader", "notice")
        )
        self._heard = RedisWake(self.address, options, self._notice)
        self._listens = False
        #: the server's clock minus this machine's, ms; None: never seen
        self._offset_ms: float | None = None
        #: by how much that may be wrong, s, and when it was seen
        self._doubt_s = 0.0
        self._seen_at = 0.0

    def __repr__(self) -> str:
        return f"<RedisTimetable {self.url}>"

    def now_ms(self) -> int:
        if self._offset_ms is None:
            self._connect()
        return int(time.time() * 1000 + (self._offset_ms or 0.0))

    def _connect(self) -> None:
        """Open the connection apart from what is asked then: connecting takes long, and nothing is learned of the clocks by it."""
        if not self._connection.is_open:
            self._connection.clock_ms()
            self._offset_ms = None
            sent = time.time()
            self._see(self._connection.clock_ms(), sent)

    def _see(self, server_ms: int, sent: float) -> None:
        """Learn the offset of the clocks, unless this answer took so much longer than an earlier one that it tells less."""
        now = time.time()
        doubt_s = (now - sent) / 2
        if self._offset_ms is None or not 0 <= now - self._seen_at < (doubt_s - self._doubt_s) * DRIFT:
            self._offset_ms = server_ms - (sent + now) * 500.0
            self._doubt_s, self._seen_at = doubt_s, now

    # --- entries ---

    def entries(self, since: int = 0) -> Listing:
        words = ("since", since) if since else ("",)
        version, total, found, removed = self._read(*words)
        return Listing(int(version), total, found, [name.decode() for name in removed])

    def get(self, names: Sequence[str]) -> list[Planned | None]:
        if not names:
            return []
        by_name = {plan.name: plan for plan in self._read("names", *names)[2]}
        return [by_name.get(name) for name in names]

    def _read(self, *words: Any) -> tuple[bytes, int, list[Planned], list[bytes]]:
        keys = (self._entries, self._states, self._edits)
        version, total, found, removed = self._connection.run(script("read_timetable"), keys, words)
        plans = [_planned(name, definition, state) for name, definition, state in zip(*[iter(found)] * 3, strict=True)]
        return version, total, plans, removed

    def edit(self, edits: Sequence[Edit]) -> list[int]:
        numbers: list[int] = []
        keys = (self._entries, self._states, self._edits)
        for start in range(0, len(edits), EDITS):
            words: list[Any] = [self._notice, REMOVED]
            for edit in edits[start : start + EDITS]:
                has = edit.definition is not None
                words += (edit.name, "d" if has else "", edit.definition if has else "", _or_empty(edit.due_ms))
                words += ("" if edit.paused is None else int(edit.paused), _or_empty(edit.seen), "r" if edit.remove else "")
            numbers += self._connection.run(script("edit_timetable"), keys, words)
        return numbers

    # --- ticks ---

    def fire(self, by: str, ticks: Sequence[Tick]) -> list[bool]:
        fired: list[bool] = []
        for batch in _batches(ticks):
            sent = time.time()
            reply = self._connection.call([self._command(by, batch)])[0]
            self._see(reply[0], sent)
            fired += [bool(one) for one in reply[1:]]
        return fired

    def _command(self, by: str, ticks: Sequence[Tick]) -> tuple[Any, ...]:
        queues: dict[str, int] = {}
        touched: list[set[str]] = []
        words: list[Any] = []
        delayed = False
        for tick in ticks:
            words += (tick.name, tick.edit, tick.due_ms, tick.next_due_ms, len(tick.publications))
            for one in tick.publications:
                level = checked_level(one.level)
                queue = queues.setdefault(one.queue, len(queues))
                if queue == len(touched):
                    touched.append(set())
                late = bool(one.due_ms) or one.delay_ms > 0
                delayed = delayed or late
                touched[queue].add("d" if late else str(level))
                delay_ms = one.delay_ms if late and not one.due_ms else ""
                words += (queue, level, delay_ms, one.due_ms, one.message)
        keys = [self._states]
        for name in queues:
            queue_keys = self.keys.queue(name)
            keys += (queue_keys.idle, queue_keys.levels, queue_keys.delayed, *queue_keys.ready)
        nonce = os.urandom(6).hex() if delayed else ""
        head = (by, self.keys.wake_prefix, nonce, len(queues), *["".join(sorted(one)) for one in touched])
        return (script("tick"), len(keys), *keys, *head, *words)

    # --- the lead ---

    def lead(self, name: str, lease_ms: int) -> Lead:
        self._connect()
        sent = time.time()
        leader, taken, left_ms, version, now_ms = self._connection.run(
            script("lead"), (self._leader, self._edits), (name, max(lease_ms, 1))
        )
        self._see(now_ms, sent)
        who = leader.decode()
        return Lead(who == name, bool(taken), max(left_ms, 0), int(version), now_ms, who)

    def resign(self, name: str) -> None:
        self._connection.run(script("resign"), (self._leader,), (name, self._notice))

    def leader(self) -> str:
        found = self._connection.call([("GET", self._leader)])[0]
        return found.decode() if found else ""

    def wait(self, timeout_s: float, interrupt: int) -> bool:
        """The first call, and the first after a lost connection, only subscribes: what was said before was not heard."""
        if not self._listens:
            self._heard.open()
            self._listens = True
            return True
        try:
            # `drain` takes in all that has come, so nothing waits in a buffer where select() does not see it
            descriptor = self._heard.fileno()
            readable, _, _ = select.select([descriptor, interrupt], [], [], max(timeout_s, 0.0))
            return descriptor in readable and self._heard.drain()
        except OperationalError:
            self._listens = False
            raise

    def close(self) -> None:
        self._listens = False
        self._heard.close()
        self._connection.close()


def _planned(name: bytes, definition: bytes | None, state: bytes) -> Planned:
    due, last_due, last_run, runs, paused, edit, _ = state.split(b" ", 6)
    return Planned(name.decode(), definition or b"", int(due), paused == b"1", int(edit), int(last_due), int(last_run), int(runs))


def _or_empty(number: int | None) -> int | str:
    return "" if number is None else number


def _batches(ticks: Sequence[Tick]) -> Iterator[Sequence[Tick]]:
    """Split into calls of bounded size; a tick with more than that travels alone."""
    start = messages = size = 0
    for at, tick in enumerate(ticks):
        count, length = 1 + len(tick.publications), sum([len(one.message) for one in tick.publications])
        if at > start and (messages + count > CALL_MESSAGES or size + length > CALL_BYTES):
            yield ticks[start:at]
            start, messages, size = at, 0, 0
        messages += count
        size += length
    if start < len(ticks):
        yield ticks[start:]
