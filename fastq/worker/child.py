"""What the supervisor knows of one worker process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastq.worker.link import Link
from fastq.worker.overdue import Overdue
from fastq.worker.standstill import Standstill
from fastq.worker.timeouts import Overrun

__all__ = ["Child"]


@dataclass(slots=True)
class Child:
    """One worker process."""

    #: of its region on the board, and in its names
    index: int
    #: where it is replaced (see ``places``)
    place: int
    serial: int
    link: Link
    born_s: float
    #: 0: still being forked
    pid: int
    #: its name to the broker; "" until its lease is entered
    process: str = ""
    #: names it had before it was fenced
    former: list[str] = field(default_factory=list)
    ready: bool = False
    #: it takes no more tasks, and ends when what it runs has ended
    spent: bool = False
    #: its successor was started ahead of its end
    relieved: bool = False
    #: the node has shrunk: it finishes what it runs, and nobody takes its place
    retired: bool = False
    #: the last change of the queues that it is known to have taken in
    takes: int = 0
    #: what it said went wrong
    error: str = ""
    #: from its first run with a hard time limit on
    overdue: Overdue | None = None
    #: revoked runs that it was killed for
    ended_for: Sequence[Overrun] = ()
    #: from its admission on
    standstill: Standstill | None = None
