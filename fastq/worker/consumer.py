"""The loop of a worker process: fetch, gate, feed the slots, settle, wait.

One thread (or greenlet) runs it; slots run elsewhere and only append outcomes and call ``Notifier.notify``. Each time round
it makes at most one call to the broker, which settles what is done and fetches what the slots can take.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from fastq import _core
from fastq._core import ProcessBoard, Registry, Runner
from fastq.exceptions import OperationalError
from fastq.pools.base import Pool
from fastq.records import RETURN, Delivery, Fetch, Fetched, Settlement
from fastq.transports.base import Broker
from fastq.worker.feeder import Feeder
from fastq.worker.gate import Gate
from fastq.worker.link import Link
from fastq.worker.notify import Notifier, wait_readable
from fastq.worker.reconnect import Backoff
from fastq.worker.settler import Settler, Turn

__all__ = ["Consumer"]

logger = logging.getLogger("fastq.worker.consumer")

#: outcomes that are settled without waiting for more
PROMPT = 64
#: seconds an outcome (or a free slot) waits for company while other slots are busy
LINGER_S = 0.001


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
    ) -> None:
        self._broker = broker
        self._settler = settler
        self._pool = pool
        self._feeder = feeder
        self._gate = gate
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
        self._taken = 0

        self._process = ""
        #: names this process had before it was fenced, each with the last call number made under it
        self._former: list[tuple[str, int]] = []
        self._number = 0
        #: everything leased and not settled, by tag
        self._held: dict[str, Delivery] = {}
        #: tags among it that are on their last chance
        self._last_chances: set[str] = set()

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
        self._stopping = ""

    @property
    def stopped_cold(self) -> bool:
        return self._stopping == "cold"

    def request_stop(self, how: str = "warm") -> None:
        """Ask the loop to stop; safe from a signal handler."""
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
        if self._lost_connection:
            self._compare_leases()
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
        if feeder.starts_unknown() and self._settler.waiting:
            self._call(0)
        self._give_back(feeder.feed(self._held))
        if feeder.holding and not self._board.counter("watched"):
            self._board.set_counter("watched", 1)
            self._link.send({"holding": True})

    def _call(self, want: int) -> None:
        """Settle what is done and fetch ``want``, in one call."""
        fetch = None
        if want:
            self._number += 1
            self._woken = False
            fetch = Fetch(
                self._process,
                self._number,
                self._queues,
                want,
                idle=self._pool.free > 0,
                no_last_chance=bool(self._last_chances),
            )
        settlements = self._settler.take()
        if self._former:
            settlements = self._settle_former(settlements)
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
        self._runner.now_ms = fetched.now_ms
        count = self._accept(fetched)
        self._more = count > 0 and (fetch is None or count >= fetch.n)
        self._idle = count == 0 and fetch is not None and fetch.idle
        self._due_at = 0.0
        if self._idle:
            self._feeder.rest()
            if fetched.next_due_ms:
                self._due_at = time.monotonic() + max(1, fetched.next_due_ms - fetched.now_ms) / 1000

    def _accept(self, fetched: Fetched) -> int:
        count = 0
        registry = self._registry()
        info = logger.isEnabledFor(logging.INFO)
        for leased in fetched.leased:
            if not leased.tags:
                continue
            batch = _core.deliveries(leased.queue, leased.tags, leased.messages, registry)
            count += len(batch)
            self._board.hold(batch, self._queue_index[leased.queue], fetched.now_ms)
            self._held.update(zip(leased.tags, batch, strict=True))
            self._last_chances.update([d.tag for d in batch if d.deliveries >= self._last_chance > 0])
            passed = self._gate.sort(batch, fetched.now_ms, self._settler.emit)
            if info:
                for d in passed:
                    logger.info("Task %s[%s] received", d.name, d.id)
            self._feeder.add(passed)
        self._taken += count
        return count

    def _give_back(self, batch: Sequence[Delivery]) -> None:
        """Return deliveries to the head of their queue, unless a slot or the supervisor has claimed them meanwhile."""
        for d in batch:
            if d.record < 0 or self._board.give_back(d.record):
                self._taken -= 1
                self._settler.emit(Settlement(d.queue, d.tag, d.id, RETURN, record=d.record))

    def _forget(self, settled: Sequence[Settlement]) -> None:
        if settled:
            held = self._held
            for s in settled:
                held.pop(s.tag, None)
            if self._last_chances:
                self._last_chances.difference_update([s.tag for s in settled])
            self._board.free([s.record for s in settled])

    # --- how much, and when ---

    def _want(self) -> int:
        """Return how many messages to ask for now; 0: do not ask."""
        if self._idle or self._settler.full:
            return 0
        want = self._feeder.want(self._more)
        want = min(want, self._board.capacity - len(self._held))
        if self._max_tasks is not None:
            want = min(want, self._max_tasks - self._taken)
            if self._taken >= self._max_tasks and not self._held and not self._settler.waiting:
                self._link.send({"recycle": "max tasks"})
                self._stopping = "recycle"
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
            timeout = max(0.0, self._linger_until - now)  # a nap: slots need not wake it
        else:
            timeout = self._lease_s
            notifier.armed = True
            if self._settler.waiting or self._want() or self._stopping:
                notifier.armed = False
                return
            if self._due_at:
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
        if wake_fd in fds and self._wake.drain():
            self._idle = False
            self._woken = True
        if self._idle:
            now = time.monotonic()
            if self._due_at and now >= self._due_at:
                self._idle = False
            elif now - self._checked_at >= self._lease_s:
                self._checked_at = now
                self._wake.check()
        if self._held and not self._feeder.ready and self._pool.free == self._pool.slots and not len(self._settler):
            self._drop_lost()

    def _drop_lost(self) -> None:
        """Forget what the supervisor gave back: no slot is busy and nothing waits to be settled, so nobody here has it."""
        self._board.free([d.record for d in self._held.values()])
        self._held.clear()
        self._last_chances.clear()

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
        fds = wait_readable((self._link.fileno(),), delay_s)
        if fds:
            self._read_link()

    def _compare_leases(self) -> None:
        """After a reconnect, bring both sides' view of the leases together.

        Leased but unknown here (a failover rolled a settlement back, or the reply was lost for good): given back. Held here,
        not started and not leased any more: dropped.
        """
        leased: set[str] = set()
        unknown: list[Settlement] = []
        for queue in self._queues:
            for tag, message in self._broker.leased(queue, self._process):
                leased.add(tag)
                if tag not in self._held:
                    unknown.append(Settlement(queue, tag, _core.task_id(message) if message else "", RETURN))
        gone = [d for d in self._feeder.drop(self._held, leased) if self._board.give_back(d.record)]
        for d in gone:
            self._held.pop(d.tag, None)
        self._board.free([d.record for d in gone])
        if unknown:
            self._broker.settle(self._process, unknown, results=False)
        self._lost_connection = False

    # --- names ---

    def _await_name(self) -> None:
        """Wait for the supervisor to enter a lease and say under which name."""
        while not self._process and not self._stopping:
            wait_readable((self._link.fileno(), self._notifier.fileno()), self._lease_s)
            self._read_link()

    def _named(self, process: str) -> None:
        self._process = process
        self._wake.close()
        self._wake = self._broker.wake(process)
        self._wake_open = False

    def _rename(self) -> None:
        """Take a new name after the lease was taken away: start nothing held, settle what runs under the old name."""
        logger.warning("The lease of %s was taken away; taking a new name", self._process)
        self._former.append((self._process, self._number))
        dropped = [d for d in self._feeder.drop(self._held) if self._board.give_back(d.record)]
        for d in dropped:
            self._held.pop(d.tag, None)
        self._board.free([d.record for d in dropped])
        old, self._process = self._process, ""
        self._link.send({"fenced": old})
        self._await_name()

    def _settle_former(self, settlements: list[Settlement]) -> list[Settlement]:
        """Settle what was leased under former names; return the rest."""
        for name, last in self._former:
            theirs = [s for s in settlements if _call_number(s.tag) <= last]
            if theirs:
                turn = self._settler.turn(name, theirs, None)
                self._forget(turn.settled)
                settlements = [s for s in settlements if _call_number(s.tag) > last]
        if not any(_call_number(tag) <= self._former[-1][1] for tag in self._held):
            self._former.clear()
        return settlements

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
        """Give back what has not started, let the slots finish, settle everything; bounded by a lease without the broker."""
        self._give_back(self._feeder.drop(self._held))
        if self._stopping == "cold":
            self._settle_all(0.2)
            return
        while self._pool.free < self._pool.slots and self._stopping != "cold":
            self._settle_all(self._lease_s)
            self._notifier.armed = True
            if self._pool.free < self._pool.slots and not self._settler.waiting:
                wait_readable((self._notifier.fileno(), self._link.fileno()), 1.0)
                self._notifier.clear()
                self._read_link()
        self._settle_all(self._lease_s)
        self._leave()
        self._settler.close()
        self._link.send({"stopped": self._stopping})

    def _settle_all(self, patience_s: float) -> None:
        """Settle what waits, trying again for ``patience_s`` while the broker is away."""
        deadline = time.monotonic() + patience_s
        while len(self._settler):
            try:
                if self._settler.unanswered:
                    # messages that an unanswered fetch brings now go straight back
                    turn = self._settler.repeat()
                    self._take(turn)
                    self._give_back(self._feeder.drop(self._held))
                else:
                    self._call(0)
            except OperationalError as exc:
                if time.monotonic() >= deadline:
                    logger.error("Giving up on settling: %s", exc)
                    return
                self._recover(exc)

    def _leave(self) -> None:
        """Leave the idle list, passing the baton, so that no wake is sent here."""
        if not self._process:
            return
        try:
            if self._settler.unanswered:
                self._settler.repeat()
            self._number += 1
            self._broker.fetch(Fetch(self._process, self._number, self._queues, 0, idle=False))
        except OperationalError as exc:
            logger.info("Could not leave the idle list: %s", exc)  # the lease lapses and takes it along
        self._wake.close()


def _call_number(tag: str) -> int:
    return int(tag.split(":")[1])
