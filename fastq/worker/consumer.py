"""The loop of a worker process: fetch, gate, feed the slots, settle, wait.

One thread (or greenlet) runs it; slots run elsewhere and only append outcomes and call ``Notifier.notify``. Each time round
it makes at most one call to the broker, which settles what is done and fetches what the slots can take.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from fastq import _core, signals
from fastq._core import RETURNED, ProcessBoard, Registry, Runner
from fastq.exceptions import EnvelopeError, OperationalError
from fastq.pools.base import Pool
from fastq.records import RETURN, Delivery, Fetch, Fetched, Settlement
from fastq.transports.base import Broker
from fastq.worker.feeder import Feeder
from fastq.worker.finished import Finished
from fastq.worker.gate import Gate
from fastq.worker.held import Held
from fastq.worker.link import Link
from fastq.worker.notify import Notifier, wait_readable
from fastq.worker.rates import Rates
from fastq.worker.reconnect import Backoff
from fastq.worker.revoked import Revoked
from fastq.worker.settler import Settler, Turn

__all__ = ["Consumer"]

logger = logging.getLogger("fastq.worker.consumer")

#: outcomes that are settled without waiting for more
PROMPT = 64
#: seconds an outcome (or a free slot) waits for company while other slots are busy
LINGER_S = 0.001
#: seconds between looks for what the supervisor has given back (1 ms each at 2,000 records)
SWEEP_S = 1.0
#: seconds that a cold stop goes on trying to settle
COLD_S = 0.2


class Consumer:
    """Drive one worker process until it is told to stop.

    Everything runs in its own loop; from elsewhere only ``request_stop``, ``Settler.emit`` and ``Notifier.notify`` are called.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        settler: Settler,
        pool: Pool,
        feeder: Feeder,
        gate: Gate,
        runner: Runner,
        board: ProcessBoard,
        link: Link,
        notifier: Notifier,
        registry: Callable[[], Registry],
        queues: Sequence[str],
        lease_ms: int,
        max_deliveries: int,
        max_tasks: int | None = None,
        rates: Rates | None = None,
        finished: Finished | None = None,
    ) -> None:
        self._broker = broker
        self._settler = settler
        self._pool = pool
        self._feeder = feeder
        self._gate = gate
        self._revoked = Revoked(broker, gate.revoked)
        self._rates = rates
        self._finished = finished
        self._runner = runner
        self._board = board
        self._link = link
        self._notifier = notifier
        self._registry = registry
        self._queues = tuple(queues)
        self._queue_index = {q: i for i, q in enumerate(self._queues)}
        self._lease_s = lease_ms / 1000
        self._last_chance = max_deliveries - 1
        self._max_tasks = max_tasks
        #: deliveries that have run, or are going to
        self._taken = 0

        self._process = ""
        #: a fetch was answered under this name
        self._known = False
        self._number = 0
        #: everything leased under this name and not settled
        self._held = Held(self._queues)
        #: what was running under a name that was taken away since: (queue, tag, record) -> that name
        self._former: dict[tuple[str, str, int], str] = {}
        #: those of both that are on their last chance
        self._last_chances: set[Delivery] = set()
        #: records of what is being given back by this process itself
        self._returning: set[int] = set()
        #: the supervisor looks at the board, and may give back
        self._watched = False
        self._sweep_at = 0.0

        #: registered as idle: nothing to fetch until woken or something is due
        self._idle = False
        #: monotonic time at which a delayed message is due that this process keeps time for; 0: none
        self._due_at = 0.0
        #: the last fetch brought all it asked for
        self._more = False
        self._woken = False
        self._linger_until = 0.0
        self._wake = broker.wake("")
        self._wake_open = False
        self._checked_at = 0.0
        self._lost_connection = False
        self._backoff = Backoff(longest_s=max(0.5, self._lease_s / 6))
        self._renaming = Backoff(longest_s=max(0.5, self._lease_s / 6))
        self._stopping = ""
        #: stopping: the idle list has not been left yet
        self._leaving = False

    @property
    def stopped_cold(self) -> bool:
        return self._stopping == "cold"

    def request_stop(self, how: str = "warm") -> None:
        """Ask the loop to stop; safe from a signal handler."""
        if how == "cold" or not self._stopping:
            self._stopping = how
        self._notifier.armed = True
        self._notifier.notify()

    # --- the loop ---

    def run(self) -> None:
        """Work until stopped; afterwards all that was held is settled or given back, as far as the broker answers."""
        self._await_name()
        while not self._stopping:
            try:
                self._once()
            except OperationalError as exc:
                self._recover(exc)
        self._finish()

    def _once(self) -> None:
        if not self._wake_open:
            self._subscribe()
        if self._settler.unanswered:
            self._take(self._settler.repeat())
            return  # it may have been fenced: the new name has no wake channel yet
        if self._lost_connection:
            self._compare_leases()
        if self._watched and time.monotonic() >= self._sweep_at:
            self._sweep()
        self._feed()
        want = self._want()
        waiting = self._settler.waiting
        if not (want or waiting):
            self._linger_until = 0.0
        elif not self._should_linger(want, waiting):
            self._linger_until = 0.0
            self._call(want)
            return
        self._sleep()

    def _feed(self) -> None:
        feeder = self._feeder
        if feeder.due_back():
            self._give_back(feeder.take_back(self._held))
        if not feeder.ready or self._settler.full:
            return
        if back := feeder.behind_unknown(self._settler.waiting):
            # a process that dies in a task of unknown length must not have to run again what it did before
            self._give_back(back)
        while feeder.starts_unknown() and self._settler.waiting:
            self._call(0)
        self._give_back(feeder.feed(self._held))
        # what several slots were given may all wait behind one that blocks the hub or holds the GIL
        holding = feeder.holding or (self._pool.slots > 1 and self._board.counter("held") > 0)
        if holding and not self._board.counter("watched"):
            self._board.set_counter("watched", 1)
            self._watched = True
            self._link.send({"holding": True})

    def _call(self, want: int) -> None:
        """Settle what is done and fetch ``want``, in one call; what ran under a former name has a call of its own."""
        settlements = self._settler.take()
        if self._former and (name := self._former_name(settlements)):
            theirs = [s for s in settlements if self._former.get(_key(s)) == name]
            self._settler.put_back([s for s in settlements if self._former.get(_key(s)) != name])
            self._take(self._settler.turn(name, theirs, None))
            return
        fetch = None
        if want or self._leaving:
            self._number += 1
            self._woken = False
            fetch = Fetch(
                self._process,
                self._number,
                self._queues,
                want,
                idle=want > 0 and self._pool.free > 0,
                no_last_chance=bool(self._last_chances),
            )
            self._leaving = False
        if settlements or fetch:
            self._take(self._settler.turn(self._process, settlements, fetch), fetch)

    def _take(self, turn: Turn, fetch: Fetch | None = None) -> None:
        """Take in the answer of a call."""
        self._forget(turn.settled)
        if self._backoff.attempts:
            self._backoff.reset()
            logger.warning("Connected to %s again", self._broker.url)
        if turn.fenced:
            self._rename()
            return
        fetched = turn.fetched
        if fetched is None:
            return
        self._known = True
        self._runner.now_ms = fetched.now_ms
        # before anything of this answer starts; if it cannot be read, what was leased goes back (see _compare_leases)
        if fetched.revocations != self._revoked.number and not self._stopping and self._revoked.hear(fetched.revocations):
            self._end_revoked()
        count = self._accept(fetched)
        self._more = count > 0 and (fetch is None or count >= fetch.n)
        # what was passed over because of a last chance that the same call settled may be taken now
        passed_over = fetch is not None and fetch.no_last_chance and not self._last_chances
        self._idle = count == 0 and fetch is not None and fetch.idle and not passed_over
        self._due_at = 0.0
        if self._idle:
            self._feeder.rest()
            if fetched.next_due_ms:
                self._due_at = time.monotonic() + max(1, fetched.next_due_ms - fetched.now_ms) / 1000

    def _accept(self, fetched: Fetched) -> int:
        count = 0
        registry = self._registry()
        rates = self._rates if self._rates is not None and self._rates.limits(registry) else None
        info = logger.isEnabledFor(logging.INFO)
        for leased in fetched.leased:
            if not leased.tags:
                continue
            batch = _core.deliveries(leased.queue, leased.tags, leased.messages, registry)
            count += len(batch)
            self._board.hold(batch, self._queue_index[leased.queue], fetched.now_ms)
            self._held.add(leased.queue, leased.tags, batch)
            if len(batch) == 1 and batch[0].deliveries >= self._last_chance > 0:  # such a one is leased alone
                self._last_chances.add(batch[0])
            passed = self._gate.sort(batch, fetched.now_ms, self._refuse)
            if self._finished is not None:
                passed = self._finished.sort(passed, self._refuse)
            if rates is not None and passed:
                passed = rates.sort(passed, self._refuse)
            self._taken += len(passed)
            if info:
                for d in passed:
                    logger.info("Task %s[%s] received", d.name, d.id)
            if signals.task_received.receivers:
                self._tell_received(passed)
            self._feeder.add(passed)
        return count

    def _tell_received(self, batch: Sequence[Delivery]) -> None:
        from fastq.context import Context  # lazy: only where somebody listens

        for d in batch:
            task = d.entry.task if d.entry is not None else None
            signals.task_received.send(sender=self, request=Context(task, d))

    def _end_revoked(self) -> None:
        """End what is held of revoked tasks and has not started. The board decides that, so a slot that was given such a delivery
        skips it."""
        gate, board = self._gate, self._board
        found = [d for d in self._held if d.id in gate.revoked]
        waiting = self._feeder.take_out(found) if found else ()
        for d in found:
            if board.claim(d.record, 0) if d.record >= 0 else d in waiting:
                self._taken -= 1
                board.finish(d.record)
                self._settler.emit(gate.revoke(d))

    def _refuse(self, settlement: Settlement) -> None:
        """Settle what must not run; on the board it has ended, so nobody gives it back."""
        self._board.claim(settlement.record, 0)
        self._board.finish(settlement.record)
        self._settler.emit(settlement)

    def _claim(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Return those that neither a slot nor the supervisor has claimed, and that now nobody else will.

        One without a record is never offered while it is in a slot (see ``Feeder``).
        """
        board = self._board
        claimed = [d for d in batch if d.record < 0 or board.give_back(d.record)]
        self._taken -= len(claimed)
        return claimed

    def _give_back(self, batch: Sequence[Delivery]) -> None:
        """Return deliveries to the head of their queue, unless they were claimed meanwhile."""
        for d in self._claim(batch):
            self._returning.add(d.record)
            self._settler.emit(Settlement(d.queue, d.tag, d.id, RETURN, record=d.record))

    def _drop(self, batch: Sequence[Delivery]) -> None:
        """Forget what is not this process' any more, unless a slot has started it."""
        gone = self._claim(batch)
        self._held.drop(gone)
        self._free([d.record for d in gone])

    def _forget(self, settled: Sequence[Settlement]) -> None:
        if not settled:
            return
        former = self._former
        self._held.settled([s for s in settled if former.pop(_key(s), None) is None] if former else settled)
        self._free([s.record for s in settled])

    def _free(self, records: Sequence[int]) -> None:
        self._board.free(records)
        if self._returning:
            self._returning.difference_update(records)
        if self._last_chances:
            self._last_chances = {d for d in self._last_chances if d in self._held or _key(d) in self._former}
            if not self._last_chances:
                self._idle = False  # what was passed over may be taken now

    def _sweep(self) -> None:
        """Forget what the supervisor gave back because this process could not (see ``giveback``)."""
        self._sweep_at = time.monotonic() + SWEEP_S
        self._watched = self._board.counter("watched") > 0  # read first: what it gives back later is found next time
        records = []
        for record, tag, queue_index, state, _, _ in self._board.held():
            if state == RETURNED and record not in self._returning:
                records.append(record)
                d = self._held.get(self._queues[queue_index], tag)
                if d is not None and d.record == record:  # else it has been leased again since
                    self._held.drop((d,))
        if records:
            self._taken -= len(records)
            self._free(records)

    # --- how much, and when ---

    def _want(self) -> int:
        """Return how many messages to ask for now; 0: do not ask."""
        if self._max_tasks is not None and self._taken >= self._max_tasks:
            if not (self._held or self._former or len(self._settler) or self._stopping):
                self._link.send({"recycle": "max tasks"})
                self._stopping = "recycle"
            return 0
        if self._idle or self._settler.full:
            return 0
        want = self._feeder.want(self._more, len(self._held) + len(self._former) - len(self._settler))
        want = min(want, self._board.capacity - len(self._held) - len(self._former))
        if self._max_tasks is not None:
            want = min(want, self._max_tasks - self._taken)
        return max(0, want)

    def _should_linger(self, want: int, waiting: int) -> bool:
        """Say whether to wait a moment for more outcomes: only while slots are busy, for at most LINGER_S."""
        if self._pool.free == self._pool.slots or waiting >= PROMPT or self._woken:
            return False
        if want and self._pool.free == 0:
            return False  # short tasks run: fetching the next of them overlaps
        now = time.monotonic()
        if not self._linger_until:
            self._linger_until = now + LINGER_S
            return True
        return now < self._linger_until

    def _sleep(self) -> None:
        """Wait for a slot, a wake, the supervisor, or the next thing due."""
        notifier = self._notifier
        now = time.monotonic()
        if self._linger_until:
            timeout = max(0.0, self._linger_until - now)  # a nap: slots need not wake it, but the last that is busy
            if self._pool.slots - self._pool.free == 1:
                notifier.armed = True
                if self._pool.free == self._pool.slots:
                    notifier.armed = False
                    return
        else:
            timeout = self._lease_s
            notifier.armed = True
            if self._settler.waiting or self._want() or self._stopping or self._drop_lost():
                notifier.armed = False
                return
            # what ends while nobody looks at the broker's clock is stamped with this machine's
            self._runner.now_ms = 0
            if self._idle and self._due_at:
                timeout = min(timeout, max(0.001, self._due_at - now))
            if self._feeder.holding:
                timeout = min(timeout, self._feeder.patience_s)
        wake_fd = self._wake.fileno()
        fds = wait_readable((wake_fd, notifier.fileno(), self._link.fileno()), timeout)
        notifier.armed = False
        if notifier.fileno() in fds:
            notifier.clear()
        if self._link.fileno() in fds:
            self._read_link()
        woken = wake_fd in fds and self._wake.drain()
        if self._idle:
            now = time.monotonic()
            if self._due_at and now >= self._due_at:
                self._idle = False
            elif now - self._checked_at >= self._lease_s:
                self._checked_at = now
                self._wake.check()
                self._wake.drain()  # a wake that came meanwhile is kept inside, and makes nothing readable
                # then fetch, whether woken or not: a process that was taken for dead, or that the broker has forgotten, is not
                # registered as idle any more, and nobody would ever wake it
                self._idle = False
        if woken:
            self._idle = False
            self._woken = True

    def _drop_lost(self) -> bool:
        """Forget what the supervisor gave back, and what a slot lost: nobody here has it, when no slot is busy and nothing
        waits to be settled. What a slot lost stays leased until this process ends."""
        # in this order: a slot hands out its outcome before it is free
        if not (self._held or self._former) or self._feeder.ready or self._pool.free < self._pool.slots or len(self._settler):
            return False
        self._sweep()
        lost = [d.record for d in self._held] + [record for _, _, record in self._former]
        self._held.clear()
        self._former.clear()
        self._free(lost)
        return True

    # --- the connection ---

    def _subscribe(self) -> None:
        """Open the wake channel, then fetch at once: a wake sent before it was open is lost."""
        self._wake.open()
        self._wake_open = True
        self._checked_at = time.monotonic()
        self._idle = False

    def _recover(self, exc: OperationalError) -> None:
        """Drop every connection and wait before the next attempt; what runs goes on running."""
        attempt = self._backoff.attempts
        delay_s = self._backoff.next_s()
        if attempt == 0 or attempt % 10 == 9:
            first_line = (str(exc).splitlines() or [type(exc).__name__])[0]
            logger.warning("Connection to the broker lost: %s. Trying again (running tasks go on)", first_line)
        self._wake.close()
        self._wake_open = False
        self._lost_connection = True
        self._pause(delay_s)

    def _pause(self, delay_s: float) -> None:
        """Wait, unless told to stop, or to stop faster, meanwhile."""
        deadline = time.monotonic() + delay_s
        how = self._stopping
        while self._stopping == how and (left_s := deadline - time.monotonic()) > 0:
            fds = [self._notifier.fileno()]
            if not self._link.closed:  # a closed one is readable for ever
                fds.append(self._link.fileno())
            wait_readable(fds, left_s)
            self._notifier.clear()
            self._read_link()

    def _compare_leases(self) -> None:
        """After a reconnect, bring both sides' view of the leases together.

        Leased but unknown here (a failover rolled a settlement back, or the reply was lost for good): given back. Held here,
        not started and not leased any more: dropped.
        """
        leased: set[tuple[str, str]] = set()
        unknown: list[Settlement] = []
        for queue in self._queues:
            tags = self._held.tags(queue)
            for tag, message in self._broker.leased(queue, self._process):
                leased.add((queue, tag))
                if tag not in tags:
                    unknown.append(Settlement(queue, tag, _id(message), RETURN))
        self._drop(self._feeder.drop(self._held, leased))
        if unknown:
            self._broker.settle(self._process, unknown, results=False)
        self._lost_connection = False

    # --- names ---

    def _await_name(self) -> None:
        """Wait for the supervisor to enter a lease and say under which name."""
        while not self._process and not self._stopping:
            wait_readable((self._link.fileno(), self._notifier.fileno()), self._lease_s)
            self._notifier.clear()
            self._read_link()

    def _named(self, process: str) -> None:
        if self._process:
            return  # an answer to a question asked before: this name is the newer one
        self._process = process
        self._known = False
        self._wake.close()
        self._wake = self._broker.wake(process)
        self._wake_open = False

    def _rename(self) -> None:
        """Take a new name after the lease was taken away: start nothing held, settle what runs under the old name."""
        old, self._process = self._process, ""
        logger.warning("The lease of %s was taken away; taking a new name", old)
        self._sweep()
        self._drop(self._feeder.drop(self._held))
        self._former.update((_key(d), old) for d in self._held)
        self._held.clear()
        self._idle = False
        if self._known:
            self._renaming.reset()
        else:
            # the supervisor does not reach the broker: its lease could not be entered
            self._pause(self._renaming.next_s())
        self._link.send({"fenced": old})
        self._await_name()

    def _former_name(self, settlements: Sequence[Settlement]) -> str:
        """Return a former name that something of this was leased under; "": none."""
        return next((name for s in settlements if (name := self._former.get(_key(s)))), "")

    def _read_link(self) -> None:
        for message in self._link.receive():
            if "start" in message:
                self._named(message["start"]["process"])
            elif "process" in message:
                self._named(message["process"])
            elif "stop" in message:
                self._stopping = message["stop"]
        if self._link.closed:
            # the supervisor is gone, so nobody renews the lease
            self._stopping = "cold"

    # --- stopping ---

    def _finish(self) -> None:
        """Give back what has not started, let the slots finish, settle everything.

        Leaves the idle lists first, passing the baton: a wake sent here would be lost. While the broker is away it is tried for as
        long as tasks run, and one lease more.
        """
        self._give_back(self._feeder.drop(self._held))
        self._leaving = bool(self._process) and self._stopping != "cold"
        deadline: float | None = None
        while True:
            cold = self._stopping == "cold"
            busy = not cold and self._pool.free < self._pool.slots
            if busy:
                deadline = None
            elif deadline is None or cold:
                latest = time.monotonic() + (COLD_S if cold else self._lease_s)
                deadline = latest if deadline is None else min(deadline, latest)
            if len(self._settler) or self._settler.unanswered or self._leaving:
                try:
                    self._settle_more()
                except OperationalError as exc:
                    if deadline is not None and time.monotonic() >= deadline:
                        logger.error("Giving up on settling: %s", exc)
                        break
                    self._recover(exc)
            elif busy:
                self._await_slots()
            else:
                break
        self._settler.close()
        self._wake.close()
        self._link.send({"stopped": self._stopping})

    def _settle_more(self) -> None:
        if self._settler.unanswered:
            self._take(self._settler.repeat())
            # what an unanswered fetch brings now goes straight back
            self._give_back(self._feeder.drop(self._held))
        else:
            self._call(0)

    def _await_slots(self) -> None:
        self._notifier.armed = True
        if self._pool.free < self._pool.slots and not self._settler.waiting:
            wait_readable((self._notifier.fileno(), self._link.fileno()), self._lease_s)
            self._notifier.clear()
            self._read_link()
        self._notifier.armed = False


def _key(of: Delivery | Settlement) -> tuple[str, str, int]:
    """Return what names one use of a tag: a store may give a message the same tag again."""
    return of.queue, of.tag, of.record


def _id(message: bytes) -> str:
    try:
        return _core.task_id(message)
    except EnvelopeError:
        return ""  # it is given back by its tag alone
