"""The lane: who leads, who is queued, and who is woken in which order. One producer name has one; it never crosses a fork."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastq.producer.ticket import Ticket

if TYPE_CHECKING:
    from fastq.producer.producer import Producer
    from fastq.transports.base import Broker

__all__ = ["Lane"]

#: messages in one call: what one script may take (DESIGN, protocol rules)
MAX_BATCH = 1_000
#: how long callers wake each other one by one (s) before all that are left are woken at once. Fifty need half a millisecond; where
#: another thread computes, the first of them waits one switch interval (5 ms) for the interpreter, and is late
CHAIN_S = 0.004


class Lane:
    """The state of one producer name: everything that must not cross a fork."""

    __slots__ = (
        "_owner",
        "broker",
        "chain",
        "chain_until",
        "committer",
        "committer_gate",
        "crowd",
        "finished",
        "leading",
        "lock",
        "name",
        "number",
        "offset_ms",
        "open",
        "passing",
        "queue",
    )

    def __init__(self, owner: weakref.ref[Producer]) -> None:
        #: whose it is, for the thread that leads for event loops and ends with it
        self._owner = owner
        self.name = os.urandom(8).hex()
        self.number = 0
        self.lock = threading.Lock()
        self.leading = False
        self.queue: deque[Ticket] = deque()
        #: how many callers shared the last calls, smoothed: with 2 and more a leader looks round for others before it sends
        self.crowd = 0
        #: tickets of finished calls that this leader has not woken yet
        self.finished: list[Ticket] = []
        #: tickets to be woken one by one, each by the one before; None: here the lead is handed on
        self.chain: deque[Ticket | None] = deque()
        #: some ticket holds the chain
        self.passing = False
        #: when the chain is broken up (monotonic clock)
        self.chain_until = 0.0
        #: a call that was interrupted, to be repeated as it was
        self.open: tuple[int, list[Ticket]] | None = None
        self.broker: Broker | None = None
        #: broker's clock minus this machine's; None: not asked yet
        self.offset_ms: int | None = None
        self.committer: threading.Thread | None = None
        self.committer_gate: threading.Lock | None = None

    def withdraw(self, ticket: Ticket) -> None:
        """Take an interrupted caller's ticket out: not to be woken, no heir of the lead, not sent if it was not yet."""
        with self.lock:
            ticket.wake = None
            if ticket in self.queue:
                self.queue.remove(ticket)

    def next_batch(self) -> list[Ticket]:
        """Take the tickets of the next call: those of one retry policy, up to a full batch."""
        with self.lock:
            if self.open is not None:
                return self.open[1]
            queue = self.queue
            if not queue:
                return []
            batch: list[Ticket] = []
            size = 0
            policy = queue[0].policy
            while queue:
                ticket = queue[0]
                size += len(ticket.publications) + len(ticket.openings)
                if batch and (size > MAX_BATCH or (ticket.policy is not policy and ticket.policy != policy)):
                    break
                batch.append(queue.popleft())
            self.crowd = (self.crowd + len(batch)) // 2
            return batch

    # --- waking ---

    def hand_over(self) -> None:
        """Wake who is done and, behind them, give the lead to the first in the queue, or to nobody."""
        with self.lock:
            if self.finished or self.passing:
                self._extend([*self.finished, None])
            elif self.queue or self.open is not None:
                self._appoint()
            else:
                self.leading = False

    def wake_finished(self) -> None:
        """Wake who is done, and keep the lead."""
        with self.lock:
            self._extend(self.finished)

    def _extend(self, links: Sequence[Ticket | None]) -> None:
        self.chain.extend(links)
        self.finished.clear()
        if not self.passing:
            # a greenlet costs no wait for the interpreter: all at once
            self.chain_until = time.monotonic() + CHAIN_S if threading.Lock.__module__ == "_thread" else 0.0
            self._step()

    def pass_on(self) -> None:
        with self.lock:
            self._step()

    def _step(self) -> None:
        """Wake the next of the chain, or all if it takes too long. Called under the lock, by who holds the chain."""
        chain = self.chain
        self.passing = False
        late = chain and time.monotonic() > self.chain_until
        while chain:
            link = chain.popleft()
            if link is None:
                self._appoint()
            elif (wake := link.wake) is not None:
                link.wake = None
                if not late:
                    link.holds = self.passing = True
                    wake()
                    return
                wake()

    def _appoint(self) -> None:
        """Give the lead to the first who waits, or to nobody. Called under the lock."""
        heir: Ticket | None = None
        if self.open is not None:
            heir = next((ticket for ticket in self.open[1] if not ticket.done and ticket.wake is not None), None)
        if heir is None:
            heir = next((ticket for ticket in self.queue if ticket.wake is not None), None)
        if heir is not None:
            assert heir.wake is not None
            heir.lead = True
            wake, heir.wake = heir.wake, None
            wake()
        elif self.queue or self.open is not None:  # only event loops wait: their thread leads
            self.committers_gate().release()
        else:
            self.leading = False

    def committers_gate(self) -> threading.Lock:
        """Return what wakes the committer thread, starting it if need be. Called under the lane's lock."""
        gate = self.committer_gate
        if gate is None:
            gate = self.committer_gate = threading.Lock()
            gate.acquire()
        if self.committer is None or not self.committer.is_alive():
            self.committer = threading.Thread(target=_commit, args=(self._owner, self, gate), name="fastq-committer", daemon=True)
            self.committer.start()
        return gate


def _commit(owner: weakref.ref[Producer], lane: Lane, gate: threading.Lock) -> None:
    """Lead for event loops, whenever woken. Ends with its producer."""
    while True:
        gate.acquire()
        producer = owner()
        if producer is None:
            return
        try:
            producer.lead(lane, None)
        finally:
            lane.hand_over()
            del producer
