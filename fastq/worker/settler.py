"""Collect outcomes and tell the broker in batches; the same call fetches the next messages."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from fastq._core import Tally
from fastq.exceptions import Fenced
from fastq.records import RETRY, Fetch, Fetched, Publication, Settlement, StoredResult
from fastq.transports.base import Backend, Broker

__all__ = ["Settler", "Turn", "published"]

logger = logging.getLogger("fastq.worker.settler")

#: outcomes not yet settled at which a process stops starting tasks (the broker is away): bounds memory
MAX_UNSETTLED = 20_000
#: the same in bytes of results
MAX_UNSETTLED_BYTES = 64 * 1024 * 1024
#: settlements in one call
MAX_BATCH = 1_000
#: bytes of results in one call, after which it takes no more: all of a call is packed at once
MAX_BATCH_BYTES = 16 * 1024 * 1024
#: outcomes that are looked at for their size, of many: no work per task. Results of one process resemble each other
SAMPLES = 8
#: outcomes that could not be settled are named up to this number
NAMED = 10
#: how the record of a run that is tried again begins: an array of six, and its state
_RETRY = b"\x96\xa5RETRY"


class Turn(NamedTuple):
    """What one call to the broker did."""

    fetched: Fetched | None
    settled: list[Settlement]
    #: the process has lost its lease: it must take a new name before it can fetch
    fenced: bool
    #: tags whose settlement changed nothing
    skipped: tuple[str, ...] = ()


class Settler:
    """Settle what the slots emit. Owned by the consumer; only ``emit`` is called from slots.

    A call that fails is kept and repeated as it was (same settlements, same fetch number): whatever of it the broker has
    carried out already changes nothing the second time. With a foreign backend the results are stored first.
    """

    def __init__(self, broker: Broker, backend: Backend | None) -> None:
        self._broker = broker
        self._foreign = backend if backend is not None and not backend.shares(broker) else None
        self._together = backend is not None and self._foreign is None
        self._outcomes: deque[Settlement] = deque()
        self.emit = self._outcomes.append
        #: the call that has not been answered: process, settlements, fetch, whether its results are stored already
        self._open: tuple[str, list[Settlement], Fetch | None] | None = None
        self._stored = False
        #: settlements of leases that had been taken away
        self.fenced = 0
        #: where that is counted too
        self.tally: Tally | None = None
        #: told of what settlements have published: what follows, and retries; None: nobody wants to know
        self.tell: Callable[[Sequence[Publication]], object] | None = None

    def __len__(self) -> int:
        """Return how many outcomes wait, an unanswered call included."""
        return len(self._outcomes) + (len(self._open[1]) if self._open else 0)

    @property
    def waiting(self) -> int:
        """How many outcomes wait for the next call."""
        return len(self._outcomes)

    @property
    def unanswered(self) -> bool:
        return self._open is not None

    @property
    def full(self) -> bool:
        """So much waits that no task is to be started."""
        n = len(self)
        if n <= SAMPLES:
            return False
        return n >= MAX_UNSETTLED or _bytes(self._outcomes) + (_bytes(self._open[1]) if self._open else 0) >= MAX_UNSETTLED_BYTES

    def take(self) -> list[Settlement]:
        """Take up to a batch of outcomes, oldest first."""
        outcomes = self._outcomes
        n = min(len(outcomes), MAX_BATCH)
        if n > 1 and _bytes(outcomes) > MAX_BATCH_BYTES:
            return self._take_bytes(n)
        return [outcomes.popleft() for _ in range(n)]

    def _take_bytes(self, n: int) -> list[Settlement]:
        """Take what stays below the bytes of a call, one at least."""
        taken: list[Settlement] = []
        size = 0
        while len(taken) < n and size < MAX_BATCH_BYTES:
            taken.append(self._outcomes.popleft())
            size += _size(taken[-1])
        return taken

    def put_back(self, settlements: list[Settlement]) -> None:
        """Put outcomes back where they were taken from."""
        self._outcomes.extendleft(reversed(settlements))

    def turn(self, process: str, settlements: list[Settlement], fetch: Fetch | None) -> Turn:
        """Settle and fetch in one call. Raises OperationalError: the call stays open, ``repeat`` it."""
        assert self._open is None, "the unanswered call must be repeated first"
        self._open = (process, settlements, fetch)
        self._stored = False
        return self._call(repeat=False)

    def repeat(self) -> Turn:
        """Send the unanswered call again."""
        return self._call(repeat=True)

    def _call(self, repeat: bool) -> Turn:
        assert self._open is not None
        process, settlements, fetch = self._open
        if self._foreign is not None and not self._stored:
            self._store(settlements)
            self._stored = True
        fetched: Fetched | None = None
        fenced = False
        skipped: tuple[str, ...] = ()
        try:
            if settlements:
                settled = self._broker.settle(process, settlements, results=self._together, fetch=fetch)
                fetched = settled.fetched
                skipped = settled.skipped
            elif fetch is not None:
                fetched = self._broker.fetch(fetch)
        except Fenced as exc:  # the settlements have been applied
            fenced = True
            skipped = exc.skipped
        if skipped and not repeat:
            self._count_fenced(process, len(skipped))
        if self.tell is not None and (sent := published(settlements, skipped)):
            self.tell(sent)
        self._open = None
        return Turn(fetched, settlements, fenced, skipped)

    def _store(self, settlements: list[Settlement]) -> None:
        """Store the results of a call in the backend, which is another server: first those that may be replaced later."""
        assert self._foreign is not None
        passing: list[StoredResult] = []
        final: list[StoredResult] = []
        for s in settlements:
            if s.result is not None:
                (passing if s.result[: len(_RETRY)] == _RETRY else final).append(StoredResult(s.id, s.result, s.inbox))
            if s.effects is not None:
                final.extend(s.effects.results)
        if passing:
            self._foreign.store(passing, final=False)
        if final:
            self._foreign.store(final)

    def _count_fenced(self, process: str, n: int) -> None:
        self.fenced += n
        if self.tally is not None:
            self.tally.count("fenced", n)
        logger.warning(
            "%d outcome(s) of %s changed nothing: their leases had been taken away and the tasks run elsewhere", n, process
        )

    def close(self) -> None:
        """Say what could not be settled."""
        if len(self):
            ids = [s.id for s in (*(self._open[1] if self._open else ()), *self._outcomes)]
            shown = ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
            logger.warning("%d outcome(s) could not be settled; their tasks run again elsewhere: %s", len(ids), shown)


def published(settlements: Sequence[Settlement], skipped: Collection[str] = ()) -> list[Publication]:
    """Return the messages that settlements have sent, but what only went back to wait; the bodies of chords are sent by the broker,
    with the last member."""
    sent: list[Publication] = []
    for s in settlements:
        if s.tag in skipped:
            continue
        if s.effects is not None:
            sent += s.effects.publications
        if s.verdict == RETRY and not s.reason and s.message is not None:
            sent.append(Publication(s.queue, s.message, s.level, s.delay_ms))
    return sent


def _size(settlement: Settlement) -> int:
    return len(settlement.result or b"") + len(settlement.message or b"")


def _bytes(settlements: Sequence[Settlement] | deque[Settlement]) -> int:
    """Return about how many bytes the results of many are, from a few of them; exact for few."""
    n = len(settlements)
    if n <= SAMPLES:
        # slots append meanwhile, so no iterator
        return sum([_size(settlements[i]) for i in range(n)])
    # the ends of a deque: what lies in its middle is dear to reach
    half = SAMPLES // 2
    seen = [_size(settlements[i]) for i in range(-half, half)]
    return sum(seen) * n // SAMPLES
