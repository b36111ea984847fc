"""Rows that have lost their owner: how they are found, and how they are put right without losing a message."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from fastq import _core
from fastq.exceptions import EnvelopeError
from fastq.transports.base import Level, TransportOptions
from fastq.transports.judging import counted
from fastq.transports.sqlite import places
from fastq.transports.sqlite.connection import Connection
from fastq.transports.sqlite.url import Target

__all__ = ["LEFTOVERS", "Leftover", "mend"]

#: deliveries that one transaction hands back
STEP = 1000

#: rows of ``leased`` whose process has no lease on their queue, or one that is gone
_LOST = "NOT EXISTS (SELECT 1 FROM leases l WHERE l.process = x.process AND l.queue = x.key >> 48 AND l.gone_ms = 0)"


@dataclass(frozen=True, slots=True)
class Leftover:
    """One kind of rows without an owner."""

    level: Level
    code: str
    table: str
    #: gives a name and how many
    query: str
    text: str
    advice: str


LEFTOVERS = (
    Leftover(
        "error",
        "ownerless-row",
        "leased",
        f"SELECT process, count(*) FROM leased x WHERE {_LOST} GROUP BY process",
        "this process has no lease, and holds messages ({:,})",
        "run fastq doctor --fix: they go back to their queue",
    ),
    Leftover(
        "warning",
        "ownerless-row",
        "idle",
        "SELECT process, count(*) FROM idle x"
        " WHERE NOT EXISTS (SELECT 1 FROM leases l WHERE l.process = x.process AND l.gone_ms = 0) GROUP BY process",
        "this process is registered as idle ({:,}) and has no lease",
        "run fastq doctor --fix",
    ),
    Leftover(
        "warning",
        "ownerless-row",
        "members",
        "SELECT joined, count(*) FROM members x WHERE NOT EXISTS (SELECT 1 FROM joins j WHERE j.no = x.joined) GROUP BY joined",
        "results of members ({:,}) of a chord that is not there",
        "run fastq doctor --fix",
    ),
)


def mend(target: Target, options: TransportOptions) -> list[str]:
    """Hand back what nobody holds, and remove entries of nobody. Each step is a transaction that looks again."""
    done: list[str] = []
    database = Connection(target, timeout_s=options.socket_timeout_s)
    with contextlib.ExitStack() as stack:
        stack.callback(database.shut)
        while moved := _hand_back(database, options):
            done.append(f"{counted(moved, 'message')} of processes without a lease back in their queues")
        with database as sql:
            idle = sql.execute(
                "DELETE FROM idle WHERE NOT EXISTS (SELECT 1 FROM leases l WHERE l.process = idle.process AND l.gone_ms = 0)"
            ).rowcount
            members = sql.execute(
                "DELETE FROM members WHERE NOT EXISTS (SELECT 1 FROM joins j WHERE j.no = members.joined)"
            ).rowcount
        if idle:
            done.append(f"took out idle entries of processes without a lease ({idle:,})")
        if members:
            done.append(f"took out results of members whose chord is gone ({members:,})")
    return done


def _hand_back(database: Connection, options: TransportOptions) -> int:
    # Nobody knows what ran: all is charged, as after the loss of a node. The last chance is left to each.
    most = options.max_deliveries - 1 if options.max_deliveries > 0 else 127
    with database as sql:
        rows = sql.execute(f"SELECT key, message FROM leased x WHERE {_LOST} ORDER BY key DESC LIMIT ?", (STEP,)).fetchall()
        marks: dict[int, bytes] = {}
        for key, message in rows:
            try:
                delivery = _core.peek(message)
            except EnvelopeError:
                continue
            marks[key] = _core.remark(delivery.message, min(delivery.deliveries + 1, max(most, 0)), delivery.paid)
        places.give_back(sql, [key for key, _ in rows], marks)
        sql.executemany("DELETE FROM leased WHERE key = ?", [(key,) for key, _ in rows])
    return len(rows)

