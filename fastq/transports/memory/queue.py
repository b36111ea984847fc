"""What one queue holds: messages, leases, who is idle, dead letters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from fastq.records import DeadLetter
from fastq.transports.base import PARKED_MS

__all__ = ["LEVELS", "Held", "Idle", "LeaseState", "Queue"]

LEVELS = 10


@dataclass(slots=True)
class LeaseState:
    """A process' lease."""

    #: counts renewals; 0: condemned
    beat: int
    renewed_ms: int
    #: released: kept as a tombstone, so that no late renewal revives it
    gone: bool = False


@dataclass(slots=True)
class Held:
    """A delivery that a process has leased."""

    level: int
    #: of the fetch that leased it
    number: int
    message: bytes


@dataclass(slots=True)
class Idle:
    """A process that waits for a wake."""

    #: when the process wakes by itself; 0: it does not (one process per queue keeps the time)
    due_ms: int
    #: a wake was sent, and it has not come yet
    woken: bool = False
    #: it runs a delivery on its last chance and may take no second one
    no_last_chance: bool = False


@dataclass(slots=True)
class Queue:
    """Everything of one queue."""

    name: str
    ready: list[deque[bytes]] = field(default_factory=lambda: [deque() for _ in range(LEVELS)])
    #: heap of (due, sequence, level, message)
    delayed: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    #: sequence -> bucket for whose turn that delayed message waits; of some too that wait no more
    turns: dict[int, str] = field(default_factory=dict)
    leases: dict[str, LeaseState] = field(default_factory=dict)
    #: process -> tag -> what it holds, oldest first
    leased: dict[str, dict[str, Held]] = field(default_factory=dict)
    idle: dict[str, Idle] = field(default_factory=dict)
    #: key -> (level, letter), oldest first
    dead: dict[str, tuple[int, DeadLetter]] = field(default_factory=dict)
    #: something was put in
    used: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.ready))

    def due_ms(self) -> int:
        """Return when the next delayed message is due, 0 if there is none; what is parked never is."""
        return self.delayed[0][0] if self.delayed and self.delayed[0][0] < PARKED_MS else 0

    def covered(self, due_ms: int) -> bool:
        """Say whether a waiting process wakes by itself in time."""
        return any(not idle.woken and 0 < idle.due_ms <= due_ms for idle in self.idle.values())
