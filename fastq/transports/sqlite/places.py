"""Places in a queue: at the tail, at the head, and from delayed to ready. Messages move inside SQLite wherever they can."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence

from fastq.records import Publication
from fastq.transports.sqlite.schema import LAST_LEVEL, PLACE_BITS, QUEUE_SHIFT, key_base

__all__ = ["append", "check_level", "give_back", "keep", "promote", "queue_no", "queue_of"]

#: messages that one fetch moves from delayed to ready at most
PROMOTIONS = 100


def queue_no(sql: sqlite3.Connection, name: str) -> int:
    """Return the number of a queue; the first mention gives it one."""
    row = sql.execute("SELECT no FROM queues WHERE name = ?", (name,)).fetchone()
    if row is None:
        row = sql.execute("INSERT INTO queues (name) VALUES (?) RETURNING no", (name,)).fetchall()[0]
    return int(row[0])


def queue_of(key: int) -> int:
    """Return the number of the queue that a key belongs to."""
    return key >> QUEUE_SHIFT


def _at_tail(sql: sqlite3.Connection, queue: int, n: int) -> int:
    """Give out n places at the tail, return the first."""
    return int(sql.execute("UPDATE queues SET tail = tail + ? WHERE no = ? RETURNING tail", (n, queue)).fetchall()[0][0]) - n


def append(sql: sqlite3.Connection, queue: int, messages: Sequence[tuple[int, bytes]]) -> None:
    """Put (level, message) pairs at the tail of a queue, in order."""
    place = _at_tail(sql, queue, len(messages))
    base = queue << QUEUE_SHIFT
    # key_base, written out: one call per message would be a third of a bulk publish.
    rows = [(base | (9 - level) << PLACE_BITS | at, message) for at, (level, message) in enumerate(messages, place)]
    sql.executemany("INSERT INTO ready (key, message) VALUES (?, ?)", rows)


def check_level(level: int) -> None:
    """Raise ValueError for a priority that does not exist."""
    if not 0 <= level <= LAST_LEVEL:
        raise ValueError(f"priority {level} is outside of 0 to {LAST_LEVEL}")


def keep(sql: sqlite3.Connection, publications: Sequence[Publication], now_ms: int, number: Callable[[str], int]) -> list[int]:
    """Put messages where they wait; return the queues that have new ones. ``number`` gives a queue's."""
    ready: dict[int, list[tuple[int, bytes]]] = {}
    delayed: list[tuple[int, int, int, bytes]] = []
    queues: dict[int, None] = {}
    name, queue = "", 0
    for publication in publications:
        if publication.queue != name:
            name = publication.queue
            queue = number(name)
            queues[queue] = None
        level = publication.level
        if not 0 <= level <= LAST_LEVEL:
            check_level(level)
        due_ms = publication.due_ms or (now_ms + publication.delay_ms if publication.delay_ms > 0 else 0)
        if due_ms > now_ms:
            delayed.append((queue, due_ms, level, publication.message))
        else:
            ready.setdefault(queue, []).append((level, publication.message))
    for queue, messages in ready.items():
        append(sql, queue, messages)
    if delayed:
        sql.executemany("INSERT INTO delayed (queue, due_ms, level, message) VALUES (?, ?, ?, ?)", delayed)
    return list(queues)


def promote(sql: sqlite3.Connection, queue: int, now_ms: int) -> None:
    """Move what is due to the tail, in order of due time, a bounded number."""
    due = sql.execute(
        "SELECT id, level FROM delayed WHERE queue = ? AND due_ms <= ? ORDER BY due_ms, id LIMIT ?", (queue, now_ms, PROMOTIONS)
    ).fetchall()
    if not due:
        return
    place = _at_tail(sql, queue, len(due))
    moves = [(key_base(queue, level) | at, id) for at, (id, level) in enumerate(due, place)]
    sql.executemany("INSERT INTO ready (key, message) SELECT ?, message FROM delayed WHERE id = ?", moves)
    sql.executemany("DELETE FROM delayed WHERE id = ?", [(id,) for id, _ in due])


def give_back(sql: sqlite3.Connection, keys: Iterable[int], marks: Mapping[int, bytes]) -> None:
    """Copy leased messages to the head of their levels, keeping their order; ``marks`` replaces some. The caller deletes
    the leases."""
    by_queue: dict[int, list[int]] = {}
    for key in sorted(keys):
        by_queue.setdefault(queue_of(key), []).append(key)
    for queue, here in by_queue.items():
        (head,) = sql.execute("UPDATE queues SET head = head - ? WHERE no = ? RETURNING head", (len(here), queue)).fetchall()[0]
        level_bits = 0xF << PLACE_BITS
        moves = [((queue << QUEUE_SHIFT) | (key & level_bits) | place, key) for place, key in enumerate(here, head)]
        sql.executemany(
            "INSERT INTO ready (key, message) SELECT ?, message FROM leased WHERE key = ?",
            [move for move in moves if move[1] not in marks],
        )
        sql.executemany("INSERT INTO ready (key, message) VALUES (?, ?)", [(new, marks[key]) for new, key in moves if key in marks])
