"""Keep the leases of a node's processes, hand back what dead ones had, and give back for those that cannot.

All that a supervisor does with the broker begins here; the lease keeper of a solo worker uses the same. One thread; every call to
the broker has a timeout below lease/3, so that nothing here delays the next renewal past its time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from fastq._core import ProcessBoard
from fastq.exceptions import ImproperlyConfigured, OperationalError
from fastq.records import Delivery, Lease
from fastq.transports.base import Broker
from fastq.worker.consulting import Consulting
from fastq.worker.copies import Copies
from fastq.worker.ends import End
from fastq.worker.flight import Flight
from fastq.worker.giveback import Watches
from fastq.worker.graves import Graves
from fastq.worker.hello import Hello
from fastq.worker.identity import Identity
from fastq.worker.leases import LookRule
from fastq.worker.loop import Loop, Timer
from fastq.worker.opening import backend_opener, transport_options
from fastq.worker.queues import Queues
from fastq.worker.reaper import Reaper, Snapshot
from fastq.worker.reconnect import Backoff
from fastq.worker.timeouts import Overrun, Timeouts
from fastq.worker.unparking import Unparking

__all__ = ["Keeper"]

logger = logging.getLogger("fastq.worker")
#: "consumer:" is what people look for: Celery's name for the part that connects
consumer_logger = logging.getLogger("fastq.worker.consumer")

#: seconds between attempts to reach the broker at start: grows by the first up to the second
RETRY_STEP_S, RETRY_LONGEST_S = 2.0, 10.0


class Keeper:
    """One node's leases."""

    def __init__(
        self, loop: Loop, hello: Hello, identity: Identity, broker: Broker, reaper: Reaper, queues: Queues | None = None
    ) -> None:
        """``queues``: what the node takes from, if that may change; None: what ``hello`` says."""
        self._loop = loop
        self._hello = hello
        self._queues = queues or Queues(hello.queues)
        self._identity = identity
        self._broker = broker
        self._reaper = reaper
        self._lease_s = hello.lease_ms / 1000
        self._interval_s = self._lease_s / 3
        self._names: set[str] = set()
        self._look = LookRule(self._interval_s)
        self._backoff = Backoff(longest_s=self._lease_s / 6, first_s=0.1)
        self._beat: Timer | None = None
        self._trouble = False
        #: when the leases were last renewed, or the broker first answered, monotonic; 0: not yet
        self.renewed_s = 0.0
        #: what was said of the server at start
        self._warned: set[str] = set()
        self._watches = Watches(loop, self._queues.known, broker, trouble=lambda: self._trouble, fail=self._fail)
        self._timeouts = Timeouts(hello, broker, backend_opener(hello))
        self._graves = Graves(broker, reaper, self._timeouts, self._queues)
        asks = Consulting(broker, self._queues, where=hello.broker_display, trouble=lambda: self._trouble)
        self.leased, self.look_up, self.paused = asks.leased, asks.look_up, asks.paused
        self.revoked, self.terminated, self.revoke = asks.revoked, asks.terminated, asks.revoke
        self._unparking = Unparking(loop, broker, self._fail)
        self._copies: Copies | None = None
        self._take_copies(hello.broadcasts)

    # --- connecting ---

    def count(self, told: Callable[[str, str], object]) -> None:
        """Have ``told`` called with the name and the outcome of every task that is settled from here: no process counts these."""
        self.tell(lambda d, outcome, why: told(d.name, outcome))

    def tell(self, told: Callable[[Delivery, str, str], object]) -> None:
        """Have ``told`` called with every task that is settled from here, its outcome ("failed", "revoked"), and why: the error, or
        the name of the signal that ended it."""
        self.tell_end(lambda d, end: told(d, end.outcome, end.why))

    def tell_end(self, told: Callable[[Delivery, End], object]) -> None:
        """Have ``told`` called with every task that is settled from here, and its end."""
        before = self._timeouts.told

        def both(d: Delivery, end: End) -> None:
            if before is not None:
                before(d, end)
            told(d, end)

        self._timeouts.told = self._reaper.told = both

    def connect(self, done: Callable[[], object], give_up: Callable[[str], object]) -> None:
        """Reach the broker, trying again for as long as the settings allow; then call one of the two."""
        self._attempt(1, done, give_up)

    def _attempt(self, number: int, done: Callable[[], object], give_up: Callable[[str], object]) -> None:
        hello = self._hello
        try:
            self._check_server()
            # nothing is renewed yet; a lease of 0 lists everybody else's
            others = self._broker.renew(self._queues.leased, (), 0)
        except OperationalError as exc:
            limit = hello.max_retries
            if not hello.retry or (limit and number > limit):
                give_up(f"Cannot connect to {hello.broker_display}: {_reason(exc)}.")
                return
            wait_s = min(RETRY_STEP_S * number, RETRY_LONGEST_S)
            count = f"{number}/{limit}" if limit else str(number)
            consumer_logger.error(
                "consumer: Cannot connect to %s: %s. Trying again in %.2f seconds... (%s)",
                hello.broker_display,
                _reason(exc),
                wait_s,
                count,
            )
            self._loop.after(wait_s, lambda: self._attempt(number + 1, done, give_up))
            return
        except ImproperlyConfigured as exc:
            give_up(str(exc))
            return
        logger.info("Connected to %s", hello.broker_display)
        self.renewed_s = time.monotonic()
        self._meet(others)
        self._schedule(self._interval_s)
        if not self._trouble:
            self._unparking.look()
        done()

    def _check_server(self) -> None:
        """Ask a broker that can tell whether it is fit for use; ImproperlyConfigured if it is not. Warns once."""
        check = getattr(self._broker, "check_server", None)
        if check is not None:
            for warning in check(self._queues.leased):
                if warning not in self._warned:
                    self._warned.add(warning)
                    logger.warning("%s", warning)

    def _meet(self, others: list[Lease]) -> None:
        """Take over at once from supervisors of this host that do not exist any more; warn of a living one of the same name."""
        gone = [lease for lease in others if self._identity.is_gone(lease.process)]
        self._reap(gone)
        self._reap_more(gone)
        if any(self._identity.same_node(lease.process) for lease in others if lease not in gone):
            logger.warning(
                "Another node named %s is running, or has died on another host less than two leases ago; "
                "tasks are safe, but give each node its own name with -n",
                self._identity.node,
            )

    def _reap_more(self, gone: list[Lease]) -> None:
        """Go on with a node that had more processes than one answer lists, until an answer brings none that is new."""
        reaped = set(gone)
        while gone and not self._trouble:
            try:
                others = self._broker.renew(self._queues.leased, (), 0)
            except OperationalError as exc:
                self._fail(exc)
                return
            gone = [lease for lease in others if lease not in reaped and self._identity.is_gone(lease.process)]
            self._reap(gone)
            reaped.update(gone)

    # --- leases ---

    def enter(self, *processes: str) -> bool:
        """Enter the leases of new processes; False if the broker does not answer now: the next beat enters them."""
        self._names.update(processes)
        try:
            self._broker.renew(self._queues.leased, processes, self._hello.lease_ms)
        except OperationalError as exc:
            self._fail(exc)
            return False
        return True

    def cover(self, queues: Sequence[str], *, broadcast: bool = False) -> bool:
        """Enter leases of all processes on more queues, before anything is fetched from there; False if the broker does not answer.

        ``broadcast``: they are a Broadcast queue's name, then this node's own queue for its copies.
        """
        try:
            self._broker.renew(queues, tuple(self._names), self._hello.lease_ms)
        except OperationalError as exc:
            self._fail(exc)
            return False
        self._queues.lease(queues)
        if broadcast:
            self._take_copies(queues[:1])
        return True

    def uncover(self, queue: str) -> bool:
        """End the leases on a queue that no process fetches from any more, once nothing is leased there; False: not yet."""
        if self._trouble or self._graves:
            return False
        names = (*self._names, *self._graves.former)
        try:
            if any(self._broker.leased(queue, name) for name in names):
                return False
            # the same steps as for a dead process, that no transport needs to know of another end: so on this queue none of these
            # names is ever entered again, and who takes from it once more takes new names
            self._broker.condemn([Lease(queue, name, "") for name in names])
            for name in names:
                self._broker.release(queue, name, {})
            if self._copies is not None:
                self._copies.leave(self._identity.node, (queue,))
        except OperationalError as exc:
            self._fail(exc)
            return False
        self._queues.release(queue)
        return True

    def _take_copies(self, broadcasts: Sequence[str]) -> None:
        """Look after the copies of Broadcast queues."""
        if self._copies is not None:
            self._copies.add(broadcasts)
        elif broadcasts:
            self._copies = Copies(broadcasts, self._broker, self._hello.broker_url, transport_options(self._hello))

    def retire(self, process: str, board: ProcessBoard) -> None:
        """Go on renewing the name of a fenced process, which has dropped what it had not started, until nothing runs under it."""
        self._names.discard(process)
        self._graves.former[process] = board
        self._watches.drop(process)

    def bury(
        self, process: str, snapshot: Snapshot | None, *, charge: bool = True, overruns: Sequence[Overrun] = ()
    ) -> None:
        """Hand back what a process of this node had that is dead, now or as soon as the broker answers.

        ``overruns``: what it was killed for; that is settled first, and nobody else is charged.
        """
        self._names.discard(process)
        self._watches.drop(process)
        self._graves.add(process, snapshot, charge=charge, overruns=overruns)
        if not self._trouble:
            self._try(self._graves.dig)

    def bury_the_rest(self) -> None:
        """Try a little longer, at the end: up to a third of a lease. What then is left is reaped by another node, and charged."""
        deadline_s = time.monotonic() + self._interval_s
        while self._graves and time.monotonic() < deadline_s:
            self._loop.turn(longest_s=0.1)

    def beat(self) -> None:
        """Renew all leases, and look at those of others."""
        names = (*self._names, *self._graves.former)
        try:
            old = self._broker.renew(self._queues.leased, names, self._hello.lease_ms)
        except OperationalError as exc:
            self._look.failed()
            self._fail(exc)
            return
        if self._trouble:
            logger.warning("Connected to %s again", self._hello.broker_display)
            self._trouble = False
        self.renewed_s = time.monotonic()
        self._backoff.reset()
        self._schedule(self._interval_s)
        strangers = [lease for lease in old if not self._identity.owns(lease.process)]
        dead = self._look.look(strangers, time.monotonic())
        dead += [lease for lease in strangers if lease not in dead and self._identity.is_gone(lease.process)]
        self._reap(dead)
        self._try(self._graves.dig)
        self._try(self._graves.drop_former)
        if not self._trouble:
            self._unparking.look()

    def _reap(self, dead: list[Lease]) -> None:
        if not dead:
            return
        try:
            self._reaper.reap(dead)
            if self._copies is not None:
                self._copies.bury(dead)
        except OperationalError as exc:
            self._fail(exc)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OperationalError as exc:
            self._fail(exc)

    def _fail(self, exc: OperationalError) -> None:
        """Note trouble with the broker, once; the next attempt comes soon, and the children go on meanwhile."""
        if not self._trouble:
            self._trouble = True
            logger.error("Lost the broker %s: %s. Running tasks go on; trying again", self._hello.broker_display, _reason(exc))
        self._schedule(self._backoff.next_s())

    def _schedule(self, delay_s: float) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._beat = self._loop.after(delay_s, self.beat)

    def watch(self, process: str, board: ProcessBoard, flight: Flight | None = None) -> None:
        """Look at the board of a process that holds deliveries, until it holds none."""
        self._watches.add(process, board, flight)

    def recall(self, queue: str, limit: str, *, kept: str, left: Sequence[str], place: str) -> tuple[int, str]:
        """See ``Broker.recall``; while the broker does not answer it is not asked again: OperationalError."""
        if self._trouble:
            raise OperationalError(f"{self._hello.broker_display} does not answer")
        try:
            return self._broker.recall(queue, limit, kept=kept, left=left, place=place)
        except OperationalError as exc:
            self._fail(exc)
            raise

    def close(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        if self._copies is not None:
            with suppress(OperationalError):  # left behind, they are dropped by the next node that sees this one gone
                self._copies.leave(self._identity.node)
            self._copies.close()
        self._broker.close()

    @property
    def reachable(self) -> bool:
        """The broker has answered the last call."""
        return not self._trouble

    @property
    def unburied(self) -> int:
        """Dead processes whose deliveries could not be handed back yet."""
        return len(self._graves)


def _reason(exc: OperationalError) -> str:
    """Return an error's text as a part of a sentence."""
    return str(exc).rstrip(".")
