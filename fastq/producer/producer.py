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
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from fastq import patience
from fastq.exceptions import OperationalError
from fastq.producer.lane import Lane
from fastq.producer.policy import DEFAULT, NO_RETRY, RetryPolicy
from fastq.producer.ticket import LoopTicket, Ticket, make_gate
from fastq.records import Opening, Publication

if TYPE_CHECKING:
    from fastq.transports.base import Broker

__all__ = ["Producer"]

#: how long interpreter exit waits for what ``adelay`` has accepted, once the broker cannot be reached
EXIT_WAIT_S = 30.0

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
        self._lane_: Lane | None = None
        #: told of what the broker has kept; None: nobody wants to know
        self.tell: Callable[[Sequence[Publication]], object] | None = None
        _producers.add(self)

    @property
    def name(self) -> str:
        """Return this producer's name: random, new after every fork."""
        return self._lane().name

    def _lane(self) -> Lane:
        lane = self._lane_
        if lane is None:
            # setdefault on the instance's dict is atomic: two first callers get one lane
            lane = self.__dict__.setdefault("_first", Lane(weakref.ref(self)))
            self._lane_ = lane
        return lane

    def now_ms(self, policy: RetryPolicy = DEFAULT) -> int:
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
        ticket = Ticket(publications, ids, policy, openings)
        led = alone = False
        try:
            with lane.lock:
                if lane.leading:
                    ticket.wait, ticket.wake = make_gate()
                    lane.queue.append(ticket)
                else:
                    led = lane.leading = True
                    alone = lane.crowd < 2 and not lane.queue and lane.open is None
                    if not alone:
                        lane.queue.append(ticket)
            if alone:
                self._call(lane, [ticket], ticket)
            elif led:
                self.lead(lane, ticket)
            else:
                ticket.wait()
                if ticket.lead:
                    self.lead(lane, ticket)
        except BaseException:
            lane.withdraw(ticket)
            raise
        finally:
            if led or ticket.lead:
                lane.hand_over()
            elif ticket.holds:
                lane.pass_on()
        if ticket.error is not None:
            raise ticket.error

    def lead(self, lane: Lane, own: Ticket | None) -> None:
        """Publish what is queued until ``own`` is done (None: until nothing is queued). The caller hands the lead on."""
        while own is None or not own.done:
            if lane.crowd >= 2 and 2 * len(lane.queue) < lane.crowd:
                # those whose messages went with the last call have just been woken: let them queue their next ones. Without this a
                # greenlet whose replies come without a switch sends its own alone, one by one, and 499 others watch
                time.sleep(0)
            batch = lane.next_batch()
            if not batch:
                return
            self._call(lane, batch, own)
            if own is not None and not own.done:
                lane.wake_finished()

    def _call(self, lane: Lane, batch: list[Ticket], own: Ticket | None) -> None:
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
                    if self.tell is not None and messages:
                        self.tell(messages)
                    break
                except OperationalError as exc:
                    attempt += 1
                    pause_s = batch[0].policy.pause_s(attempt)
                    if pause_s is None or (len(batch) == 1 and patience.is_over()):
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
                if type(ticket) is not Ticket:
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

    def _send(self, lane: Lane, number: int, messages: Sequence[Publication], openings: Sequence[Opening]) -> None:
        broker = lane.broker
        if broker is None:
            broker = lane.broker = self._open_broker()
        if openings:
            broker.publish(lane.name, number, messages, openings)
        elif messages:
            broker.publish(lane.name, number, messages)
        lane.offset_ms = broker.now_ms() - int(time.time() * 1000)

    @staticmethod
    def _drop_connection(lane: Lane) -> None:
        broker, lane.broker = lane.broker, None
        if broker is not None:
            with suppress(Exception):  # what interrupted the call is what its caller must see
                broker.close()

    # --- event loops ---

    async def apublish(
        self, publications: Sequence[Publication], ids: Sequence[str], policy: RetryPolicy, openings: Sequence[Opening] = ()
    ) -> None:
        """The same from an event loop, any of several."""
        import asyncio  # lazy: only where an event loop runs already

        lane = self._lane_ or self._lane()
        ticket = LoopTicket(publications, ids, policy, openings, asyncio.get_running_loop())
        with lane.lock:
            lane.queue.append(ticket)
            start = not lane.leading
            if start:
                lane.leading = True
                gate = lane.committers_gate()
        if start:
            gate.release()
        try:
            await ticket.future
        except asyncio.CancelledError:
            lane.withdraw(ticket)
            raise

    async def anow_ms(self, policy: RetryPolicy = DEFAULT) -> int:
        """``now_ms`` that does not block the loop where the broker has to be asked."""
        lane = self._lane()
        if lane.offset_ms is None:
            await self.apublish((), (), policy)
        return int(time.time() * 1000) + (lane.offset_ms or 0)

    # --- end ---

    def flush(self, timeout_s: float = EXIT_WAIT_S) -> bool:
        """Wait until everything queued so far has been sent; False if that took too long."""
        lane = self._lane_
        if lane is None or not (lane.leading or lane.queue or lane.open):
            return True
        ticket = Ticket((), (), NO_RETRY)
        with lane.lock:
            lane.queue.append(ticket)
            if lane.leading:
                ticket.wait, ticket.wake = make_gate()
            else:
                ticket.lead = lane.leading = True
        try:
            if not ticket.lead and not ticket.wait(timeout=timeout_s):
                lane.withdraw(ticket)
            if ticket.lead:
                self.lead(lane, ticket)
        except BaseException:
            lane.withdraw(ticket)
            raise
        finally:
            if ticket.lead:
                lane.hand_over()
            elif ticket.holds:
                lane.pass_on()
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


def _failure(error: BaseException, ids: Sequence[str]) -> BaseException:
    """Return an error of each caller's own, with its own ids: several raise it at once."""
    if not isinstance(error, OperationalError):
        return error
    shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    text = f"{error} (it is unknown whether the broker kept {shown})" if ids else str(error)
    failure = OperationalError(text, task_ids=ids)
    failure.__cause__ = error
    return failure


def _after_fork_in_child() -> None:
    for producer in list(_producers):
        producer._after_fork()


def _flush_at_exit() -> None:
    for producer in list(_producers):
        producer.flush()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_flush_at_exit)
