"""The loop of a worker process: fetch, gate, feed the slots, settle, wait.

One thread (or greenlet) runs it; slots run elsewhere and only append outcomes and call ``Notifier.notify``. Each time round
it makes at most one call to the broker (``exchange``), which settles what is done and fetches what the slots can take.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastq._core import ProcessBoard, Registry, Runner
from fastq.exceptions import OperationalError
from fastq.pools.base import Pool
from fastq.records import Delivery
from fastq.transports.base import Broker
from fastq.worker.cancels import Cancels
from fastq.worker.exchange import Exchange
from fastq.worker.feeder import Feeder
from fastq.worker.finished import Finished
from fastq.worker.flight import Flight
from fastq.worker.gate import Gate
from fastq.worker.holdings import Holdings
from fastq.worker.idleness import Idleness
from fastq.worker.intake import Intake
from fastq.worker.link import Link
from fastq.worker.memory import Memory
from fastq.worker.notify import Notifier, wait_readable
from fastq.worker.orders import Orders
from fastq.worker.rates import Rates
from fastq.worker.reporter import Reporter
from fastq.worker.revoked import Revoked
from fastq.worker.settler import Settler

__all__ = ["Consumer"]

logger = logging.getLogger("fastq.worker.consumer")

#: outcomes that are settled without waiting for more
PROMPT = 64
#: seconds an outcome (or a free slot) waits for company while other slots are busy
LINGER_S = 0.001
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
        memory: Memory | None = None,
        rates: Rates | None = None,
        finished: Finished | None = None,
        flight: Flight | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        queues = tuple(queues)
        self._settler = settler
        self._pool = pool
        self._feeder = feeder
        self._runner = runner
        self._board = board
        self._link = link
        self._notifier = notifier
        self._lease_s = lease_ms / 1000
        self._max_tasks = max_tasks
        self._memory = memory
        self._reporter = reporter
        self._rates = rates
        #: it has taken all the tasks it may, and takes nothing more whatever comes back
        self._draining = False
        self._linger_until = 0.0
        self._idleness = idleness = Idleness(broker, self._lease_s)
        self._orders = orders = Orders(link, notifier, idleness.rename)
        self._holdings = holdings = Holdings(
            queues, board=board, settler=settler, feeder=feeder, idleness=idleness, last_chance=max_deliveries - 1
        )
        intake = Intake(
            sender=self,
            registry=registry,
            board=board,
            settler=settler,
            holdings=holdings,
            feeder=feeder,
            gate=gate,
            revoked=Revoked(broker, gate.revoked),
            rates=rates,
            finished=finished,
        )
        self._exchange = Exchange(
            broker=broker,
            settler=settler,
            pool=pool,
            feeder=feeder,
            runner=runner,
            link=link,
            queues=queues,
            orders=orders,
            idleness=idleness,
            holdings=holdings,
            intake=intake,
            lease_s=self._lease_s,
            flight=Flight() if flight is None else flight,
        )
        #: what carries out orders of the supervisor, by name; more may be added
        self.obey = orders.obey
        self.obey |= {
            "queues": self._exchange.change_queues,
            "slots": self._resize,
            "recycle": self._recycle,
        }
        cancels = Cancels(pool=pool, feeder=feeder, holdings=holdings, intake=intake, gate=gate)
        self.obey["cancel"] = cancels.obey
        if rates is not None:
            self.obey["rate_limit"] = rates.obey
        if reporter is not None:
            self.obey["events"] = reporter.obey
            holdings.reporter = reporter

    @property
    def stopped_cold(self) -> bool:
        return self._orders.stopping == "cold"

    @property
    def held(self) -> Iterable[Delivery]:
        """Return what is leased and not settled; it changes while one looks."""
        return self._holdings.held

    def request_stop(self, how: str = "warm") -> None:
        """Ask the loop to stop; safe from a signal handler."""
        self._orders.stop(how)

    # --- the loop ---

    def run(self) -> None:
        """Work until stopped; afterwards all that was held is settled or given back, as far as the broker answers."""
        self._orders.await_name(self._lease_s)
        while not self._orders.stopping:
            try:
                self._once()
            except OperationalError as exc:
                self._exchange.recover(exc)
        self._finish()

    def _once(self) -> None:
        if not self._idleness.open:
            self._idleness.subscribe()
        if self._settler.unanswered:
            self._exchange.repeat()
            return  # it may have been fenced: the new name has no wake channel yet
        if self._exchange.lost_connection:
            self._exchange.compare_leases()
        if self._exchange.changing:
            self._exchange.turn_over()
            return  # it may have a new name: that has no wake channel yet
        if self._rates is not None and self._rates.changed:
            self._recall_turns(self._rates)
        if not self._exchange.queues:
            self._exchange.rest()
        if self._holdings.watched:
            self._holdings.sweep_if_due()
        if self._reporter is not None and self._reporter.on:
            self._reporter.look(self._holdings.held)
        self._feed()
        want = self._want()
        waiting = self._settler.waiting
        if not (want or waiting):
            self._linger_until = 0.0
        elif not self._should_linger(want, waiting):
            self._linger_until = 0.0
            self._exchange.call(want)
            return
        self._sleep()

    def _feed(self) -> None:
        feeder, holdings = self._feeder, self._holdings
        if feeder.due_back():
            holdings.give_back(feeder.take_back(holdings.held))
        if not feeder.ready or self._settler.full:
            return
        if back := feeder.behind_unknown(self._settler.waiting):
            # a process that dies in a task of unknown length must not have to run again what it did before
            holdings.give_back(back)
        while feeder.starts_unknown() and self._settler.waiting:
            self._exchange.call(0)
        holdings.give_back(feeder.feed(holdings.held))
        # what several slots were given may all wait behind one that blocks the hub or holds the GIL
        holding = feeder.holding or (self._pool.slots > 1 and self._board.counter("held") > 0)
        if holding and holdings.ask_for_looks():
            self._link.send({"holding": True})

    def _recall_turns(self, rates: Rates) -> None:
        """Bring forward what this process has made wait for a limit that has changed, once all of it is in the broker."""
        while self._settler.waiting:
            self._exchange.call(0)
        rates.recall()

    # --- how much, and when ---

    def _want(self) -> int:
        """Return how many messages to ask for now; 0: do not ask."""
        if self._draining or (self._max_tasks is not None and self._holdings.taken >= self._max_tasks):
            self._drain()
            return 0
        if self._idleness.idle or self._settler.full or not self._exchange.queues:
            return 0
        held = len(self._holdings)
        want = self._feeder.want(self._exchange.more, held - len(self._settler))
        want = min(want, self._board.capacity - held)
        if self._max_tasks is not None:
            want = min(want, self._max_tasks - self._holdings.taken)
        if want <= 0:
            return 0
        # every process runs one task at least: else a limit below what the application itself needs would let nothing run
        finished = self._holdings.taken - (held - len(self._settler))
        if self._memory is not None and finished > 0 and not self._orders.stopping and self._memory.over():
            # what has not started goes back
            self._link.send({"recycle": "max memory"})
            self._orders.stopping = "recycle"
            return 0
        return want

    def _drain(self) -> None:
        """Run what is here to its end, then end. A process of many slots says so at once, so that its successor can start: it
        drains for as long as the longest of its tasks runs."""
        ended = not (len(self._holdings) or len(self._settler))
        if not self._draining and (ended or self._pool.slots > 1):
            self._draining = True
            self._link.send({"recycle": "max tasks"})
        if ended and not self._orders.stopping:
            self._orders.stopping = "recycle"

    def _should_linger(self, want: int, waiting: int) -> bool:
        """Say whether to wait a moment for more outcomes: only while slots are busy, for at most LINGER_S."""
        if self._pool.free == self._pool.slots or waiting >= PROMPT or self._idleness.woken:
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
        notifier, idleness = self._notifier, self._idleness
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
            if self._settler.waiting or self._want() or self._orders.stopping or self._drop_lost():
                notifier.armed = False
                return
            # what ends while nobody looks at the broker's clock is stamped with this machine's
            self._runner.now_ms = 0
            if idleness.idle and idleness.due_at:
                timeout = min(timeout, max(0.001, idleness.due_at - now))
            if self._feeder.holding:
                timeout = min(timeout, self._feeder.patience_s)
            if self._reporter is not None and (due_s := self._reporter.due_s(self._holdings.held)) is not None:
                timeout = min(timeout, due_s)
        wake_fd = idleness.wake.fileno()
        fds = wait_readable((wake_fd, notifier.fileno(), self._link.fileno()), timeout)
        notifier.armed = False
        if notifier.fileno() in fds:
            notifier.clear()
        if self._link.fileno() in fds:
            self._orders.read()
        idleness.look(wake_fd in fds)

    def _drop_lost(self) -> bool:
        """Forget what the supervisor gave back, and what a slot lost: nobody here has it, when no slot is busy and nothing
        waits to be settled. What a slot lost stays leased until this process ends."""
        # in this order: a slot hands out its outcome before it is free
        if not len(self._holdings) or self._feeder.ready or self._pool.free < self._pool.slots or len(self._settler):
            return False
        self._holdings.forget_all()
        return True

    def _recycle(self, order: dict[str, Any]) -> None:
        """End when what runs has ended, for another process to take this one's place."""
        if not self._orders.stopping:
            self._link.send({"recycle": order["why"]})
            self._orders.stopping = "recycle"

    def _resize(self, order: dict[str, Any]) -> None:
        """Have more slots, or fewer: what runs is finished, and what waits for a slot goes back if it waits too long."""
        self._pool.resize(order["n"])

    # --- stopping ---

    def _finish(self) -> None:
        """Give back what has not started, let the slots finish, settle everything.

        Leaves the idle lists first, passing the baton: a wake sent here would be lost. While the broker is away it is tried for as
        long as tasks run, and one lease more.
        """
        before = self._holdings.returned
        self._holdings.give_back(self._feeder.drop(self._holdings.held))
        self._exchange.leaving = bool(self._orders.process) and self._orders.stopping != "cold"
        deadline: float | None = None
        while True:
            cold = self._orders.stopping == "cold"
            busy = not cold and self._pool.free < self._pool.slots
            if busy:
                deadline = None
            elif deadline is None or cold:
                latest = time.monotonic() + (COLD_S if cold else self._lease_s)
                deadline = latest if deadline is None else min(deadline, latest)
            if len(self._settler) or self._settler.unanswered or self._exchange.leaving:
                try:
                    self._settle_more()
                except OperationalError as exc:
                    if deadline is not None and time.monotonic() >= deadline:
                        logger.error("Giving up on settling: %s", exc)
                        break
                    self._exchange.recover(exc)
            elif busy:
                self._await_slots()
            else:
                break
        returned = 0 if len(self._settler) else self._holdings.returned - before
        self._settler.close()
        self._idleness.close()
        if self._reporter is not None:
            self._reporter.close()
        self._link.send({"stopped": self._orders.stopping, "returned": returned})

    def _settle_more(self) -> None:
        if self._settler.unanswered:
            self._exchange.repeat()
            # what an unanswered fetch brings now goes straight back
            self._holdings.give_back(self._feeder.drop(self._holdings.held))
        else:
            self._exchange.call(0)

    def _await_slots(self) -> None:
        self._notifier.armed = True
        if self._pool.free < self._pool.slots and not self._settler.waiting:
            self._orders.wait(self._lease_s)
        self._notifier.armed = False
