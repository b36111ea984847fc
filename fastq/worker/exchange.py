"""The calls of a worker process to its broker: one at a time, each settles what is done and fetches what the slots can take."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from fastq._core import Runner
from fastq.exceptions import OperationalError
from fastq.pools.base import Pool
from fastq.records import Fetch
from fastq.transports.base import Broker
from fastq.worker.feeder import Feeder
from fastq.worker.flight import Flight
from fastq.worker.holdings import Holdings
from fastq.worker.idleness import Idleness
from fastq.worker.intake import Intake
from fastq.worker.link import Link
from fastq.worker.orders import Orders
from fastq.worker.reconnect import Backoff
from fastq.worker.settler import Settler, Turn

__all__ = ["Exchange"]

logger = logging.getLogger("fastq.worker.consumer")

#: seconds between two lines of log about a connection that stays lost
REMIND_S = 60.0
#: seconds between looks whether the supervisor has ended its search: one or two calls to the broker
SEARCH_S = 0.005


class Exchange:
    """Make the calls and take in their answers. Owned by the consumer's loop."""

    def __init__(
        self,
        *,
        broker: Broker,
        settler: Settler,
        pool: Pool,
        feeder: Feeder,
        runner: Runner,
        link: Link,
        queues: tuple[str, ...],
        orders: Orders,
        idleness: Idleness,
        holdings: Holdings,
        intake: Intake,
        lease_s: float,
        flight: Flight,
    ) -> None:
        self._broker = broker
        self._settler = settler
        self._pool = pool
        self._feeder = feeder
        self._runner = runner
        self._link = link
        #: taken from now
        self.queues = queues
        #: to be taken from instead, and the number of that change; None: nothing is to change
        self._change: tuple[tuple[str, ...], int] | None = None
        #: a new name is to be taken, though the old one is not fenced
        self._anew = False
        self._orders = orders
        self._idleness = idleness
        self._holdings = holdings
        self._intake = intake
        self._lease_s = lease_s
        self._flight = flight
        self._number = 0
        #: the last fetch brought all it asked for
        self.more = False
        #: stopping: the idle list has not been left yet
        self.leaving = False
        #: the leases have not been compared since the connection was lost
        self.lost_connection = False
        self.backoff = Backoff(longest_s=max(0.5, lease_s / 6))
        self._renaming = Backoff(longest_s=max(0.5, lease_s / 6))
        #: monotonic times: the supervisor is told that the broker answers, the log that it does not
        self._tell_at = self._remind_at = 0.0

    def call(self, want: int) -> None:
        """Settle what is done and fetch ``want``, in one call; what ran under a former name has a call of its own."""
        settlements = self._settler.take()
        if self._holdings.former:
            name, theirs, others = self._holdings.split_former(settlements)
            if name:
                self._settler.put_back(others)
                self._take(self._settler.turn(name, theirs, None))
                return
        fetch = None
        if not self.queues:
            want, self.leaving = 0, False
        if want or self.leaving:
            self._number += 1
            self._idleness.woken = False
            fetch = Fetch(
                self._orders.process,
                self._number,
                self.queues,
                want,
                idle=want > 0 and self._pool.free > 0,
                no_last_chance=bool(self._holdings.last_chances),
            )
            self.leaving = False
            self._flight.leave(self._number)
            # a task that holds the GIL may keep this process from reading the answer
            if want and self._pool.free < self._pool.slots and self._holdings.ask_for_looks():
                self._link.send({"holding": True})
        if settlements or fetch:
            self._take(self._settler.turn(self._orders.process, settlements, fetch), fetch)

    # --- other queues ---

    def change_queues(self, order: Mapping[str, Any]) -> None:
        """Take in an order to take from other queues: carried out between two calls (``turn_over``).

        ``anew``: under a new name, as the present one cannot be entered any more on one of them.
        """
        self._holdings.know(order["known"])
        self._change = tuple(order["taken"]), order["change"]
        if order["anew"] and self._orders.process:
            self._anew = True

    @property
    def changing(self) -> bool:
        return self._change is not None

    def turn_over(self) -> None:
        """Carry such an order out.

        First it leaves the idle lists, passing the baton: a wake sent here for a queue that is not taken from any more would be
        lost. No call is open before or after, so the supervisor hears the truth: what is dropped here is not fetched from any more.
        """
        if self._anew:
            self._holdings.give_back(self._feeder.drop(self._holdings.held))
        if self._number and self.queues:
            self.leaving = True
            while self.leaving:  # what ran under a former name is settled first, in a call of its own
                self.call(0)
        if self._anew:
            self._anew = False
            self._rename(f"{self._orders.process} goes on under a new name, to be entered on a queue once more", logging.DEBUG)
        if self._change is not None:  # another one may have come while the name was waited for: the last one counts
            (self.queues, number), self._change = self._change, None
            self._link.send({"takes": number})
        self._idleness.idle = False
        self.more = False

    def rest(self) -> None:
        """Say that this process is well, though it has no queue to ask the broker for."""
        if (now := time.monotonic()) >= self._tell_at:
            self._tell_at = now + self._lease_s / 3
            self._link.send({"answered": True})

    def repeat(self) -> None:
        """Make the unanswered call again."""
        self._take(self._settler.repeat())

    def _take(self, turn: Turn, fetch: Fetch | None = None) -> None:
        """Take in the answer of a call."""
        holdings = self._holdings
        holdings.forget(turn.settled)
        if (now := time.monotonic()) >= self._tell_at:
            self._tell_at = now + self._lease_s / 3
            self._link.send({"answered": True})
        if self.backoff.attempts:
            self.backoff.reset()
            logger.warning("Connected to %s again", self._broker.url)
        if turn.fenced:
            self._flight.land()
            self._rename(f"The lease of {self._orders.process} was taken away; taking a new name")
            return
        fetched = turn.fetched
        if fetched is None:
            return
        self._orders.known = True
        self._runner.now_ms = fetched.now_ms
        if not self._orders.stopping:
            # before anything of this answer starts; if it cannot be read, what was leased goes back (see Holdings.compare)
            self._intake.hear(fetched.revocations, fetched.pauses)
        if fetched.leased:
            # what was ordered before a message was sent holds for it: a new limit, or that runs are to be told of
            self._orders.read()
        count = self._intake.accept(fetched)
        if self._change is not None and count:
            # asked for from the former queues: who said no to one of them before it was sent does not see it run
            self._holdings.give_back(self._feeder.drop(self._holdings.held))
        if self._flight.land():
            self.lost_connection = True  # as if: the supervisor may have returned what this answer leased
        self.more = count > 0 and (fetch is None or count >= fetch.n)
        # what was passed over because of a last chance that the same call settled may be taken now
        passed_over = fetch is not None and fetch.no_last_chance and not holdings.last_chances
        if count == 0 and fetch is not None and fetch.idle and not passed_over:
            self._idleness.begin(fetched.next_due_ms, fetched.now_ms)
            self._feeder.rest()
        else:
            self._idleness.end()

    def _rename(self, why: str, level: int = logging.WARNING) -> None:
        """Take a new name, after the lease was taken away for one: start nothing held, settle what runs under the old name."""
        orders = self._orders
        old, orders.process = orders.process, ""
        logger.log(level, "%s", why)
        self._holdings.fenced(old)
        self._idleness.idle = False
        if orders.known:
            self._renaming.reset()
        else:
            # the supervisor does not reach the broker: its lease could not be entered
            orders.pause(self._renaming.next_s())
        self._link.send({"fenced": old})
        orders.await_name(self._lease_s)

    def recover(self, exc: OperationalError) -> None:
        """Drop every connection and wait before the next attempt; what runs goes on running."""
        attempt = self.backoff.attempts
        delay_s = self.backoff.next_s()
        now = time.monotonic()
        if attempt == 0 or now >= self._remind_at:
            self._remind_at = now + REMIND_S
            first_line = (str(exc).splitlines() or [type(exc).__name__])[0].rstrip(".")
            logger.warning("Connection to the broker lost: %s. Trying again (running tasks go on)", first_line)
        self._idleness.close()
        self.lost_connection = True
        self._orders.pause(delay_s)

    def compare_leases(self) -> None:
        """After a reconnect, or a search of the supervisor, bring both sides' view of the leases together."""
        while self._flight.searched and not self._orders.stopping:
            self._orders.pause(SEARCH_S)
        self._holdings.compare(self._broker, self._orders.process)
        self.lost_connection = False
