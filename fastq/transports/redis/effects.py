"""Turn the effects of a batch of settlements into words of the settle script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastq._core import DEAD, Settlement
from fastq.ending import lasting
from fastq.records import Count, Effects
from fastq.transports.redis.keys import Keys, checked_level
from fastq.transports.redis.packing import array_bytes
from fastq.transports.redis.publishing import checked_opening, opening_words

__all__ = ["EffectWords", "measure"]

#: a join's body may go to any level, now or later: all that the script has to check
_ANYWHERE = "0123456789d"


def measure(effects: Effects) -> tuple[int, int]:
    """Return how many things the effects do, and the bytes they bring."""
    openings, growths, publications, counts, drops, results = effects
    number = len(openings) + len(growths) + len(publications) + len(counts) + len(drops) + len(results)
    size = sum([len(item.body.message) for item in openings]) + sum([len(item.message) for item in publications])
    return number, size + sum([len(item.record) for item in counts]) + sum([len(item.record) for item in results])


class EffectWords:
    """Gather the effects of the settlements of one call, each with the index of the settlement that owns it.

    What concerns the same list, or the same join, is gathered: a batch of a thousand counts of one join is a handful of commands.
    """

    def __init__(self, keys: Keys, ordered: Sequence[Settlement], fetching: str | None, dead_letter_s: int) -> None:
        """``fetching``: the queue from which the process fetches behind this call; ``dead_letter_s``: how long a join is kept for a
        body that becomes a dead letter."""
        self._keys = keys
        self._fetching = fetching
        #: per queue: its place among the keys, and what the script may push to there
        self._queues: dict[str, int] = {}
        self._touched: list[set[str]] = []
        self._joins: dict[str, int] = {}
        self._openings: list[Any] = []
        self._growths: list[Any] = []
        self._lists: dict[tuple[int, int], tuple[list[int], list[bytes]]] = {}
        self._delayed: list[Any] = []
        self._counts: dict[int, tuple[int, list[int], list[Count]]] = {}
        self._drops: list[Any] = []
        for owner, settlement in enumerate(ordered):
            if settlement.effects is not None:
                died = settlement.verdict == DEAD
                self._add(owner, lasting(settlement.effects, dead_letter_s) if died else settlement.effects)

    def keys(self) -> list[str]:
        """Return the keys: 13 per queue, then one per join."""
        words: list[str] = []
        for name in self._queues:
            queue = self._keys.queue(name)
            words += (queue.idle, queue.levels, queue.delayed, *queue.ready)
        return words + list(self._joins)

    @property
    def queues(self) -> int:
        return len(self._queues)

    @property
    def joins(self) -> int:
        return len(self._joins)

    def words(self) -> list[Any]:
        """Return the arguments."""
        if not self._queues and not self._joins:
            return []
        words: list[Any] = ["".join(sorted(touched)) for touched in self._touched]
        words += (len(self._openings) // 7, *self._openings, len(self._growths) // 3, *self._growths, len(self._lists))
        for (queue, level), (owners, messages) in self._lists.items():
            words += (queue, level, len(messages), array_bytes(owners), *messages)
        words += (len(self._delayed) // 6, *self._delayed, len(self._counts))
        for join, (queue, owners, counts) in self._counts.items():
            failed = [word for i, count in enumerate(counts) if count.failed for word in (i, count.task_id)]
            words += (join, queue, len(counts), array_bytes(owners))
            words += [word for count in counts for word in (f".{count.member}", count.record)]
            words += (len(failed) // 2, *failed)
        words += (len(self._drops) // 3, *self._drops)
        return words

    def _add(self, owner: int, effects: Effects) -> None:
        openings, growths, publications, counts, drops, _ = effects
        for opening in openings:
            checked_opening(opening)
            self._openings += (owner, self._join(opening.body.queue, opening.id), *opening_words(opening))
        for growth in growths:
            self._growths += (owner, self._join(growth.queue, growth.join), growth.n)
        for publication in publications:
            level = checked_level(publication.level)
            queue = self._queue(publication.queue)
            if publication.due_ms or publication.delay_ms > 0:
                delay_ms = "" if publication.due_ms else publication.delay_ms
                self._touched[queue].add("d")
                self._delayed += (owner, queue, level, delay_ms, publication.due_ms, publication.message)
            else:
                place = self._lists.get((queue, level))
                if place is None:
                    place = self._lists[queue, level] = ([], [])
                    self._touched[queue].add(str(level))
                place[0].append(owner)
                place[1].append(publication.message)
        for count in counts:
            join = self._join(count.queue, count.join)
            gathered = self._counts.get(join)
            if gathered is None:
                queue = self._queue(count.queue)
                self._touched[queue].update(_ANYWHERE)
                gathered = self._counts[join] = (queue, [], [])
            gathered[1].append(owner)
            gathered[2].append(count)
        for drop in drops:
            self._drops += (owner, self._join(drop.queue, drop.join), max(drop.keep_s, 0))

    def _queue(self, name: str) -> int:
        place = self._queues.get(name)
        if place is None:
            place = self._queues[name] = len(self._queues)
            self._touched.append({"f"} if name == self._fetching else set())
        return place

    def _join(self, queue: str, join: str) -> int:
        return self._joins.setdefault(self._keys.queue(queue).join(join), len(self._joins))
