"""Wait for results without asking for each: the inbox of this process.

A process has one inbox, subscribed at its first wait: subscribe, read what came before, then wait. Whatever arrives is put straight
into the AsyncResult objects that the application holds (weakly known from the moment their task is sent), so a loop of ``get()``
over ten thousand results is a handful of calls.

As in the producer, nobody owns the socket: the caller that finds nobody reading reads it himself, hands out what comes, and passes
the *lead* on when his own result is there. A reader thread leads only while event loops wait and no other caller does.

Stories thought through:
- A result is stored before the subscription: it is read once, together with others sent before it (``unread``).
- The connection breaks: after the new subscription everything waited for is read again (a new *epoch*; what was sent in an
  earlier one is read before it is waited for).
- The server goes away without a word (half-open link): a slow poll, 1 to 30 s, reads what is waited for.
- The leader is interrupted while reading: the inbox may have half a message, so it is closed and the next leader subscribes again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from fastq.exceptions import OperationalError

if TYPE_CHECKING:
    import asyncio

    from fastq.transports.base import Inbox

__all__ = ["Awaited", "Waiter"]

logger = logging.getLogger("fastq.waiter")

#: the slow poll behind the inbox
POLL_FIRST_S, POLL_MOST_S = 1.0, 30.0
#: polling for results whose tasks this process did not send: there is no inbox for them
FOREIGN_FIRST_S, FOREIGN_MOST_S = 0.005, 0.5
#: records read in one call
READ_BATCH = 1_000
#: others' records read along with one that must be read
COMPANIONS = 255
#: how long an inbox may be unreachable before waiters are told
GIVE_UP_S = 30.0
#: seconds between attempts to read records: the first attempt finds a dead connection, the others a server that starts
READ_PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8)
#: how soon the reader thread sees that it is no longer needed
READER_STEP_S = 1.0
#: results remembered before those nobody holds any more are swept out
SWEEP_AT = 10_000


class Awaited(Protocol):
    """What the waiter needs of an AsyncResult."""

    id: str
    #: the inbox epoch in which its task was sent; -1: not sent by this process (nor one that forked it)
    epoch: int

    def arrived(self) -> bool:
        """Say whether its final record is here."""
        ...

    def deliver(self, record: bytes) -> bool:
        """Take a record; True if it is a final one."""
        ...


class _Ticket:
    """One caller's wait for some results."""

    __slots__ = ("error", "fresh", "gate", "lead", "loop", "missing", "wake")

    def __init__(self, missing: dict[str, list[Awaited]]) -> None:
        self.missing = missing
        #: results that have arrived and were not taken yet
        self.fresh: deque[Awaited] = deque()
        #: released when something arrived, when it should lead, or on error
        self.gate: threading.Lock | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.wake: asyncio.Event | None = None
        self.lead = False
        self.error: BaseException | None = None

    def notify(self) -> None:
        """Wake the caller. Called under the waiter's lock."""
        if self.gate is not None:
            if self.gate.locked():
                self.gate.release()
        elif self.loop is not None and self.wake is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self.wake.set)


class _State:
    """Everything that must not cross a fork."""

    __slots__ = (
        "base",
        "closing",
        "epoch",
        "gate",
        "inbox",
        "leading",
        "lock",
        "sent",
        "sweep_at",
        "thread",
        "tickets",
        "unread",
        "waiting",
    )

    def __init__(self, base: int) -> None:
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
        self.waiting: dict[str, list[_Ticket]] = {}
        self.tickets: dict[_Ticket, None] = {}
        self.thread: threading.Thread | None = None
        self.gate: threading.Lock | None = None


_waiters: weakref.WeakSet[Waiter] = weakref.WeakSet()
_inherited: list[object] = []


class Waiter:
    """Wait for results of one application in one process. Safe from any thread, greenlet and event loop."""

    def __init__(self, read: Callable[[Sequence[str]], list[bytes | None]], open_inbox: Callable[[], Inbox]) -> None:
        """``read`` asks the backend for records (from any thread); ``open_inbox`` makes this process' inbox, not yet open."""
        self._read = read
        self._open_inbox = open_inbox
        self._state_: _State | None = None
        self._base = 0
        _waiters.add(self)

    def _state(self) -> _State:
        state = self._state_
        if state is None:
            state = self.__dict__.setdefault("_first", _State(self._base))
            self._state_ = state
        return state

    # --- sending ---

    def expect(self, result: Awaited) -> None:
        """Note a result before its task is sent, so that its record finds it however fast it comes."""
        state = self._state_ or self._state()
        result.epoch = state.epoch
        sent = state.sent
        sent[result.id] = weakref.ref(result)
        if len(sent) > state.sweep_at:
            self._sweep(state)

    def _sweep(self, state: _State) -> None:
        # in place and without the lock: another thread may be adding, and a destructor may have brought us here
        sent = state.sent
        for id, ref in list(sent.items()):
            if ref() is None:
                sent.pop(id, None)
        state.sweep_at = max(SWEEP_AT, 2 * len(sent))

    # --- waiting ---

    def wait(self, results: Iterable[Awaited], timeout_s: float | None, *, first: bool = False) -> list[Awaited]:
        """Wait until all (``first``: at least one) of the results have arrived or the time is over; return those that have.

        Raises OperationalError when the inbox could not be reached for a while.
        """
        missing = _missing(results)
        if not missing:
            return []
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        state = self._state()
        if any(result.epoch < state.base for group in missing.values() for result in group):
            return self._poll(missing, deadline, first)
        ticket = _Ticket(missing)
        ticket.gate = threading.Lock()
        ticket.gate.acquire()
        stale = self._enter(state, ticket)
        try:
            while stale:
                self._read_batch(state, stale)
            while ticket.missing and not (first and ticket.fresh):
                if ticket.error is not None:
                    raise ticket.error
                with state.lock:
                    lead = ticket.lead or not state.leading
                    if lead:
                        ticket.lead = state.leading = True
                if lead:
                    if not self._lead(state, ticket, deadline, first):
                        break
                else:
                    left = POLL_MOST_S if deadline is None else deadline - time.monotonic()
                    if left <= 0:
                        self._read_waiting(state, ticket)  # a last look, as the leader takes one
                        break
                    ticket.gate.acquire(timeout=min(left, POLL_MOST_S))
        finally:
            self._leave(state, ticket)
        return list(ticket.fresh)

    def _poll(self, missing: dict[str, list[Awaited]], deadline: float | None, first: bool) -> list[Awaited]:
        """Read with back-off what this process did not send."""
        found: list[Awaited] = []
        pause_s = FOREIGN_FIRST_S
        while True:
            for id, record in self._records(list(missing)):
                if record is None:
                    continue
                group = missing[id]
                if all([result.deliver(record) for result in group]):
                    del missing[id]
                    found.extend(group)
            if not missing or (first and found):
                return found
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return found
                pause_s = min(pause_s, left)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, FOREIGN_MOST_S)

    def _enter(self, state: _State, ticket: _Ticket) -> deque[str]:
        """Register a wait; return the ids it must read itself, because they were sent before this subscription."""
        stale: deque[str] = deque()
        with state.lock:
            state.tickets[ticket] = None
            for id, group in ticket.missing.items():
                state.waiting.setdefault(id, []).append(ticket)
                if id not in state.sent:
                    state.sent[id] = weakref.ref(group[0])
                if state.inbox is not None and any(result.epoch != state.epoch for result in group):
                    stale.append(id)
                    for result in group:
                        result.epoch = state.epoch
        # what arrived between the caller's look and the registration went into the result, not into the ticket
        for id, group in list(ticket.missing.items()):
            if all(result.arrived() for result in group):
                self._hand_out(state, ticket, id)
        return stale

    def _hand_out(self, state: _State, ticket: _Ticket, id: str) -> None:
        with state.lock:
            group = ticket.missing.pop(id, None)
            if group is not None:
                ticket.fresh.extend(group)
                self._forget(state, ticket, id)

    @staticmethod
    def _forget(state: _State, ticket: _Ticket, id: str) -> None:
        tickets = state.waiting.get(id)
        if tickets is not None:
            if ticket in tickets:
                tickets.remove(ticket)
            if not tickets:
                del state.waiting[id]

    def _leave(self, state: _State, ticket: _Ticket) -> None:
        then: Callable[[], object] | None = None
        with state.lock:
            state.tickets.pop(ticket, None)
            for id in ticket.missing:
                self._forget(state, ticket, id)
            if ticket.lead:
                then = self._pass_lead(state)
        if then is not None:
            then()

    def _pass_lead(self, state: _State) -> Callable[[], object] | None:
        """Give the lead to another caller, else to the reader thread if event loops wait. Called under the lock; returns what
        is to be called after it."""
        heir = next((ticket for ticket in state.tickets if ticket.gate is not None), None)
        if heir is not None:
            heir.lead = True
            heir.notify()
            return None
        if state.tickets:
            return self._reader_gate(state).release
        state.leading = False
        if state.closing:
            state.closing = False
            inbox, state.inbox = state.inbox, None
            return inbox.close if inbox is not None else None
        return None

    # --- leading ---

    def _lead(self, state: _State, ticket: _Ticket | None, deadline: float | None, first: bool) -> bool:
        """Read the inbox until the ticket has what it waits for; False when the time is over.

        ``ticket`` None: the reader thread, which leads until no event loop waits or another caller does.
        """
        poll_s = POLL_FIRST_S
        poll_at = time.monotonic() + poll_s
        while True:
            if ticket is None:
                with state.lock:
                    if not state.tickets or any(t.gate is not None for t in state.tickets):
                        return True
            elif not ticket.missing or (first and ticket.fresh) or ticket.error is not None:
                return True
            now = time.monotonic()
            left = None if deadline is None else max(0.0, deadline - now)
            wait_s = max(0.0, poll_at - now)
            if ticket is None:
                wait_s = min(wait_s, READER_STEP_S)
            elif left is not None:
                wait_s = min(wait_s, left)
            inbox = state.inbox
            if inbox is None:
                if not self._open(state, deadline):
                    return False
                continue  # what is waited for has been read: it may be over
            try:
                arrivals = inbox.read(wait_s)
            except OperationalError as exc:
                logger.warning("Lost the connection to the inbox, subscribing again: %s", exc)
                self._drop_inbox(state)
                continue
            except BaseException:
                self._drop_inbox(state)
                raise
            if arrivals:
                poll_s = POLL_FIRST_S
                poll_at = time.monotonic() + poll_s
                self._take(state, arrivals)
                continue
            if left is not None and wait_s >= left:
                # a last look, so that a result whose word was lost is not called late
                self._read_waiting(state, ticket)
                return ticket is None or not ticket.missing or (first and bool(ticket.fresh))
            # a wait may end a moment early
            if time.monotonic() >= poll_at - 0.001:
                self._read_waiting(state, None)
                poll_s = min(poll_s * 2, POLL_MOST_S)
                poll_at = time.monotonic() + poll_s

    def _open(self, state: _State, deadline: float | None) -> bool:
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
                    with state.lock:
                        for ticket in state.tickets:
                            ticket.error = exc
                            ticket.notify()
                    raise
                if deadline is not None and now + pause_s > deadline:
                    return False
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)
            except BaseException:
                if inbox is not None:
                    inbox.close()
                raise
        with state.lock:
            state.inbox = inbox
            state.epoch += 1
            waiting = deque(state.waiting)
            for ticket in state.tickets:
                for group in ticket.missing.values():
                    for result in group:
                        result.epoch = state.epoch
            alive = ((id, ref()) for id, ref in list(state.sent.items()))
            state.unread = deque(id for id, result in alive if result is not None and id not in state.waiting)
        while waiting:
            self._read_batch(state, waiting)
        return True

    def _drop_inbox(self, state: _State) -> None:
        with state.lock:
            inbox, state.inbox = state.inbox, None
        if inbox is not None:
            inbox.close()

    def _read_batch(self, state: _State, ids: deque[str]) -> None:
        """Read up to a batch of ids from the backend (taken from ``ids``), with companions that must be read some time anyway."""
        batch = [ids.popleft() for _ in range(min(len(ids), READ_BATCH))]
        # one that is waited for is worth a call; others sent before the subscription ride along
        unread = state.unread
        companions = 0
        while unread and companions < COMPANIONS and len(batch) < READ_BATCH:
            try:
                id = unread.popleft()
            except IndexError:  # another caller took the last
                break
            ref = state.sent.get(id)
            result = ref() if ref is not None else None
            if result is not None and not result.arrived():
                result.epoch = state.epoch
                batch.append(id)
                companions += 1
        if batch:
            self._take(state, self._records(batch), from_backend=True)

    def _read_waiting(self, state: _State, ticket: _Ticket | None) -> None:
        """The slow poll: read what somebody (or one ticket) waits for."""
        with state.lock:
            ids = list(state.waiting if ticket is None else ticket.missing)
        if ids:
            self._take(state, self._records(ids), from_backend=True)

    def _records(self, ids: Sequence[str]) -> list[tuple[str, bytes | None]]:
        found: list[tuple[str, bytes | None]] = []
        for start in range(0, len(ids), READ_BATCH):
            part = ids[start : start + READ_BATCH]
            found.extend(zip(part, self._read_again(part), strict=True))
        return found

    def _read_again(self, ids: Sequence[str]) -> list[bytes | None]:
        """Read records; a connection that a restarted server has dropped shows at its next use, so try a few times."""
        for pause_s in READ_PAUSES_S:
            try:
                return self._read(ids)
            except OperationalError as exc:
                logger.info("Could not read results, trying again in %g s: %s", pause_s, exc)
                time.sleep(pause_s)
        return self._read(ids)

    def _take(self, state: _State, arrivals: Iterable[tuple[str, bytes | None]], from_backend: bool = False) -> None:
        """Put records into results and wake who waits for them."""
        large: list[str] = []
        woken: dict[_Ticket, None] = {}
        with state.lock:
            for id, record in arrivals:
                if record is None:
                    if not from_backend and (id in state.waiting or id in state.sent):
                        large.append(id)
                    continue
                ref = state.sent.get(id)
                result = ref() if ref is not None else None
                final = result.deliver(record) if result is not None else False
                for ticket in list(state.waiting.get(id, ())):
                    group = ticket.missing[id]
                    if all([other is result or other.deliver(record) for other in group]):
                        final = final or result is None
                        if final:
                            del ticket.missing[id]
                            self._forget(state, ticket, id)
                            ticket.fresh.extend(group)
                            woken[ticket] = None
                if final or result is None:
                    state.sent.pop(id, None)
            for ticket in woken:
                ticket.notify()
        if large:  # too large for the inbox message: it said only that they are there
            self._take(state, self._records(large), from_backend=True)

    # --- event loops ---

    async def await_(self, results: Iterable[Awaited], timeout_s: float | None, *, first: bool = False) -> list[Awaited]:
        """``wait`` for an event loop, any of several."""
        import asyncio  # lazy: only where an event loop runs already

        missing = _missing(results)
        if not missing:
            return []
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        state = self._state()
        if any(result.epoch < state.base for group in missing.values() for result in group):
            return await self._apoll(missing, deadline, first)
        ticket = _Ticket(missing)
        ticket.loop = loop
        ticket.wake = asyncio.Event()
        stale = self._enter(state, ticket)
        try:
            while stale:
                await loop.run_in_executor(None, self._read_batch, state, stale)
            while ticket.missing and not (first and ticket.fresh):
                if ticket.error is not None:
                    raise ticket.error
                ticket.wake.clear()
                self._call_reader(state)
                if ticket.missing and not (first and ticket.fresh):
                    left = None if deadline is None else deadline - loop.time()
                    if left is not None and left <= 0:
                        break
                    try:
                        async with asyncio.timeout(left):
                            await ticket.wake.wait()
                    except TimeoutError:
                        break
            if ticket.missing and not (first and ticket.fresh):
                await loop.run_in_executor(None, self._read_waiting, state, ticket)
        finally:
            self._leave(state, ticket)
        return list(ticket.fresh)

    async def _apoll(self, missing: dict[str, list[Awaited]], deadline: float | None, first: bool) -> list[Awaited]:
        import asyncio  # lazy: only where an event loop runs already

        loop = asyncio.get_running_loop()
        found: list[Awaited] = []
        pause_s = FOREIGN_FIRST_S
        while True:
            found += await loop.run_in_executor(None, self._poll, missing, 0.0, first)
            if not missing or (first and found):
                return found
            if deadline is not None:
                left = deadline - loop.time()
                if left <= 0:
                    return found
                pause_s = min(pause_s, left)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, FOREIGN_MOST_S)

    def _call_reader(self, state: _State) -> None:
        """Make the reader thread lead if nobody does."""
        gate: threading.Lock | None = None
        with state.lock:
            if not state.leading:
                state.leading = True
                gate = self._reader_gate(state)
        if gate is not None:
            gate.release()

    def _reader_gate(self, state: _State) -> threading.Lock:
        gate = state.gate
        if gate is None:
            gate = state.gate = threading.Lock()
            gate.acquire()
        if state.thread is None or not state.thread.is_alive():
            state.thread = threading.Thread(
                target=_read_for_loops, args=(weakref.ref(self), state, gate), name="fastq-inbox", daemon=True
            )
            state.thread.start()
        return gate

    # --- end ---

    def close(self) -> None:
        """Drop the subscription; a later wait subscribes again."""
        state = self._state_
        if state is not None:
            with state.lock:
                state.closing = state.leading
            if not state.closing:
                self._drop_inbox(state)

    def _after_fork(self) -> None:
        state = self.__dict__.pop("_first", None)
        self._state_ = None
        if state is not None:
            _inherited.append(state)
            self._base = state.epoch + 1


def _missing(results: Iterable[Awaited]) -> dict[str, list[Awaited]]:
    missing: dict[str, list[Awaited]] = {}
    for result in results:
        if not result.arrived():
            missing.setdefault(result.id, []).append(result)
    return missing


def _read_for_loops(owner: weakref.ref[Waiter], state: _State, gate: threading.Lock) -> None:
    """Lead for event loops, whenever woken."""
    while True:
        gate.acquire()
        waiter = owner()
        if waiter is None:
            return
        then: Callable[[], object] | None = None
        try:
            waiter._lead(state, None, None, False)
        except OperationalError as exc:  # every ticket has been told
            logger.error("The inbox cannot be reached: %s", exc)
        finally:
            with state.lock:
                then = waiter._pass_lead(state)
            if then is not None:
                then()
            del waiter


def _after_fork_in_child() -> None:
    for waiter in list(_waiters):
        waiter._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
