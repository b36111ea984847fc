"""A timetable on Redis. What is atomic happens in the scripts."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import Any

from fastq.exceptions import OperationalError
from fastq.transports.base import TransportOptions
from fastq.transports.redis.address import parse
from fastq.transports.redis.channel import RedisWake
from fastq.transports.redis.clock import ServerClock
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
        #: the descriptor of its connection, None: it does not listen yet, or not any more
        self._listens: int | None = None
        self._clock = ServerClock(self._connection)

    def __repr__(self) -> str:
        return f"<RedisTimetable {self.url}>"

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def _connect(self) -> None:
        """Open the connection apart from what is asked then: connecting takes long, and nothing is learned of the clocks by it."""
        if not self._connection.is_open:
            self._clock.ask()

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
        while len(fired) < len(ticks):
            command = self._command(by, ticks[len(fired) :] if fired else ticks)
            sent = time.time()
            now_ms, *done = self._connection.call((command,))[0]
            self._clock.see(now_ms, sent)
            fired += map(bool, done)
        return fired

    def _command(self, by: str, ticks: Sequence[Tick]) -> tuple[Any, ...]:
        """Return the call that fires the first of the ticks, as many as a call of bounded size takes."""
        queues: dict[str, int] = {}
        #: (queue, level, delayed) -> number of the queue
        lists: dict[tuple[str, int, bool], int] = {}
        words: list[Any] = []
        messages = size = 0
        for name, edit, due_ms, next_due_ms, publications in ticks:
            if messages >= CALL_MESSAGES or size >= CALL_BYTES:
                break
            messages += 1
            words += (name, edit, due_ms, next_due_ms, len(publications))
            for queue, message, level, delay_ms, at_ms in publications:
                delayed = at_ms > 0 or delay_ms > 0
                number = lists.get((queue, level, delayed))
                if number is None:
                    number = lists[queue, checked_level(level), delayed] = queues.setdefault(queue, len(queues))
                words += (number, level, delay_ms if delayed and not at_ms else "", at_ms, message)
                messages += 1
                size += len(message)
        keys = [self._states]
        touched = [""] * len(queues)
        nonce = ""
        for (queue, level, delayed), number in lists.items():
            if not touched[number]:
                queue_keys = self.keys.queue(queue)
                keys += (queue_keys.idle, queue_keys.levels, queue_keys.delayed, *queue_keys.ready)
            touched[number] += "d" if delayed else str(level)
            if delayed and not nonce:
                nonce = os.urandom(6).hex()
        return (script("tick"), len(keys), *keys, by, self.keys.wake_prefix, nonce, len(queues), *touched, *words)

    # --- the lead ---

    def lead(self, name: str, lease_ms: int) -> Lead:
        self._connect()
        sent = time.time()
        leader, taken, left_ms, version, now_ms = self._connection.run(
            script("lead"), (self._leader, self._edits), (name, max(lease_ms, 1))
        )
        self._clock.see(now_ms, sent)
        who = leader.decode()
        return Lead(who == name, bool(taken), max(left_ms, 0), int(version), now_ms, who)

    def resign(self, name: str) -> None:
        self._connection.run(script("resign"), (self._leader,), (name, self._notice))

    def leader(self) -> str:
        found = self._connection.call([("GET", self._leader)])[0]
        return found.decode() if found else ""

    def wait(self, timeout_s: float, interrupt: int) -> bool:
        """The first call, and the first after a lost connection, only subscribes: what was said before was not heard."""
        if self._listens is None:
            self._heard.open()
            self._listens = self._heard.fileno()
            return True
        try:
            # `drain` takes in all that has come, so nothing waits in a buffer where select() does not see it
            readable, _, _ = select.select((self._listens, interrupt), (), (), max(timeout_s, 0.0))
            return self._listens in readable and self._heard.drain()
        except OperationalError:
            self._listens = None
            raise

    def close(self) -> None:
        self._listens = None
        self._heard.close()
        self._connection.close()


def _planned(name: bytes, definition: bytes | None, state: bytes) -> Planned:
    due, last_due, last_run, runs, paused, edit, _ = state.split(b" ", 6)
    return Planned(name.decode(), definition or b"", int(due), paused == b"1", int(edit), int(last_due), int(last_run), int(runs))


def _or_empty(number: int | None) -> int | str:
    return "" if number is None else number
