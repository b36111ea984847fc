"""The protocols that a transport implements: here those that tasks need, and in ``channel`` and ``timetable`` the others. All are
batch-first; the docstrings are the specification.

Common rules. A method may be called from any thread or greenlet, but each *instance* only by one at a time unless it says
otherwise: a worker process gives its Broker to its consumer alone, a producer guards its Broker with group commit. Connections
are opened at first use. An instance must not be used after a fork by the child: the owner makes new ones (see ``fastq.producer``).
A lost connection raises OperationalError; the next call connects again. Errors of client libraries never leave a transport.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fastq.records import (
    DeadLetter,
    Fetch,
    Fetched,
    Joined,
    Lease,
    Opening,
    Paused,
    Publication,
    Revival,
    Settled,
    Settlement,
    StoredResult,
    Swept,
)

__all__ = [
    "PARKED_MS", "REVOKED_MAX", "Backend", "Broker", "Examiner", "Finding", "Inbox", "Inspector", "Level", "Scope",
    "TransportOptions", "Wake",
]  # fmt: skip

#: revoked ids that a broker remembers, as many as Celery's workers do; the oldest go first
REVOKED_MAX = 50_000

#: due times from here on are places of parked messages, in their order: they are never due (the year 287,000)
PARKED_MS = 9_000_000_000_000_000


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """What the settings say to a transport; the URL says where it is."""

    #: every key and channel name starts with it
    prefix: str = "fastq:"
    #: None: results are kept for ever
    result_expires_s: int | None = 86_400
    #: a message charged this often without an end becomes a dead letter
    max_deliveries: int = 3
    #: dead letters kept per queue at most, the oldest go first
    dead_letter_max: int = 10_000
    dead_letter_expires_s: int = 7 * 86_400
    connect_timeout_s: float = 4.0
    #: longest wait for one answer; supervisors set it below a third of the lease, worker processes to a lease at most
    socket_timeout_s: float = 30.0
    lease_ms: int = 15_000
    #: replicas that must confirm what was published, and how long that may take; 0: none (Redis)
    wait_replicas: int = 0
    wait_replicas_s: float = 1.0
    #: options of one technology only
    extra: dict[str, object] = field(default_factory=dict)


class Wake(Protocol):
    """The wake channel of one worker process: readable when there may be work."""

    def fileno(self) -> int:
        """Return a descriptor to select on. It changes after a reconnect."""
        ...

    def drain(self) -> bool:
        """Take in everything that has come, without blocking; True if a wake was among it.

        Raises OperationalError when the connection is gone; calling ``open`` then subscribes again.
        """
        ...

    def open(self) -> None:
        """Subscribe, and return when that is confirmed. Then fetch once: a wake sent before is lost."""
        ...

    def check(self) -> None:
        """Probe the connection (once per lease while idle); OperationalError if it is dead."""
        ...

    def close(self) -> None: ...


class Broker(Protocol):
    """Queues, leases and dead letters."""

    #: as for display: no password
    url: str

    def now_ms(self) -> int:
        """Return the broker's clock, Unix ms: this machine's clock plus the offset last seen (asks once if never seen)."""
        ...

    def publish(
        self, producer: str, number: int, publications: Sequence[Publication], openings: Sequence[Opening] = ()
    ) -> None:
        """Keep messages, and wake as many idle processes as they need.

        ``openings``: joins that members among the messages count for; each is there before the first of its members can be taken.
        Until all messages of the call are kept such a join expires (600 s): a producer that dies half-way leaves nothing behind.

        Atomic per queue. ``number`` rises by one a call of this producer; a call repeated with the same number and the same
        messages after an OperationalError keeps nothing twice. Splits calls over 1,000 messages or 1 MiB by itself (the parts
        then count as (number, part)). Raises OperationalError: unknown whether kept.
        """
        ...

    def fetch(self, fetch: Fetch) -> Fetched:
        """Promote what is due, then lease up to ``n`` messages to the process, most urgent level first, oldest first.

        With nothing to take and ``fetch.idle``: register the process as idle, to be woken. Raises Fenced if the process has no
        lease or a condemned one. A call repeated with the same number returns what that call leased and still holds; a lower
        number leases nothing. While others are idle takes at most ceil(ready / (idle + 1)). A message on its last chance
        (deliveries = max_deliveries - 1) is leased alone.
        """
        ...

    def settle(self, process: str, settlements: Sequence[Settlement], *, results: bool, fetch: Fetch | None = None) -> Settled:
        """Apply one verdict per delivery, then fetch, in one round trip.

        Per delivery atomic: the lease is dropped and the verdict carried out with its result, or, if the lease is gone,
        nothing happens and the tag is in ``skipped``. DONE drops the message; RETRY replaces it by ``message`` at ``level`` after
        ``delay_ms``, and remembers which bucket's turn that is if a ``detail`` names one (see ``recall``; up to 200 bytes, without
        NUL); DEAD moves it to the dead letters; RETURN puts it back at the head of its level unchanged (no charge), a batch
        keeps its order. RETURN with a ``reason``, the name of its task: it is parked among the delayed messages as long as that
        name is paused, and put back as any other if it is not.

        ``results``: store ``result`` records here too and tell their inboxes (False: the caller has stored
        them elsewhere; this includes ``effects.results``). The ``effects`` of a delivery happen in the same step as its verdict,
        whatever queues they concern: openings, growths, publications (waking who is idle there), counts (which may publish a body),
        drops (of a DEAD delivery, the join is kept as long as the dead letter). A count on a join
        that is not there, or a second one of the same member, changes nothing. A settlement with many effects makes a call of its
        own, however large. Repeating a call is harmless. If ``fetch`` is refused with Fenced, the settlements have been applied,
        and the error says which were skipped.
        """
        ...

    def reserve(self, bucket: str, n: int, period_us: int, burst: int) -> list[int]:
        """Reserve the next ``n`` turns of a token bucket; return, for each, in how many ms from now it is (0: now).

        One turn each ``period_us`` microseconds for the whole fleet, of which ``burst`` may be taken at once after a pause (GCRA:
        the generic cell rate algorithm, ITU-T I.371; state is one time per bucket, which expires by itself).
        """
        ...

    def recall(self, queue: str, limit: str, *, kept: str = "", left: Sequence[str] = (), place: str = "") -> tuple[int, str]:
        """Recall the turns for which messages of this queue wait, so that they are limited anew: one bounded step.

        Meant are turns of the buckets called ``limit``, or ``limit`` and a ``|`` and anything; not those of the bucket ``kept``,
        and not delays of any other kind. Each message leaves the delayed ones for the head of its level in one step, unpaid, the
        earliest turn in front, and who is idle is woken. The buckets whose turns were recalled, and those in ``left`` but ``kept``,
        are as new. Returns how many it were and the ``place`` to go on from, "" once all was looked at. Whoever calls it, and how
        often, does not matter: what was recalled waits for no turn any more.
        """
        ...

    def revoke(self, ids: Sequence[str], expires_s: int, *, signal: str = "") -> int:
        """Remember for ``expires_s`` seconds that tasks must not start any more; return the number of this revocation.

        ``signal``: the name of a signal, if what runs of them is to be ended, too.

        Every fetch from now on answers with this number or a higher one. Numbers rise; once nothing is remembered any more it is
        0. At most REVOKED_MAX ids are remembered, and the oldest go first. Messages are left where they are.
        """
        ...

    def revoked(self, since: int = 0) -> tuple[int, list[str]]:
        """Return the number of the last revocation, 0 if none is remembered, and the ids revoked after the one ``since``."""
        ...

    def terminated(self, since: int = 0) -> tuple[int, dict[str, str]]:
        """Return the number of the last revocation with a signal, 0 if none is remembered, and by id the signals of those after
        the one ``since``."""
        ...

    def pause(self, *, queues: Sequence[str] = (), tasks: Sequence[str] = ()) -> Paused:
        """Take nothing from these queues any more, and run no task of these names, until ``resume``; return what is paused now.

        A fetch skips a paused queue: nothing is leased there, nobody is registered as idle or woken for it, and its due times
        are not waited for; what is due is promoted all the same. What is leased, waits or comes stays as it is. Task names are
        the workers' matter: every fetch from now on answers with the number of this change, or a later one's. A name is paused
        once, however often it is said.
        """
        ...

    def resume(self, *, queues: Sequence[str] = (), tasks: Sequence[str] = (), lost: Sequence[str] = ()) -> Paused:
        """Lift pauses; return what is still paused. Processes that hold a lease on a resumed queue are woken.

        From now on nothing is parked under these names. In the same step, where something is parked, the record says that they are
        resuming, and the queues where it is are held: nothing is taken from them, so that nothing younger runs first, until
        ``unpark`` has put it back. Saying it again begins anew, and is harmless.

        ``lost``: queues where something may be parked of which the record does not know any more.
        """
        ...

    def unpark(self) -> bool:
        """Put one bounded step of what is parked of resuming task names back at the heads of its levels, in its order; say whether
        there is more to do. Once a queue has nothing of them any more it is held no longer, and who takes from it is woken.

        It does not matter who calls this how often, nor whether several do at once: whoever resumes calls it until it says False,
        and so does every node now and then, should that one die on the way.
        """
        ...

    def paused(self) -> Paused:
        """Return what is paused."""
        ...

    def wake(self, process: str) -> Wake:
        """Return the wake channel of a process (not yet open)."""
        ...

    # --- for supervisors ---

    def renew(self, queues: Sequence[str], processes: Sequence[str], lease_ms: int) -> list[Lease]:
        """Enter or renew the leases of this node's processes on these queues; return leases not renewed for lease_ms / 2.

        A condemned process is not revived. Also promotes what is due and passes the baton: the safety net for lost wakes.
        """
        ...

    def condemn(self, leases: Sequence[Lease]) -> list[Lease]:
        """Condemn those whose value is still the same (their fetches answer Fenced from now on); return these and the
        ones condemned before. Condemning a process of one's own that has died needs no look: pass its lease with value ""."""
        ...

    def leased(self, queue: str, process: str) -> list[tuple[str, bytes]]:
        """Return (tag, message) of everything a process has leased, oldest first."""
        ...

    def release(self, queue: str, process: str, marks: dict[str, bytes], *, gone: bool = True) -> int:
        """Move what a condemned process still has leased back to the head of its levels, newest first, in bounded steps.

        ``marks``: for tags to be charged, the message to put back instead (with its new redelivery mark). With ``gone`` the lease
        entry and wake registration go when nothing is left. Returns how many moved.
        """
        ...

    def close(self) -> None: ...


class Inbox(Protocol):
    """A producer process' subscription to results."""

    def open(self) -> None:
        """Subscribe, and return when that is confirmed. Then read the results waited for once: earlier ones were not sent here."""
        ...

    def fileno(self) -> int: ...

    def read(self, timeout_s: float | None) -> list[tuple[str, bytes | None]]:
        """Wait for results and return (task id, record, or None: read it from the backend); [] after the timeout.

        Raises OperationalError when the connection is gone; ``open`` subscribes again.
        """
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """Results. Every record expires after ``result_expires`` (given at construction); None keeps it for ever.

    ``get``, ``store`` and ``forget`` may be called by several threads at once.
    """

    url: str

    def shares(self, broker: Broker) -> bool:
        """Say whether this is the same store as the broker's: then settling stores the result in the same step."""
        ...

    def store(self, results: Sequence[StoredResult], *, final: bool = True) -> None:
        """Write records and tell their inboxes. ``final=False`` (STARTED, PROGRESS, custom) never replaces a record whose
        state is SUCCESS, FAILURE or REVOKED."""
        ...

    def get(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the records in order, in few round trips; None where there is none."""
        ...

    def forget(self, ids: Sequence[str]) -> None: ...

    def joined(self, queue: str, join: str) -> Joined | None:
        """Return what a join of this store's broker holds, None if it is not there. Any thread, like ``get``."""
        ...

    def inbox(self, name: str) -> Inbox: ...

    def close(self) -> None: ...


class Inspector(Protocol):
    """Look into queues and clean them; never on the hot path."""

    def queues(self) -> list[str]:
        """Return the queues that hold or held something."""
        ...

    def depth(self, queue: str) -> dict[str, int]:
        """Return counts: ready, delayed, leased, dead."""
        ...

    def listeners(self, queue: str) -> list[str]:
        """Return the processes that hold a live lease on a queue: those that take tasks from it."""
        ...

    def peek(self, queue: str, n: int) -> list[bytes]:
        """Return up to n ready messages in the order they will be fetched, without taking them."""
        ...

    def delayed(self, queue: str, n: int, offset: int = 0) -> list[tuple[int, int, bytes]]:
        """Return (due, Unix ms on the broker's clock; level; message) of up to n delayed messages, the next due first."""
        ...

    def purge(self, queue: str) -> int:
        """Drop ready and delayed messages; return how many."""
        ...

    def revoke_waiting(self, queue: str, ids: Iterable[str], *, results: bool = True, most: int = 100_000) -> Swept:
        """End the ready and delayed messages of tasks that ``Broker.revoke`` was told of, with what follows from that.

        Looks at ``most`` delayed and ``most`` ready messages of each level at least, the newest ones, as the next to be taken
        meets the record of the revocation first; a message that moves meanwhile is found where it goes. ``results``: as ``settle``
        has it. What workers hold is looked at, and left alone.
        """
        ...

    def parked(self, queue: str) -> dict[str, int]:
        """Return how many messages are parked, by task name."""
        ...

    def dead(
        self, queue: str, *, limit: int = 100, offset: int = 0, before: DeadLetter | None = None
    ) -> list[DeadLetter]:
        """Return dead letters, newest first; [] at the end.

        ``before``: those older than this one, whether it is still there or not. A walk that goes on from the last letter of each
        answer meets every letter that stays, once; those that come in meanwhile are newer than where it is.
        """
        ...

    def retry_dead(
        self, queue: str, keys: Iterable[str], *, changes: Mapping[str, Revival] | None = None, to: str | None = None
    ) -> int:
        """Put dead letters back at the tail of their queue, or of the queue ``to``, as new messages without a redelivery mark.

        Returns how many were there. Per letter one step: it leaves the dead letters, waits in the queue, owns the join again that
        was kept for it, and the failures that ``changes`` names are forgotten, as far as results are kept in this store. A call
        that is repeated after a lost reply puts nothing back twice, and does not count those again.
        """
        ...

    def delete_dead(self, queue: str, keys: Iterable[str]) -> int:
        """Drop dead letters, and the join that a body among them has kept; return how many."""
        ...

    def close(self) -> None: ...


#: error: tasks are lost or stand still, or will. warning: something may go wrong, or was left behind. note: good to know
Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be, and what to do about it."""

    level: Level
    #: stable, for programs; docs/doctor.md explains each
    code: str
    #: the key, queue, process, file or setting that it is about
    subject: str
    #: what was seen
    text: str
    #: what to do
    advice: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What an examination is about."""

    #: queues that the application declares: somebody should take from them
    declared: tuple[str, ...] = ()
    #: look at these queues alone; (): at all there are
    queues: tuple[str, ...] = ()
    #: keys (Redis) or messages (both) looked at, at most
    limit: int = 100_000
    #: False: only results are kept there, the broker is elsewhere
    messages: bool = True
    #: timetable of the application, "": it is not known
    timetable: str = ""
    #: lease of the beat that leads there; 0: no beat sends what is in it, its schedule is kept elsewhere
    beat_lease_ms: int = 5_000


class Examiner(Protocol):
    """Look for what is wrong with a store and what was left behind in it. Never on the hot path, and bounded by the scope."""

    #: what was found to answer, such as "Redis 7.0.15 at redis://localhost"; known after ``examine``
    server: str
    #: how many keys or rows were looked at
    looked: int
    #: the queues that were looked at
    queues: list[str]

    def examine(self) -> Iterator[Finding]:
        """Look, without changing anything. What a running system may show for a moment is only reported if it is still there at a
        second look. A store that does not answer is a finding, not an exception."""
        ...

    def mend(self) -> list[str]:
        """Put right what was left behind and provably belongs to nobody; return what was done, a line each.

        No message is ever dropped: one that is found in the hands of nobody goes back to its queue. Safe while workers run.
        """
        ...

    def close(self) -> None: ...
