"""Send messages, in few round trips whoever calls: group commit.

The caller that finds no call in flight becomes the *leader*: it publishes its own messages. Callers that come meanwhile queue a
*ticket* and wait; when the leader's call is answered it hands the lead to the first of them, who publishes everything queued as
one numbered call. So one producer has one call in flight, each call returns only when its own messages are in, and nobody
waits for a timer. Tickets of event loops are led by a small thread, which exists only where ``adelay`` is used.

Threads are woken in a *chain*: the leader wakes the first whose message is in, each wakes the next before it goes on, and the last
wakes the next leader, who by then finds the queue full. So two threads at a time want the interpreter, not fifty (16 us of CPU a
message against 22, with fifty threads on two cores).

Stories thought through:
- The leader is interrupted (KeyboardInterrupt, a greenlet's timeout) in the middle of a call that carries others' messages: the
  batch stays open, and whoever leads next repeats it under its own number, so the broker keeps it once.
- A follower is interrupted while it waits: its ticket is withdrawn if still queued; if the lead was just handed to it, it hands
  it on.
- A follower is interrupted while a chain passes. Either it comes first: it takes its wake out of the ticket, and the chain steps
  over it. Or the one before it does, takes the wake and marks it as holder: it wakes the next on its way out. Both act under the
  lock, so there is no third way.
- Another thread computes: each link of the chain then waits a switch interval for the interpreter. The first that comes late wakes
  all that are left.
- The process forks while another thread holds these locks: the child has new ones, a new producer name and a new connection;
  the parent's broker object is kept but never used or closed there, because closing could speak on the parent's socket.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from fastq.exceptions import OperationalError
from fastq.records import Opening, Publication

if TYPE_CHECKING:
    import asyncio

    from fastq.transports.base import Broker

__all__ = ["NO_RETRY", "Producer", "RetryPolicy"]

#: messages in one call: what one script may take (DESIGN, protocol rules)
MAX_BATCH = 1_000
#: how long interpreter exit waits for what ``adelay`` has accepted, once the broker cannot be reached
EXIT_WAIT_S = 30.0
#: how long callers wake each other one by one (s) before all that are left are woken at once. Fifty need half a millisecond; where
#: another thread computes, the first of them waits one switch interval (5 ms) for the interpreter, and is late
CHAIN_S = 0.004


class RetryPolicy(NamedTuple):
    """How often and when a publish is tried again; names and meaning are Celery's."""

    #: None: no end
    max_retries: int | None = 3
    interval_start_s: float = 0.0
    interval_step_s: float = 0.2
    interval_max_s: float = 1.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RetryPolicy:
        """Read ``task_publish_retry_policy``; keys that are missing have their defaults."""
        known = {"max_retries", "interval_start", "interval_step", "interval_max"}
        # Celery's retry_errors and errback are for its client library's own errors
        if unknown := set(values) - known - {"retry_errors", "errback"}:
            raise ValueError(f"unknown keys {sorted(unknown)} in the publish retry policy, expected some of {sorted(known)}")
        retries = values.get("max_retries", 3)
        return cls(
            None if retries is None else int(retries),
            float(values.get("interval_start") or 0.0),
            float(values.get("interval_step", 0.2) or 0.0),
            float(values.get("interval_max", 1.0) or 0.0),
        )

    def pause_s(self, attempt: int) -> float | None:
        """Return how long to wait after the ``attempt``-th failure (from 1), None: give up."""
        if self.max_retries is not None and attempt > self.max_retries:
            return None
        return min(self.interval_start_s + (attempt - 1) * self.interval_step_s, max(self.interval_max_s, self.interval_start_s))


NO_RETRY = RetryPolicy(max_retries=0)
_DEFAULT = RetryPolicy()


class _Ticket:
    """What one caller has queued."""

    __slots__ = ("done", "error", "holds", "ids", "lead", "openings", "policy", "publications", "wait", "wake")

    def __init__(
        self, publications: Sequence[Publication], ids: Sequence[str], policy: RetryPolicy, openings: Sequence[Opening] = ()
    ) -> None:
        self.publications = publications
        #: joins that members among the publications count for
        self.openings = openings
        self.ids = ids
        self.policy = policy
        self.done = False
        #: it is to lead
        self.lead = False
        #: it was woken as a link of the chain, and must wake the next
        self.holds = False
        self.error: BaseException | None = None
        #: ends the caller's wait, once; None: nobody waits there, not yet, not any more, or it has been called
        self.wake: Callable[[], object] | None = None
        self.wait: Callable[..., object]

    def finish(self) -> None:
        """Tell who waits other than at a gate."""


class _LoopTicket(_Ticket):
    """What one coroutine has queued."""

    __slots__ = ("future", "loop")

    def __init__(
        self,
        publications: Sequence[Publication],
        ids: Sequence[str],
        policy: RetryPolicy,
        openings: Sequence[Opening],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(publications, ids, policy, openings)
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def finish(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self.future.done():
            if self.error is not None:
                self.future.set_exception(self.error)
            else:
                self.future.set_result(None)


class _Lane:
    """The state of one producer name: everything that must not cross a fork."""

    __slots__ = (
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

    def __init__(self) -> None:
        self.name = os.urandom(8).hex()
        self.number = 0
        self.lock = threading.Lock()
        self.leading = False
        self.queue: deque[_Ticket] = deque()
        #: how many callers shared the last calls, smoothed: with 2 and more a leader looks round for others before it sends
        self.crowd = 0
        #: tickets of finished calls that this leader has not woken yet
        self.finished: list[_Ticket] = []
        #: tickets to be woken one by one, each by the one before; None: here the lead is handed on
        self.chain: deque[_Ticket | None] = deque()
        #: some ticket holds the chain
        self.passing = False
        #: when the chain is broken up (monotonic clock)
        self.chain_until = 0.0
        #: a call that was interrupted, to be repeated as it was
        self.open: tuple[int, list[_Ticket]] | None = None
        self.broker: Broker | None = None
        #: broker's clock minus this machine's; None: not asked yet
        self.offset_ms: int | None = None
        self.committer: threading.Thread | None = None
        self.committer_gate: threading.Lock | None = None


#: producers of this process, to start afresh after a fork and to flush at exit
_producers: weakref.WeakSet[Producer] = weakref.WeakSet()
#: brokers inherited over a fork: kept so that no destructor ever speaks on the parent's connections
_inherited: list[object] = []


class Producer:
    """Publish for one application in one process. Safe from any thread, greenlet and event loop.

    Opens its connection at the first use; holds no lock, thread or connection before.
    """

    def __init__(self, open_broker: Callable[[], Broker]) -> None:
        self._open_broker = open_broker
        self._lane_: _Lane | None = None
        _producers.add(self)

    @property
    def name(self) -> str:
        """Return this producer's name: random, new after every fork."""
        return self._lane().name

    def _lane(self) -> _Lane:
        lane = self._lane_
        if lane is None:
            # setdefault on the instance's dict is atomic: two first callers get one lane
            lane = self.__dict__.setdefault("_first", _Lane())
            self._lane_ = lane
        return lane

    def now_ms(self, policy: RetryPolicy = _DEFAULT) -> int:
        """Return the broker's clock in Unix ms (the offset last seen; asks the broker the first time).

        Raises OperationalError without task ids: nothing has been sent.
        """
        lane = self._lane_
        if lane is None or lane.offset_ms is None:
            lane = self._lane()
            self.publish((), (), policy)
        return int(time.time() * 1000) + (lane.offset_ms or 0)

    def clock_ms(self) -> int:
        """Return the broker's clock as far as it is known, this machine's otherwise; never asks."""
        lane = self._lane_
        return int(time.time() * 1000) + ((lane.offset_ms or 0) if lane is not None else 0)

    # --- publishing ---

    def publish(
        self, publications: Sequence[Publication], ids: Sequence[str], policy: RetryPolicy, openings: Sequence[Opening] = ()
    ) -> None:
        """Return when the broker has the messages. OperationalError: unknown whether kept, with the ids.

        ``openings``: joins that members among the messages count for; they are opened in the same numbered call.
        """
        lane = self._lane_ or self._lane()
        ticket = _Ticket(publications, ids, policy, openings)
        led = alone = False
        try:
            with lane.lock:
                if lane.leading:
                    ticket.wait, ticket.wake = _gate()
                    lane.queue.append(ticket)
                else:
                    led = lane.leading = True
                    alone = lane.crowd < 2 and not lane.queue and lane.open is None
                    if not alone:
                        lane.queue.append(ticket)
            if alone:
                self._call(lane, [ticket], ticket)
            elif led:
                self._lead(lane, ticket)
            else:
                ticket.wait()
                if ticket.lead:
                    self._lead(lane, ticket)
        except BaseException:
            self._withdraw(lane, ticket)
            raise
        finally:
            if led or ticket.lead:
                self._hand_over(lane)
            elif ticket.holds:
                self._pass_on(lane)
        if ticket.error is not None:
            raise ticket.error

    @staticmethod
    def _withdraw(lane: _Lane, ticket: _Ticket) -> None:
        """Take an interrupted caller's ticket out: not to be woken, no heir of the lead, not sent if it was not yet."""
        with lane.lock:
            ticket.wake = None
            if ticket in lane.queue:
                lane.queue.remove(ticket)

    def _lead(self, lane: _Lane, own: _Ticket | None) -> None:
        """Publish what is queued until ``own`` is done (None: until nothing is queued). The caller hands the lead on."""
        while own is None or not own.done:
            if lane.crowd >= 2 and 2 * len(lane.queue) < lane.crowd:
                # those whose messages went with the last call have just been woken: let them queue their next ones. Without this a
                # greenlet whose replies come without a switch sends its own alone, one by one, and 499 others watch
                time.sleep(0)
            batch = self._next(lane)
            if not batch:
                return
            self._call(lane, batch, own)
            if own is not None and not own.done:
                self._wake_finished(lane)

    def _next(self, lane: _Lane) -> list[_Ticket]:
        """Take the tickets of the next call: those of one retry policy, up to a full batch."""
        with lane.lock:
            if lane.open is not None:
                return lane.open[1]
            queue = lane.queue
            if not queue:
                return []
            batch: list[_Ticket] = []
            size = 0
            policy = queue[0].policy
            while queue:
                ticket = queue[0]
                size += len(ticket.publications) + len(ticket.openings)
                if batch and (size > MAX_BATCH or (ticket.policy is not policy and ticket.policy != policy)):
                    break
                batch.append(queue.popleft())
            lane.crowd = (lane.crowd + len(batch)) // 2
            return batch

    def _call(self, lane: _Lane, batch: list[_Ticket], own: _Ticket | None) -> None:
        """Make one numbered call, repeated as the policy says; every ticket of the batch ends in it."""
        if lane.open is not None:
            number = lane.open[0]
        else:
            lane.number = number = lane.number + 1
        error: BaseException | None = None
        try:
            if len(batch) == 1:
                messages = batch[0].publications
                openings = batch[0].openings
            else:
                messages = [publication for ticket in batch for publication in ticket.publications]
                openings = [opening for ticket in batch for opening in ticket.openings]
            attempt = 0
            while True:
                try:
                    self._send(lane, number, messages, openings)
                    break
                except OperationalError as exc:
                    attempt += 1
                    pause_s = batch[0].policy.pause_s(attempt)
                    if pause_s is None:
                        error = exc
                        break
                    time.sleep(pause_s)
                except Exception as exc:  # a fault in a transport must reach every caller, not leave them waiting
                    error = exc
                    break
            finished = lane.finished
            for ticket in batch:
                if ticket.done:
                    continue
                if error is not None:
                    ticket.error = _failure(error, ticket.ids)
                # first the list, then the mark: interrupted in between, the call is repeated and the ticket finished again
                if ticket.wake is not None:
                    finished.append(ticket)
                ticket.done = True
                if type(ticket) is not _Ticket:
                    ticket.finish()
            lane.open = None
        except BaseException:
            # interrupted: others' messages are in this call, so it stays open for the next leader
            others = [ticket for ticket in batch if ticket is not own and not ticket.done]
            lane.open = (number, batch) if others else None
            self._drop_connection(lane)  # half an answer may be on its way
            if own is not None:
                own.done = True
            raise

    def _send(self, lane: _Lane, number: int, messages: Sequence[Publication], openings: Sequence[Opening]) -> None:
        broker = lane.broker
        if broker is None:
            broker = lane.broker = self._open_broker()
        if openings:
            broker.publish(lane.name, number, messages, openings)
        elif messages:
            broker.publish(lane.name, number, messages)
        lane.offset_ms = broker.now_ms() - int(time.time() * 1000)

    @staticmethod
    def _drop_connection(lane: _Lane) -> None:
        broker, lane.broker = lane.broker, None
        if broker is not None:
            with suppress(Exception):  # what interrupted the call is what its caller must see
                broker.close()

    # --- waking ---

    def _hand_over(self, lane: _Lane) -> None:
        """Wake who is done and, behind them, give the lead to the first in the queue, or to nobody."""
        with lane.lock:
            if lane.finished or lane.passing:
                self._extend(lane, [*lane.finished, None])
            elif lane.queue or lane.open is not None:
                self._appoint(lane)
            else:
                lane.leading = False

    def _wake_finished(self, lane: _Lane) -> None:
        """Wake who is done, and keep the lead."""
        with lane.lock:
            self._extend(lane, lane.finished)

    def _extend(self, lane: _Lane, links: Sequence[_Ticket | None]) -> None:
        lane.chain.extend(links)
        lane.finished.clear()
        if not lane.passing:
            # a greenlet costs no wait for the interpreter: all at once
            lane.chain_until = time.monotonic() + CHAIN_S if threading.Lock.__module__ == "_thread" else 0.0
            self._step(lane)

    def _pass_on(self, lane: _Lane) -> None:
        with lane.lock:
            self._step(lane)

    def _step(self, lane: _Lane) -> None:
        """Wake the next of the chain, or all if it takes too long. Called under the lock, by who holds the chain."""
        chain = lane.chain
        lane.passing = False
        late = chain and time.monotonic() > lane.chain_until
        while chain:
            link = chain.popleft()
            if link is None:
                self._appoint(lane)
            elif (wake := link.wake) is not None:
                link.wake = None
                if not late:
                    link.holds = lane.passing = True
                    wake()
                    return
                wake()

    def _appoint(self, lane: _Lane) -> None:
        """Give the lead to the first who waits, or to nobody. Called under the lock."""
        heir: _Ticket | None = None
        if lane.open is not None:
            heir = next((ticket for ticket in lane.open[1] if not ticket.done and ticket.wake is not None), None)
        if heir is None:
            heir = next((ticket for ticket in lane.queue if ticket.wake is not None), None)
        if heir is not None:
            assert heir.wake is not None
            heir.lead = True
            wake, heir.wake = heir.wake, None
            wake()
        elif lane.queue or lane.open is not None:  # only event loops wait: their thread leads
            self._committer_gate(lane).release()
        else:
            lane.leading = False

    # --- event loops ---

    async def apublish(
        self, publications: Sequence[Publication], ids: Sequence[str], policy: RetryPolicy, openings: Sequence[Opening] = ()
    ) -> None:
        """The same from an event loop, any of several."""
        import asyncio  # lazy: only where an event loop runs already

        lane = self._lane_ or self._lane()
        ticket = _LoopTicket(publications, ids, policy, openings, asyncio.get_running_loop())
        with lane.lock:
            lane.queue.append(ticket)
            start = not lane.leading
            if start:
                lane.leading = True
                gate = self._committer_gate(lane)
        if start:
            gate.release()
        try:
            await ticket.future
        except asyncio.CancelledError:
            with lane.lock:
                if ticket in lane.queue:
                    lane.queue.remove(ticket)
            raise

    async def anow_ms(self, policy: RetryPolicy = _DEFAULT) -> int:
        """``now_ms`` that does not block the loop where the broker has to be asked."""
        lane = self._lane()
        if lane.offset_ms is None:
            await self.apublish((), (), policy)
        return int(time.time() * 1000) + (lane.offset_ms or 0)

    def _committer_gate(self, lane: _Lane) -> threading.Lock:
        """Return what wakes the committer thread, starting it if need be. Called under the lane's lock."""
        gate = lane.committer_gate
        if gate is None:
            gate = lane.committer_gate = threading.Lock()
            gate.acquire()
        if lane.committer is None or not lane.committer.is_alive():
            lane.committer = threading.Thread(
                target=_commit, args=(weakref.ref(self), lane, gate), name="fastq-committer", daemon=True
            )
            lane.committer.start()
        return gate

    # --- end ---

    def flush(self, timeout_s: float = EXIT_WAIT_S) -> bool:
        """Wait until everything queued so far has been sent; False if that took too long."""
        lane = self._lane_
        if lane is None or not (lane.leading or lane.queue or lane.open):
            return True
        ticket = _Ticket((), (), NO_RETRY)
        with lane.lock:
            lane.queue.append(ticket)
            if lane.leading:
                ticket.wait, ticket.wake = _gate()
            else:
                ticket.lead = lane.leading = True
        try:
            if not ticket.lead and not ticket.wait(timeout=timeout_s):
                self._withdraw(lane, ticket)
            if ticket.lead:
                self._lead(lane, ticket)
        except BaseException:
            self._withdraw(lane, ticket)
            raise
        finally:
            if ticket.lead:
                self._hand_over(lane)
            elif ticket.holds:
                self._pass_on(lane)
        return ticket.done

    def close(self) -> None:
        """Send what is queued and drop the connection; a later publish opens a new one."""
        self.flush()
        lane = self._lane_
        if lane is not None:
            with lane.lock:
                broker, lane.broker = lane.broker, None
            if broker is not None:
                broker.close()

    def _after_fork(self) -> None:
        lane = self.__dict__.pop("_first", None)
        self._lane_ = None
        if lane is not None:
            _inherited.append(lane)


def _gate() -> tuple[Callable[..., object], Callable[[], object]]:
    """Return (wait, wake): a lock is the cheapest that threads and eventlet have, an event is gevent's (6 against 9 us a turn)."""
    if threading.Event.__module__ == "gevent.event":
        event = threading.Event()
        return event.wait, event.set
    lock = threading.Lock()
    lock.acquire()
    return lock.acquire, lock.release


def _failure(error: BaseException, ids: Sequence[str]) -> BaseException:
    """Return an error of each caller's own, with its own ids: several raise it at once."""
    if not isinstance(error, OperationalError):
        return error
    shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    text = f"{error} (it is unknown whether the broker kept {shown})" if ids else str(error)
    failure = OperationalError(text, task_ids=ids)
    failure.__cause__ = error
    return failure


def _commit(owner: weakref.ref[Producer], lane: _Lane, gate: threading.Lock) -> None:
    """Lead for event loops, whenever woken. Ends with its producer."""
    while True:
        gate.acquire()
        producer = owner()
        if producer is None:
            return
        try:
            producer._lead(lane, None)
        finally:
            producer._hand_over(lane)
            del producer


def _after_fork_in_child() -> None:
    for producer in list(_producers):
        producer._after_fork()


def _flush_at_exit() -> None:
    for producer in list(_producers):
        producer.flush()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_flush_at_exit)
