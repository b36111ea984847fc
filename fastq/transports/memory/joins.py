"""Joins: how many members of a chord are still to come, their records, and the message that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fastq.records import Count, Drop, Growth, Joined, Opening, Publication

__all__ = ["Join", "Joins"]


@dataclass(slots=True)
class Join:
    """One join; it is open while it has a body to publish."""

    size: int
    body: Publication | None
    added: int = 0
    records: dict[str, bytes] = field(default_factory=dict)
    failed: tuple[str, bytes] | None = None
    #: when it goes, 0: never
    expires_ms: int = 0

    def is_numbered(self, member: str) -> bool:
        """Say whether it is one of those that the join was opened with."""
        return member.isascii() and member.isdecimal() and len(member) < 19 and int(member) < self.size


class Joins:
    """The joins of a store by (queue, id). The caller holds the store's lock."""

    def __init__(self) -> None:
        self._joins: dict[tuple[str, str], Join] = {}

    def open(self, openings: Iterable[Opening], now_ms: int) -> None:
        """Open joins; one that is there stays as it is."""
        for opening in openings:
            key = (opening.body.queue, opening.id)
            if self._alive(*key, now_ms) is None:
                self._joins[key] = Join(opening.size, opening.body)

    def grow(self, growths: Iterable[Growth], now_ms: int) -> None:
        """Let open joins wait for more members."""
        for growth in growths:
            join = self._alive(growth.queue, growth.join, now_ms)
            if join is not None and join.body is not None:
                join.added += growth.n

    def count(self, counts: Iterable[Count], now_ms: int) -> list[Publication]:
        """Count members, and return the bodies that are to be published now."""
        bodies: list[Publication] = []
        for count in counts:
            join = self._alive(count.queue, count.join, now_ms)
            if join is None or join.body is None:
                continue
            member = str(int(count.member)) if join.is_numbered(count.member) else count.member
            if member in join.records:
                continue
            join.records[member] = count.record
            if count.failed:
                join.failed = (count.task_id, count.record)
            if count.failed or len(join.records) >= join.size + join.added:
                bodies.append(join.body)
                join.body = None
        return bodies

    def drop(self, drops: Iterable[Drop], now_ms: int) -> None:
        """Let joins go whose bodies have come to their end: at once, or after a time."""
        for drop in drops:
            join = self._joins.get((drop.queue, drop.join))
            if join is not None:
                join.expires_ms = now_ms + drop.keep_s * 1000
                if drop.keep_s <= 0:
                    del self._joins[drop.queue, drop.join]

    def keep(self, one: Drop) -> None:
        """Take back the end of a join: its body is to run again."""
        join = self._joins.get((one.queue, one.join))
        if join is not None:
            join.expires_ms = 0

    def load(self, queue: str, id: str, now_ms: int) -> Joined | None:
        """Return what a join holds; None if it is not there."""
        join = self._alive(queue, id, now_ms)
        if join is None:
            return None
        later = [record for name, record in sorted(join.records.items()) if not join.is_numbered(name)]
        total = join.size + join.added
        numbered = [join.records.get(str(place)) for place in range(total - len(later))]
        return Joined(total, [*numbered, *later], join.failed)

    def expire(self, now_ms: int, most: int) -> None:
        """Drop expired joins, a bounded number."""
        for key in [key for key, join in self._joins.items() if 0 < join.expires_ms <= now_ms][:most]:
            del self._joins[key]

    def _alive(self, queue: str, id: str, now_ms: int) -> Join | None:
        join = self._joins.get((queue, id))
        return None if join is None or 0 < join.expires_ms <= now_ms else join
