"""Keep the leases of a node's processes, hand back what dead ones had, and give back for those that cannot.

All that a supervisor does with the broker is here; the lease keeper of a solo worker uses the same. One thread; every call to the
broker has a timeout below lease/3, so that nothing here delays the next renewal past its time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastq._core import ProcessBoard, peek
from fastq.exceptions import EnvelopeError, ImproperlyConfigured, OperationalError
from fastq.records import RETURN, Delivery, Lease, Settlement
from fastq.security import make_signer
from fastq.stamps import shown
from fastq.transports.base import Backend, Broker
from fastq.worker.copies import Copies
from fastq.worker.flight import Flight
from fastq.worker.giveback import LOOK_S, Watch
from fastq.worker.hello import Hello
from fastq.worker.identity import Identity
from fastq.worker.leases import LookRule
from fastq.worker.loop import Loop, Timer
from fastq.worker.queues import Queues
from fastq.worker.reaper import Reaper, Snapshot
from fastq.worker.reconnect import Backoff
from fastq.worker.timeouts import Overrun, Timeouts

if TYPE_CHECKING:
    from fastq.transports import TransportOptions

__all__ = ["Keeper", "open_store", "transport_options"]

logger = logging.getLogger("fastq.worker")
#: "consumer:" is what people look for: Celery's name for the part that connects
consumer_logger = logging.getLogger("fastq.worker.consumer")

#: seconds for which a revocation is remembered that a node was asked for; clients know ``worker_revoke_expires``
REVOKED_S = 10_800
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
        #: names whose process was fenced but still settles under them what it was running -> its board
        self._former: dict[str, ProcessBoard] = {}
        #: names of dead processes that are not yet buried, with what is known of them
        self._graves: dict[str, tuple[Snapshot | None, bool, Sequence[Overrun]]] = {}
        self._look = LookRule(self._interval_s)
        self._backoff = Backoff(longest_s=self._lease_s / 6, first_s=0.1)
        self._beat: Timer | None = None
        self._trouble = False
        #: when the leases were last renewed, or the broker first answered, monotonic; 0: not yet
        self.renewed_s = 0.0
        #: what was said of the server at start
        self._warned: set[str] = set()
        self._watches: dict[str, Watch] = {}
        self._timeouts = Timeouts(hello, broker, backend_opener(hello))
        self._copies: Copies | None = None
        self._take_copies(hello.broadcasts)

    # --- connecting ---

    def count(self, told: Callable[[str, str], object]) -> None:
        """Have ``told`` called with the name and the outcome of every task that is settled from here: no process counts these."""
        self.tell(lambda d, outcome, why: told(d.name, outcome))

    def tell(self, told: Callable[[Delivery, str, str], object]) -> None:
        """Have ``told`` called with every task that is settled from here, its outcome ("failed", "revoked"), and why: the error, or
        the name of the signal that ended it."""
        before = self._timeouts.told

        def both(d: Delivery, outcome: str, why: str) -> None:
            if before is not None:
                before(d, outcome, why)
            told(d, outcome, why)

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
        names = (*self._names, *self._former)
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
        self._former[process] = board
        self._watches.pop(process, None)

    def bury(
        self, process: str, snapshot: Snapshot | None, *, charge: bool = True, overruns: Sequence[Overrun] = ()
    ) -> None:
        """Hand back what a process of this node had that is dead, now or as soon as the broker answers.

        ``overruns``: what it was killed for; that is settled first, and nobody else is charged.
        """
        self._names.discard(process)
        self._former.pop(process, None)
        self._watches.pop(process, None)
        self._graves[process] = (snapshot, charge and not overruns, overruns)
        if not self._trouble:
            self._dig()

    def _dig(self) -> None:
        for process, (snapshot, charge, overruns) in list(self._graves.items()):
            try:
                if overruns:
                    self._timeouts.settle(process, overruns)
                moved = self._reaper.bury(process, self._queues.leased, snapshot, charge=charge)
            except OperationalError as exc:
                self._fail(exc)
                return
            del self._graves[process]
            if moved:
                logger.warning("What process %s held goes back to its queues (%d)", process, moved)

    def bury_the_rest(self) -> None:
        """Try a little longer, at the end: up to a third of a lease. What then is left is reaped by another node, and charged."""
        deadline_s = time.monotonic() + self._interval_s
        while self._graves and time.monotonic() < deadline_s:
            self._loop.turn(longest_s=0.1)

    def beat(self) -> None:
        """Renew all leases, and look at those of others."""
        names = (*self._names, *self._former)
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
        self._dig()
        self._drop_former()

    def _reap(self, dead: list[Lease]) -> None:
        if not dead:
            return
        try:
            self._reaper.reap(dead)
            if self._copies is not None:
                self._copies.bury(dead)
        except OperationalError as exc:
            self._fail(exc)

    def _drop_former(self) -> None:
        for process, board in list(self._former.items()):
            try:
                # the broker is asked first: what is settled in between is then skipped, not returned
                leased = [(queue, tag) for queue in self._queues.leased for tag, _ in self._broker.leased(queue, process)]
                held = {tag for _, tag, *_ in board.held()}
                dropped = [Settlement(queue, tag, "", RETURN) for queue, tag in leased if tag not in held]
                if dropped:
                    self._broker.settle(process, dropped, results=False)
                if len(dropped) < len(leased):
                    continue
                self._reaper.bury(process, self._queues.leased, Snapshot())
            except OperationalError as exc:
                self._fail(exc)
                return
            del self._former[process]

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

    # --- giving back ---

    def watch(self, process: str, board: ProcessBoard, flight: Flight | None = None) -> None:
        """Look at the board of a process that holds deliveries, until it holds none."""
        if process not in self._watches:
            self._watches[process] = watch = Watch(board, self._queues.known, self._broker, flight)
            watch.glance()
            self._loop.after(LOOK_S, lambda: self._look_at(process, watch))

    def _look_at(self, process: str, watch: Watch) -> None:
        if self._watches.get(process) is not watch:
            return  # it has died meanwhile, or was renamed
        try:
            more = self._trouble or watch.look(process)  # while the broker is away, the beats alone try it
        except OperationalError as exc:
            self._fail(exc)
            more = True
        if more:
            self._loop.after(LOOK_S, lambda: self._look_at(process, watch))
        else:
            del self._watches[process]

    def leased(self, names: Sequence[str]) -> list[tuple[str, str, bytes]]:
        """Return (queue, tag, message) of what is leased under these names; OperationalError if the broker does not answer."""
        if self._trouble:
            raise OperationalError(f"the broker {self._hello.broker_display} does not answer")
        return [
            (queue, tag, message)
            for process in names
            for queue in self._queues.leased
            for tag, message in self._broker.leased(queue, process)
        ]

    def revoked(self) -> list[str]:
        """Return the ids that the broker knows as revoked; OperationalError if it does not answer."""
        return [shown(id) for id in self._broker.revoked()[1]]

    def paused(self) -> Mapping[str, int]:
        """Return the queues that are paused; OperationalError as above."""
        return self._broker.paused().queues

    def terminated(self, since: int) -> tuple[int, dict[str, str]]:
        """See ``Broker.terminated``."""
        return self._broker.terminated(since)

    def revoke(self, ids: Sequence[str], signal: str) -> None:
        """Record a revocation that was asked for without one."""
        self._broker.revoke(ids, REVOKED_S, signal=signal)

    def look_up(self, names: Sequence[str]) -> dict[tuple[str, str], str]:
        """Return names and ids of the tasks that processes have leased, by queue and tag; {} if the broker does not answer."""
        if self._trouble:
            return {}
        try:
            leased = [
                (queue, tag, message)
                for process in names
                for queue in self._queues.leased
                for tag, message in self._broker.leased(queue, process)
            ]
        except OperationalError:
            return {}
        found = {}
        for queue, tag, message in leased:
            with suppress(EnvelopeError):
                delivery = peek(message)
                found[queue, tag] = f"{delivery.name}[{delivery.id}]"
        return found

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


def open_store(hello: Hello) -> tuple[Broker, Reaper]:
    """Open the broker for a supervisor, with timeouts short enough for its renewals, and make its reaper."""
    # lazy: what transport it is is only known once the hello has come
    from fastq import transports

    signer = make_signer(hello.security_key, hello.security_trusted_keys)
    broker = transports.open_broker(hello.broker_url, transport_options(hello), signer)

    def encode(exc: BaseException) -> tuple[str, bytes, str | None]:
        # lazy: needed when a task has killed its process for the last time, which most workers never see
        from fastq.remote import encode_exception
        from fastq.serialization import Serializers

        name = hello.result_serializer
        return encode_exception(exc, Serializers(task=name, result=name, accept=(name,)))

    reaper = Reaper(
        broker,
        backend_opener(hello),
        max_deliveries=hello.max_deliveries,
        run_once=hello.run_once,
        unstored=hello.unstored,
        encode=encode,
    )
    return broker, reaper


def backend_opener(hello: Hello) -> Callable[[], Backend | None]:
    """Return what opens the result store at its first call: few supervisors ever need it. None: results are disabled."""
    opened: list[Backend] = []

    def open_backend() -> Backend | None:
        # lazy: as above
        from fastq import transports

        if hello.backend_url.startswith("disabled:"):
            return None
        if not opened:
            options = transport_options(hello)
            own = options if hello.backend_extra is None else replace(options, extra=hello.backend_extra)
            opened.append(transports.open_backend(hello.backend_url, own))
        return opened[0]

    return open_backend


def transport_options(hello: Hello) -> TransportOptions:
    """Return the application's options with timeouts short enough for renewals."""
    # lazy: as above
    from fastq import transports

    interval_s = hello.lease_ms / 3000
    values: dict[str, Any] = dict(hello.transport)
    given = transports.TransportOptions(**values)
    return replace(
        given,
        connect_timeout_s=min(given.connect_timeout_s, interval_s * 0.4),
        socket_timeout_s=min(given.socket_timeout_s, interval_s * 0.8),
    )
