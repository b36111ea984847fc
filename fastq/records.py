"""The records that the parts hand to each other.

*Delivery*, *Settlement* and *Entry* live in the compiled core because one is made per task; the rest are made per call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fastq._core import DEAD, DONE, RETRY, RETURN, Delivery, Entry, Registry, Settlement

__all__ = [
    "DEAD",
    "DONE",
    "ENDS",
    "RETRY",
    "RETURN",
    "Count",
    "DeadLetter",
    "Delivery",
    "Drop",
    "Effects",
    "Entry",
    "Fetch",
    "Fetched",
    "Growth",
    "Joined",
    "Lease",
    "Leased",
    "Opening",
    "Paused",
    "Publication",
    "Registry",
    "Revival",
    "Settled",
    "Settlement",
    "StoredResult",
    "Swept",
]

#: reasons of DONE and RETRY: how a run ended that neither succeeded nor left a dead letter. Brokers do not look at them, the
#: tallies of the core (``_core_tally.pxi``) count by them
ENDS = frozenset({"expired", "ignored", "postponed", "replaced", "requeued", "retried", "revoked", "terminated"})


class Publication(NamedTuple):
    """One message on its way to a queue. A tuple because one is made per message: a third of a frozen dataclass' cost."""

    queue: str
    message: bytes
    #: 0 to 9, higher is more urgent
    level: int = 0
    #: milliseconds from the broker's now (countdown, retry delay)
    delay_ms: int = 0
    #: due at this Unix time in ms on the broker's clock (eta); 0: use ``delay_ms``
    due_ms: int = 0


class Opening(NamedTuple):
    """A join to be opened: it publishes ``body`` when ``size`` members have succeeded, or at once when one has not.

    It lives in the queue of its body, without a TTL: first its members own it, then its body, whose end drops it.
    """

    id: str
    size: int
    body: Publication


class Count(NamedTuple):
    """A member of a join has come to its end. Only the first count of a member counts, and none once the body was published."""

    queue: str
    join: str
    #: its place among the members, from "0"; a member that was added later has its task id
    member: str
    task_id: str
    #: its result record
    record: bytes
    failed: bool = False


class Growth(NamedTuple):
    """A join waits for more members than it was opened with."""

    queue: str
    join: str
    n: int = 1


class Drop(NamedTuple):
    """A join's body has come to its end: the join goes after ``keep_s`` seconds (0: at once).

    Where the body becomes a dead letter, the broker keeps the join as long as the letter: it may be tried again.
    """

    queue: str
    join: str
    keep_s: int = 0


class Effects(NamedTuple):
    """What happens in the same step as a settlement, or not at all if that is skipped. In this order."""

    openings: Sequence[Opening] = ()
    growths: Sequence[Growth] = ()
    publications: Sequence[Publication] = ()
    counts: Sequence[Count] = ()
    drops: Sequence[Drop] = ()
    #: results of other tasks: those that cannot run any more
    results: Sequence[StoredResult] = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """What a join holds."""

    size: int
    #: the members' result records in order, those added later behind them; None: has not ended
    records: Sequence[bytes | None]
    #: task id and record of the first member that did not succeed
    failed: tuple[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """One numbered request for work by a process. The same number again asks for the same answer."""

    process: str
    number: int
    queues: tuple[str, ...]
    #: how many messages at most, all queues together; 0 only promotes what is due and passes the baton
    n: int
    #: register as idle on every queue when nothing was taken
    idle: bool = True
    #: a last-chance delivery is held already: take no second one
    no_last_chance: bool = False


@dataclass(frozen=True, slots=True)
class Leased:
    """What one fetch leased from one queue: parallel lists, oldest first."""

    queue: str
    tags: Sequence[str]
    messages: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to a Fetch."""

    leased: tuple[Leased, ...]
    #: the broker's clock, Unix ms
    now_ms: int
    #: when the earliest delayed message that this process keeps time for is due; 0: none
    next_due_ms: int = 0
    #: number of the last revocation (see ``Broker.revoke``); 0: none is remembered
    revocations: int = 0
    #: number of the last change of what is paused (see ``Broker.pause``); 0: nothing is
    pauses: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """The answer to a settle call: which tags were no longer leased (skipped), and the fetch made in the same call."""

    skipped: tuple[str, ...] = ()
    fetched: Fetched | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """A process' lease as the broker holds it: the value of its last renewal (opaque, compared for equality only)."""

    queue: str
    process: str
    value: str


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep for revoked tasks found in a queue."""

    #: ids of the tasks that waited and have been ended
    ended: frozenset[str]
    #: ids of the tasks that a worker process had already: what becomes of them is its matter
    leased: frozenset[str]
    #: records of those ended, and of what was to come after them, where they have to be stored elsewhere
    results: Sequence[StoredResult] = ()


@dataclass(frozen=True, slots=True)
class Paused:
    """What is paused: names, and since when (Unix ms on the broker's clock)."""

    #: of the last change; 0: nothing is paused
    number: int = 0
    queues: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)
    #: task names that are resumed, and whose parked messages are being put back (see ``Broker.unpark``), and since when
    resuming: Mapping[str, int] = field(default_factory=dict)
    #: queues from which nothing is taken until that is done
    held: frozenset[str] = frozenset()

    def rests(self, queue: str) -> bool:
        """Say whether nothing is taken from a queue now."""
        return queue in self.queues or queue in self.held


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result record on its way to the backend."""

    id: str
    record: bytes
    #: the inbox of the producer that waits, "": none
    inbox: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not run again, and why."""

    #: unique within its queue
    key: str
    queue: str
    message: bytes
    reason: str
    dead_ms: int
    #: what the worker knew: name, error, traceback, deliveries
    detail: dict[str, object] = field(default_factory=dict)
    #: where it stands among those of its queue, higher is newer
    place: int = 0


class Revival(NamedTuple):
    """How a dead letter is put back, where not just as it was."""

    #: the message to be put back instead
    message: bytes | None = None
    #: tasks whose stored FAILURE goes in the same step: this one, and what was to come after it
    forget: Sequence[str] = ()
