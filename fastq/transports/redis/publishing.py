"""Turn publications and openings into calls of bounded size, split the same way each time they are sent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from fastq.records import Opening, Publication
from fastq.transports.redis.keys import Keys, QueueKeys, checked_level
from fastq.transports.redis.limits import CALL_BYTES, CALL_MESSAGES
from fastq.transports.redis.scripts import script

__all__ = ["OPEN_TTL_S", "PublishCalls", "checked_opening"]

#: how long a producer's last call number is remembered: longer than any retry
SENT_TTL_S = 600

#: how long a join lives whose members are not all kept yet
OPEN_TTL_S = 600

#: one publish may have that many parts; a call number times this stays exact in Lua's doubles for 137 billion calls
PARTS = 1 << 16

Command = tuple[Any, ...]


def checked_opening(opening: Opening) -> Opening:
    """Return a join that can be opened; a join without members would never close."""
    if opening.size < 1:
        raise ValueError(f"join {opening.id}: {opening.size} members; a join has at least one, with none its body is sent at once")
    checked_level(opening.body.level)
    return opening


class PublishCalls:
    """Build the commands of one publish call.

    Parts are numbered within their call and queue, and a part is refused unless its predecessor was kept. Without that: part 1 is
    refused (out of memory), part 2, sent with it, is kept; the repeat of the call finds number 2 noted and drops part 1 as known.
    Openings are the first parts of their queue, so a repeat finds them noted too: a join that has ended is not opened again.
    """

    def __init__(self, keys: Keys, producer: str, number: int) -> None:
        self._keys = keys
        self._producer = producer
        self._first = number * PARTS
        #: parts per queue so far
        self._parts: dict[str, int] = {}
        self._script = script("publish")
        self._joins: list[str] = []

    def openings(self, openings: Sequence[Opening]) -> Iterator[Command]:
        queues: dict[str, list[Opening]] = {}
        for opening in openings:
            queues.setdefault(opening.body.queue, []).append(checked_opening(opening))
        for queue, items in queues.items():
            keys = self._keys.queue(queue)
            for batch in _batches(items, [len(item.body.message) for item in items]):
                joins = [keys.join(opening.id) for opening in batch]
                self._joins += joins
                sequence, predecessor = self._next(queue)
                yield (
                    script("open"),
                    1 + len(joins),
                    *(keys.sent(self._producer), *joins),
                    *(sequence, predecessor, SENT_TTL_S, OPEN_TTL_S),
                    *[word for item in batch for word in opening_words(item)],
                )

    def messages(self, publications: Sequence[Publication]) -> Iterator[tuple[Command, Sequence[Publication]]]:
        queues: dict[str, list[Publication]] = {}
        if len(publications) == 1:
            queues[publications[0].queue] = list(publications)
        else:
            for publication in publications:
                queues.setdefault(publication.queue, []).append(publication)
        for queue, items in queues.items():
            keys = self._keys.queue(queue)
            for batch in _batches(items, [len(item.message) for item in items]):
                sequence, predecessor = self._next(queue)
                yield self._message_command(keys, sequence, predecessor, batch), batch

    def sealing(self) -> Iterator[Command]:
        """Yield what keeps the opened joins, provided that every part of the call is in."""
        if not self._joins:
            return
        sent = [self._keys.queue(queue).sent(self._producer) for queue in self._parts]
        last = [self._first + parts - 1 for parts in self._parts.values()]
        for start in range(0, len(self._joins), CALL_MESSAGES):
            joins = self._joins[start : start + CALL_MESSAGES]
            yield (script("seal"), len(sent) + len(joins), *sent, *joins, *last)

    def _next(self, queue: str) -> tuple[int, int | str]:
        """Return the next part's sequence in a queue and its predecessor's, '' for the first."""
        part = self._parts.get(queue, 0)
        self._parts[queue] = part + 1
        sequence = self._first + part
        return sequence, sequence - 1 if part else ""

    def _message_command(self, keys: QueueKeys, sequence: int, predecessor: int | str, batch: Sequence[Publication]) -> Command:
        levels: dict[int, list[Any]] = {}
        delayed: list[Any] = []
        if len(batch) > 1:
            first = batch[0].level
            plain = [item.message for item in batch if item.level == first and not item.due_ms and item.delay_ms <= 0]
            if len(plain) == len(batch):  # nearly always, and this way at a third of the cost
                levels[checked_level(first)] = plain
                batch = []
        for publication in batch:
            level = checked_level(publication.level)
            if publication.due_ms:
                delayed += (level, "", publication.due_ms, publication.message)
            elif publication.delay_ms > 0:
                delayed += (level, publication.delay_ms, 0, publication.message)
            else:
                group = levels.get(level)
                if group is None:
                    levels[level] = [publication.message]
                else:
                    group.append(publication.message)
        groups: list[Any] = []
        for level, messages in levels.items():
            groups += (level, len(messages))
            groups += messages
        return (
            self._script,
            4 + len(levels),
            *(keys.sent(self._producer), keys.idle, keys.levels, keys.delayed),
            *[keys.ready[level] for level in levels],
            *(sequence, predecessor, SENT_TTL_S, self._keys.wake_prefix),
            *(os.urandom(6).hex() if delayed else "", len(levels), len(delayed) // 4),
            *groups,
            *delayed,
        )


def opening_words(opening: Opening) -> tuple[Any, ...]:
    """Return a join as the scripts read it: size, then level, delay (ms), due at (ms) and message of its body."""
    body = opening.body
    return (opening.size, body.level, max(body.delay_ms, 0), body.due_ms, body.message)


def _batches(items: Sequence[Any], sizes: Sequence[int]) -> Iterator[Sequence[Any]]:
    """Split into bounded batches, in order; what is larger than the bound stands alone."""
    start = 0
    while start < len(items):
        end, size = start, 0
        while end < len(items) and end - start < CALL_MESSAGES:
            size += sizes[end]
            if size > CALL_BYTES and end > start:
                break
            end += 1
        yield items[start:end]
        start = end
