"""Decide how much to hold, and which slot runs what.

The rule (law 5: nothing waits in a worker that could run elsewhere). One delivery per free slot. More only while tasks are
measured to be short (``BatchWindow``), so that one fetch covers about 10 ms of work: then the surplus is spread over the
slots as batches, and one more fetch may be ready behind them. A name that is not measured short starts alone in a slot; behind
such tasks wait only as many as many slots together set free within LEAD_MS. What is beyond that, or has waited longer than
``patience_s``, goes back to the head of the queue.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Iterable, Sequence
from itertools import islice

from fastq._core import BatchWindow
from fastq.pools.base import Pool
from fastq.records import Delivery

__all__ = ["MAX_FETCH", "Feeder"]

#: messages in one fetch at most
MAX_FETCH = 1_000
#: ms that a delivery may be expected to wait for the next free slot among many: the target of BatchWindow for one slot
LEAD_MS = 10.0


class Feeder:
    """Keep what waits for a slot. Owned by the consumer's loop.

    ``prefetch``: messages held beyond the slots at most; 0: none; None: as the window says.
    """

    def __init__(self, pool: Pool, window: BatchWindow, prefetch: int | None = None, patience_s: float = 0.05) -> None:
        self._pool = pool
        self._window = window
        self._prefetch = prefetch
        self.patience_s = patience_s
        self.ready: deque[Delivery] = deque()
        self._ready_since = 0.0
        #: batches of more than one that are in slots: (submitted at, deliveries), oldest first
        self._batches: deque[tuple[float, Sequence[Delivery]]] = deque()
        #: deliveries of unknown or long run time that are in slots
        self._alone: set[Delivery] = set()
        #: something went back since a slot was last free: holding more would only carry it to and fro
        self._stuck = False
        #: mean run time of what slots were last given alone, the slowest name of it; -1: not known
        self._mean_ns = -1

    @property
    def holding(self) -> bool:
        """Whether anything waits here, or in a slot behind something else."""
        return bool(self.ready or self._batches)

    def want(self, more: bool, held: int) -> int:
        """Return how many messages to fetch. ``more``: the last fetch brought all it asked for; ``held``: how many are here
        that have not ended."""
        lead = self._lead()
        if self.ready and 2 * len(self.ready) >= lead:
            return 0
        free, slots = self._pool.free, self._pool.slots
        size = 1 if self._prefetch == 0 else self._window.size()
        if size > 1:
            lead = 0
        if free:
            self._stuck = False
        elif size + lead < 2 or not more or self._stuck:
            return 0
        want = free + (size - 1) * slots + lead - len(self.ready)
        if self._prefetch is not None:
            want = min(want, slots + self._prefetch - held)
        return max(0, min(want, MAX_FETCH))

    def rest(self) -> None:
        """Start small again after an idle moment."""
        self._window.reset()

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Take in deliveries that passed the gate."""
        if deliveries and not self.ready:
            self._ready_since = time.monotonic()
        self.ready.extend(deliveries)

    def starts_unknown(self) -> bool:
        """Say whether the only slot is about to start a task that is not measured short."""
        return self._pool.slots == 1 and self._pool.free > 0 and bool(self.ready) and not self._short(self.ready[0])

    def behind_unknown(self, outcomes: int) -> list[Delivery]:
        """Take out what would wait behind such a task."""
        if len(self.ready) < 2 or not self.starts_unknown():
            return []
        first = self.ready.popleft()
        back = list(self.ready)
        self.ready.clear()
        self.ready.append(first)
        return back

    def feed(self, held: Container[Delivery]) -> list[Delivery]:
        """Submit to free slots; return what must go back. ``held``: what is not yet settled."""
        ready, pool = self.ready, self._pool
        batches = self._batches
        while batches and batches[0][1][-1] not in held:
            batches.popleft()
        if len(self._alone) > 2 * pool.slots:
            self._alone = {d for d in self._alone if d in held}
        now = time.monotonic()
        slowest_ns = 0
        while ready and pool.free > 0:
            if len(ready) > 1 and self._short(ready[0]):
                share = self._run_of_short(-(-len(ready) // pool.free))
                batch = [ready.popleft() for _ in range(share)]
                if len(batch) > 1:
                    batches.append((now, batch))
            else:
                batch = [ready.popleft()]
                if not self._short(batch[0]):
                    self._alone.add(batch[0])
                    mean_ns = self._mean_of(batch[0])
                    slowest_ns = mean_ns if mean_ns < 0 or slowest_ns < 0 else max(slowest_ns, mean_ns)
            pool.submit(batch)
            self._ready_since = now
        if slowest_ns:
            self._mean_ns = slowest_ns
        if ready and pool.free == 0 and len(self._alone) >= pool.slots:
            self._alone = {d for d in self._alone if d in held}
            if len(self._alone) >= pool.slots and len(ready) > (lead := self._lead()):
                back = list(islice(ready, lead, None))
                for _ in back:
                    ready.pop()
                self._stuck = True
                return back
        return []

    def _lead(self) -> int:
        """Return how many may wait behind tasks that are not short: as many as all slots together set free in LEAD_MS."""
        slots = self._pool.slots
        if slots < 2 or self._mean_ns <= 0 or self._prefetch == 0:
            return 0
        return int(slots * LEAD_MS * 1e6 / self._mean_ns)

    def batch_of(self, id: str) -> Sequence[Delivery]:
        """Return the batch of several that a task was put in a slot with; (): it is alone, or not in a slot."""
        return next((batch for _, batch in self._batches if any(d.id == id for d in batch)), ())

    def due_back(self) -> bool:
        """Say whether something has waited too long behind something that turned out long."""
        batches = self._batches
        if not (batches or self.ready):
            return False
        if self._pool.free == self._pool.slots:
            batches.clear()
            return False
        limit = time.monotonic() - self.patience_s
        return bool(batches and batches[0][0] < limit) or bool(self.ready and self._pool.free == 0 and self._ready_since < limit)

    def take_back(self, held: Container[Delivery]) -> list[Delivery]:
        """Take out what ``due_back`` meant; some of it may be running by now (the board decides).

        Without a record on the board nothing could decide, so such a delivery stays in the slot it was given to.
        """
        limit = time.monotonic() - self.patience_s
        back: list[Delivery] = []
        while self._batches and self._batches[0][0] < limit:
            back += [d for d in self._batches.popleft()[1] if d.record >= 0 and d in held]
        if self.ready and self._pool.free == 0 and self._ready_since < limit:
            back += self.ready
            self.ready.clear()
        self._stuck = True
        return back

    def drop(self, held: Iterable[Delivery], leased: Container[tuple[str, str]] = ()) -> list[Delivery]:
        """Take out all that is not in ``leased`` (queue, tag): of what is ``held`` all that may not have started, also in slots
        (the board decides, as above)."""
        out = [d for d in held if d.record >= 0 and (d.queue, d.tag) not in leased]
        out += [d for d in self.ready if d.record < 0 and (d.queue, d.tag) not in leased]
        kept = [d for d in self.ready if (d.queue, d.tag) in leased]
        self.ready.clear()
        self.ready.extend(kept)
        return out

    def take_out(self, deliveries: Iterable[Delivery]) -> set[Delivery]:
        """Take out those of some deliveries that wait here for a slot."""
        given = set(deliveries)
        out = {d for d in self.ready if d in given}
        if out:
            kept = [d for d in self.ready if d not in out]
            self.ready.clear()
            self.ready.extend(kept)
        return out

    def _run_of_short(self, most: int) -> int:
        """Return how many deliveries at the head, ``most`` at most, are measured short; asks once per run of one name."""
        n, last = 0, None
        for d in islice(self.ready, most):
            if d.entry is not last:
                if not self._short(d):
                    break
                last = d.entry
            n += 1
        return n

    def _mean_of(self, d: Delivery) -> int:
        return self._window.mean_ns(d.entry.index) if d.entry is not None else -1

    def _short(self, d: Delivery) -> bool:
        return d.entry is not None and self._window.short(d.entry.index)
