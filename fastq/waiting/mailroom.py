"""What one process knows of the results it waits for, and the reading of its inbox.

Nobody owns the socket: the caller that finds nobody reading reads it himself, hands out what comes, and passes the *lead* on when
his own result is there. A reader thread leads only while event loops wait and no other caller does.

Stories thought through:
- A result is stored before the subscription: it is read once, together with others sent before it (``unread``).
- The connection breaks: after the new subscription everything waited for is read again (a new *epoch*; what was sent in an
  earlier one is read before it is waited for).
- The server goes away without a word (half-open link): a slow poll, 1 to 30 s, reads what is waited for; what it finds should have
  come through the inbox, so that is opened anew.
- The leader is interrupted while reading: the inbox may have half a message, so it is closed and the next leader subscribes again.
- A state that is not final (STARTED, PROGRESS, RETRY) comes through the inbox: it is put into the result, and the wait goes on.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from fastq.exceptions import OperationalError
from fastq.waiting.loop_reader import READER_STEP_S, LoopReader
from fastq.waiting.record_reads import READ_BATCH, Records
from fastq.waiting.tickets import Awaited, Ticket, Watched

if TYPE_CHECKING:
    from fastq.transports.base import Inbox

__all__ = ["Mailroom"]

logger = logging.getLogger("fastq.waiting.waiter")

#: the slow poll behind the inbox
POLL_FIRST_S, POLL_MOST_S = 1.0, 30.0
#: others' records read along with one that must be read
COMPANIONS = 255
#: how long an inbox may be unreachable before waiters are told
GIVE_UP_S = 30.0
#: results remembered before those nobody holds any more are swept out
SWEEP_AT = 10_000


class Mailroom:
    """Everything about waiting that must not cross a fork. Safe from any thread and greenlet."""

    __slots__ = (
        "__weakref__", "_open_inbox", "base", "closing", "epoch", "inbox", "leading", "lock", "reader", "records", "ripe",
        "sent", "sweep_at", "tickets", "unread", "waiting", "watched",
    )  # fmt: skip

    def __init__(self, base: int, read: Callable[[Sequence[str]], list[bytes | None]], open_inbox: Callable[[], Inbox]) -> None:
        self.records = Records(read)
        self._open_inbox = open_inbox
        self.lock = threading.Lock()
        self.leading = False
        self.inbox: Inbox | None = None
        #: whoever leads drops the inbox when it is done
        self.closing = False
        #: epochs below are those of the process that forked this one: their results go to its inbox
        self.base = base
        #: rises with every subscription
        self.epoch = base
        #: results of tasks sent from here whose record has not come
        self.sent: dict[str, weakref.ref[Awaited]] = {}
        self.sweep_at = SWEEP_AT
        #: ids sent before the subscription, not read yet
        self.unread: deque[str] = deque()
        self.waiting: dict[str, list[Ticket]] = {}
        self.tickets: dict[Ticket, None] = {}
        #: results that want to be told when they have come, by identity
        self.watched: dict[int, Watched] = {}
        #: those of them that have come and were not told yet
        self.ripe: deque[Watched] = deque()
        self.reader = LoopReader(self)

    def sweep(self) -> None:
        """Forget results that nobody holds any more."""
        # in place and without the lock: another thread may be adding, and a destructor may have brought us here
        sent = self.sent
        # a copy, not list(items()): making the pairs may collect garbage, and what that runs lets the other thread in
        for id, ref in sent.copy().items():
            if ref() is None:
                sent.pop(id, None)
        self.sweep_at = max(SWEEP_AT, 2 * len(sent))

    # --- tickets ---

    def enter(self, ticket: Ticket) -> deque[str]:
        """Register a wait; return the ids it must read itself, because they were sent before this subscription."""
        stale: deque[str] = deque()
        with self.lock:
            self.tickets[ticket] = None
            for id, group in ticket.missing.items():
                self.waiting.setdefault(id, []).append(ticket)
                if id not in self.sent:
                    self.sent[id] = weakref.ref(group[0])
                if self.inbox is not None and any(result.epoch != self.epoch for result in group):
                    stale.append(id)
                    for result in group:
                        result.epoch = self.epoch
        # what arrived between the caller's look and the registration went into the result, not into the ticket
        for id, group in ticket.missing.copy().items():
            if all(result.arrived() for result in group):
                self._hand_out(ticket, id)
        return stale

    def _hand_out(self, ticket: Ticket, id: str) -> None:
        with self.lock:
            group = ticket.missing.pop(id, None)
            if group is not None:
                ticket.fresh.extend(group)
                self._forget(ticket, id)

    def _forget(self, ticket: Ticket, id: str) -> None:
        tickets = self.waiting.get(id)
        if tickets is not None:
            if ticket in tickets:
                tickets.remove(ticket)
            if not tickets:
                del self.waiting[id]

    def leave(self, ticket: Ticket) -> None:
        """Forget a wait."""
        with self.lock:
            for id in ticket.missing:
                self._forget(ticket, id)
        self.step_out(ticket)

    def step_out(self, ticket: Ticket) -> None:
        """Let others lead while the caller works with what has come; its results still find it.

        Also the moment to tell results that want to be told: what they do may wait itself.
        """
        then: Callable[[], object] | None = None
        with self.lock:
            self.tickets.pop(ticket, None)
            if ticket.lead:
                ticket.lead = False
                then = self.pass_lead()
        if then is not None:
            then()
        if self.ripe:
            self.tell_ripe()

    def step_in(self, ticket: Ticket) -> None:
        """Undo ``step_out``."""
        with self.lock:
            self.tickets[ticket] = None

    def pass_lead(self) -> Callable[[], object] | None:
        """Give the lead to another caller, else to the reader thread if event loops wait. Called under the lock; returns what
        is to be called after it."""
        heir = next((ticket for ticket in self.tickets if ticket.gate is not None), None)
        if heir is not None:
            heir.lead = True
            heir.notify()
            return None
        if self.tickets and not self.ripe:
            return self.reader.wake()
        self.leading = False
        if self.closing:
            self.closing = False
            inbox, self.inbox = self.inbox, None
            return inbox.close if inbox is not None else None
        return None

    def serve(self, ticket: Ticket, deadline: float | None, first: bool) -> None:
        """Lead, or wait while another caller does, until the ticket has what it waits for or the time is over."""
        gate = ticket.gate
        assert gate is not None
        while ticket.waits(first):
            if ticket.error is not None:
                raise ticket.error
            if self.ripe:
                self.step_out(ticket)
                self.step_in(ticket)
                continue
            with self.lock:
                lead = ticket.lead or not self.leading
                if lead:
                    ticket.lead = self.leading = True
            if lead:
                if not self.lead(ticket, deadline, first):
                    return
            else:
                left = POLL_MOST_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    self.read_waiting(ticket)  # a last look, as the leader takes one
                    return
                gate.acquire(timeout=min(left, POLL_MOST_S))

    # --- leading ---

    def lead(self, ticket: Ticket | None, deadline: float | None, first: bool) -> bool:
        """Read the inbox until the ticket has what it waits for; False when the time is over.

        ``ticket`` None: the reader thread, which leads until no event loop waits or another caller does.
        """
        poll_s = POLL_FIRST_S
        poll_at = time.monotonic() + poll_s
        while True:
            if ticket is None:
                with self.lock:
                    if self.ripe or not self.tickets or any(t.gate is not None for t in self.tickets):
                        return True
            elif self.ripe or ticket.error is not None or not ticket.waits(first):
                return True
            now = time.monotonic()
            left = None if deadline is None else max(0.0, deadline - now)
            wait_s = max(0.0, poll_at - now)
            if ticket is None:
                wait_s = min(wait_s, READER_STEP_S)
            elif left is not None:
                wait_s = min(wait_s, left)
            inbox = self.inbox
            if inbox is None:
                if not self._open(deadline):
                    return False
                continue  # what is waited for has been read: it may be over
            try:
                arrivals = inbox.read(wait_s)
            except OperationalError as exc:
                logger.warning("Lost the connection to the inbox, subscribing again: %s", exc)
                self.drop_inbox()
                continue
            except BaseException:
                self.drop_inbox()
                raise
            if arrivals:
                poll_s = POLL_FIRST_S
                poll_at = time.monotonic() + poll_s
                self._take(arrivals)
                continue
            if left is not None and wait_s >= left:
                # a last look, so that a result whose word was lost is not called late
                self.read_waiting(ticket)
                return ticket is None or not ticket.waits(first)
            # a wait may end a moment early
            if time.monotonic() >= poll_at - 0.001:
                if self.read_waiting(None):
                    # a word that never came: the link is half-open, or the server has restarted behind a proxy. At worst it was on
                    # its way just now, and subscribing again costs a round trip
                    logger.info("Results came without a word in the inbox: subscribing again")
                    self.drop_inbox()
                poll_s = min(poll_s * 2, POLL_MOST_S)
                poll_at = time.monotonic() + poll_s

    def _open(self, deadline: float | None) -> bool:
        """Subscribe, then read what is waited for. False when the time is over."""
        began = time.monotonic()
        pause_s = 0.05
        while True:
            inbox: Inbox | None = None
            try:
                inbox = self._open_inbox()
                inbox.open()
                break
            except OperationalError as exc:
                if inbox is not None:
                    inbox.close()
                now = time.monotonic()
                if now - began > GIVE_UP_S:
                    with self.lock:
                        for ticket in self.tickets:
                            ticket.error = exc
                            ticket.notify()
                    raise
                if deadline is not None:
                    if now >= deadline:
                        return False
                    pause_s = min(pause_s, deadline - now)
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)
            except BaseException:
                if inbox is not None:
                    inbox.close()
                raise
        with self.lock:
            self.inbox = inbox
            self.epoch += 1
            waiting = deque(self.waiting)
            for ticket in self.tickets:
                for group in ticket.missing.values():
                    for result in group:
                        result.epoch = self.epoch
            alive = ((id, ref()) for id, ref in self.sent.copy().items())
            self.unread = deque(id for id, result in alive if result is not None and id not in self.waiting)
        while waiting:
            self.read_batch(waiting)
        return True

    def drop_inbox(self) -> None:
        """Close the inbox; the next leader subscribes again."""
        with self.lock:
            inbox, self.inbox = self.inbox, None
        if inbox is not None:
            inbox.close()

    def close(self) -> None:
        """Drop the inbox, at once or when the leader is done."""
        with self.lock:
            self.closing = self.leading
        if not self.closing:
            self.drop_inbox()

    # --- records ---

    def read_batch(self, ids: deque[str]) -> None:
        """Read up to a batch of ids from the backend (taken from ``ids``), with companions that must be read some time anyway."""
        batch = [ids.popleft() for _ in range(min(len(ids), READ_BATCH))]
        # one that is waited for is worth a call; others sent before the subscription ride along
        unread = self.unread
        companions = 0
        while unread and companions < COMPANIONS and len(batch) < READ_BATCH:
            try:
                id = unread.popleft()
            except IndexError:  # another caller took the last
                break
            ref = self.sent.get(id)
            result = ref() if ref is not None else None
            if result is not None and not result.arrived():
                result.epoch = self.epoch
                batch.append(id)
                companions += 1
        if batch:
            self._take(self.records.of(batch), from_backend=True)

    def read_waiting(self, ticket: Ticket | None) -> bool:
        """Read what somebody (or one ticket) waits for: the slow poll, and the last look before a timeout. True: some was there."""
        with self.lock:
            ids = list(self.waiting if ticket is None else ticket.missing)
        return bool(ids) and self._take(self.records.of(ids), from_backend=True)

    def _take(self, arrivals: Iterable[tuple[str, bytes | None]], from_backend: bool = False) -> bool:
        """Put records into results and wake who waits for them; True if somebody was."""
        large: list[str] = []
        woken: dict[Ticket, None] = {}
        with self.lock:
            for id, record in arrivals:
                if record is None:
                    if not from_backend and (id in self.waiting or id in self.sent):
                        large.append(id)
                    continue
                ref = self.sent.get(id)
                result = ref() if ref is not None else None
                final = result.deliver(record) if result is not None else False
                for ticket in list(self.waiting.get(id, ())):
                    group = ticket.missing[id]
                    if all([other is result or other.deliver(record) for other in group]):
                        final = final or result is None
                        if final:
                            del ticket.missing[id]
                            self._forget(ticket, id)
                            ticket.fresh.extend(group)
                            woken[ticket] = None
                if final or result is None:
                    self.sent.pop(id, None)
            for ticket in woken:
                ticket.notify()
        if self.watched:
            self.ripen()
        if large:  # too large for the inbox message: it said only that they are there
            self._take(self.records.of(large), from_backend=True)
        return bool(woken)

    def ripen(self, records: Iterable[tuple[str, bytes | None]] = ()) -> None:
        """Find the watched results that have come; ``records`` may be theirs."""
        read = {id: record for id, record in records if record is not None}
        with self.lock:
            for result in self.watched.values():
                if result.id in read:
                    result.deliver(read[result.id])
            come = {key: result for key, result in self.watched.items() if result.arrived()}
            for key in come:
                del self.watched[key]
            self.ripe.extend(come.values())

    def tell_ripe(self) -> None:
        """Let watched results that have come do what they should. Not while leading: that may wait for other results."""
        while True:
            try:
                result = self.ripe.popleft()
            except IndexError:  # that was the last, or another caller took it
                break
            result.fire()
        if any(ticket.gate is None for ticket in list(self.tickets)):
            self.reader.call()  # the lead was not passed to it, so that it was free for these
