"""What happens with a settlement beside its verdict (see ``records.Effects``), inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from fastq.records import Effects, Publication
from fastq.transports.sqlite import joins, places
from fastq.transports.sqlite.schema import LAST_LEVEL

__all__ = ["carry_out"]


def carry_out(sql: sqlite3.Connection, effects: Sequence[Effects], now_ms: int, number: Callable[[str], int]) -> list[int]:
    """Carry out everything but the results; return the queues that have new messages. ``number`` gives a queue's.

    Kind by kind over all settlements, in the order of the fields: they are told at once, so no order among them is owed.
    """
    openings = [one for some in effects for one in some.openings]
    if openings:
        joins.open_all(sql, openings, now_ms)
    growths = [one for some in effects for one in some.growths]
    if growths:
        joins.grow(sql, growths, now_ms)
    publications = [one for some in effects for one in some.publications]
    counts = [one for some in effects for one in some.counts]
    if counts:
        publications += joins.count(sql, counts, now_ms)
    touched = places.keep(sql, [_allowed(one) for one in publications], now_ms, number) if publications else []
    drops = [one for some in effects for one in some.drops]
    if drops:
        joins.drop(sql, drops, now_ms)
    return touched


def _allowed(publication: Publication) -> Publication:
    """Return the publication with a level that exists: a bad one, from a message that anyone may have written, must not keep a
    worker from settling."""
    level = publication.level
    return publication if 0 <= level <= LAST_LEVEL else publication._replace(level=min(max(level, 0), LAST_LEVEL))
