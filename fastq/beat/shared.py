"""The schedule that all beats share: its entries in memory of the one that leads, and its ticks fired through the broker.

Exactly once. The broker fires a tick only for who names the due time at which its entry stands, and moves that on in the same step:
of two beats that both believe to lead, one gets nothing. So leading is for thrift alone: those that wait do not load anything.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastq.beat.due import Due, Entry, said
from fastq.beat.instants import next_due_ms, steps
from fastq.beat.making import Made, tick_id
from fastq.beat.taking_in import take_in
from fastq.calling.announce import listened
from fastq.exceptions import FastQError, OperationalError
from fastq.signals import after_task_publish
from fastq.transports import open_timetable
from fastq.transports.timetable import Planned, Tick, Timetable

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["SharedScheduler", "scope_of", "timetable_of"]

logger = logging.getLogger("fastq.beat")

#: a tick that falls due within this time after others were fired waits as long for company, ms: so a beat of many entries wakes
#: some 28 times a second at most, and no tick waits longer than this
GATHER_MS = 35
#: how far ahead ticks are made, ms
AHEAD_MS = 500
#: a tick that was made ahead is made again if it is later than this, ms
FRESH_MS = 100
#: longest sleep where no other is set, s; edits end it
MAX_INTERVAL_S = 300.0
#: ticks of one call
TOGETHER = 500


def scope_of(app: FastQ) -> str:
    """Return the name of an application's timetable: applications that share a broker have one each."""
    return str(app.conf.beat_timetable or app.main or "default")


def timetable_of(app: FastQ) -> Timetable:
    """Return a connection to the timetable of an application; it connects at its first call."""
    return open_timetable(app.broker_url, app.transport_options(), scope_of(app), app.signer)


class SharedScheduler:
    """Fires the ticks of an application's timetable while it leads, and waits for the lead otherwise."""

    def __init__(
        self, app: FastQ, *, max_interval: float | None = None, name: str = "", timetable: Timetable | None = None
    ) -> None:
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or MAX_INTERVAL_S
        #: of this beat; never used twice
        self.name = f"{name or 'beat'}@{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self.leads = False
        self._lease_ms = max(round(app.conf.beat_lease * 1000), 100)
        deadline_s = app.conf.beat_cron_starting_deadline
        self._deadline_ms = None if deadline_s is None else round(deadline_s * 1000)
        self._timetable = timetable_of(app) if timetable is None else timetable
        self._seed = f"{app.conf.key_prefix}\0{scope_of(app)}"
        self._due = Due(app)
        self._version = 0
        #: when to ask for the lead again, on the monotonic clock
        self._ask_at = 0.0
        #: when ticks were fired last, on the broker's clock
        self._fired_ms = 0
        #: until when ticks were made ahead, and how late one of them may be: then whatever its policy says, it is sent
        self._ahead_ms = 0
        self._fresh_ms = min(FRESH_MS, self._lease_ms, self._deadline_ms or FRESH_MS)
        self._look = False
        self._away = False

    @property
    def schedule_filename(self) -> str:
        return ""

    @property
    def where(self) -> str:
        """Return where the schedule is kept, for banners."""
        return f"{self._timetable.url} (shared, {scope_of(self.app)!r})"

    # --- the loop of a beat ---

    def run(self, interrupt: int, stopped: Any) -> None:
        """Work until ``stopped()``; the descriptor ``interrupt`` gets readable when to look."""
        while not stopped():
            try:
                delay_s = self.tick()
                if self._timetable.wait(delay_s, interrupt):
                    self._look = True
            except OperationalError as error:
                self._lost(error)
                delay_s = min(self._lease_ms / 6000, 1.0)
                _pause(interrupt, delay_s)

    def tick(self) -> float:
        """Do what is due, and return for how many seconds there is nothing to do."""
        now = time.monotonic()
        if self._look or now >= self._ask_at:
            self._look = False
            self._lead()
        if not self.leads:
            return max(self._ask_at - time.monotonic(), 0.0)
        self._fire_due()
        return self._rest_s()

    def close(self) -> None:
        """Hand the lead over at once."""
        try:
            self._timetable.resign(self.name)
        except OperationalError as error:
            logger.warning("beat: the lead could not be handed over, it ends with its lease: %s", error)
        self.leads = False
        self._timetable.close()

    # --- the lead ---

    def _lead(self) -> None:
        lead = self._timetable.lead(self.name, self._lease_ms)
        now = time.monotonic()
        if self._away:
            self._away = False
            logger.info("beat: the broker answers again.")
        if not lead.leads:
            if self.leads:
                logger.warning("beat: %s leads now; this beat waits.", lead.leader)
            self._forget()
            # the lease of who leads may end unannounced
            self._ask_at = now + min(lead.left_ms, self._lease_ms) / 1000 + 0.01
            return
        self._ask_at = now + self._lease_ms / 3000
        if lead.taken or not self.leads:
            self._take_over()
        elif lead.version != self._version:
            self._read_edits()

    def _take_over(self) -> None:
        """Take in what the application says, and load everything."""
        self._forget()
        self.leads = True
        added, changed, removed = take_in(self.app, self._timetable)
        listing = self._timetable.entries()
        self._version = listing.version
        self._load((plan.name, plan) for plan in listing.plans)
        logger.info(
            "beat: leading, with %d entries (%d added, %d changed and %d removed by the application).",
            self._due.usable, added, changed, removed,
        )  # fmt: skip

    def _read_edits(self) -> None:
        listing = self._timetable.entries(self._version)
        if listing.version >= self._version:
            self._load((name, None) for name in listing.removed)
            self._load((plan.name, plan) for plan in listing.plans)
        if listing.version < self._version or len(self._due) != listing.total:
            # more was removed than is remembered, or it is another store
            self._forget()
            self.leads = True
            listing = self._timetable.entries()
            self._load((plan.name, plan) for plan in listing.plans)
        self._version = listing.version

    def _load(self, plans: Iterable[tuple[str, Planned | None]]) -> None:
        for name, plan in plans:
            if plan is None:
                self._due.drop(name)
            else:
                self._due.load(plan)

    def _forget(self) -> None:
        self.leads = False
        self._due.clear()
        self._ahead_ms = 0

    def _lost(self, error: OperationalError) -> None:
        if not self._away:
            self._away = True
            logger.error("beat: the broker does not answer: %s", error)
        # what it led with may be another's by now
        self._forget()
        self._ask_at = 0.0

    # --- ticks ---

    def _rest_s(self) -> float:
        """Return how long there is nothing to do: no longer than the lead is sure."""
        longest_s = min(max(self._ask_at - time.monotonic(), 0.0), self.max_interval)
        entry = self._due.next()
        if entry is None:
            return longest_s
        fire_ms = entry.due_ms
        if fire_ms < self._fired_ms + GATHER_MS:
            fire_ms += GATHER_MS
        return min(longest_s, max((fire_ms - self._timetable.now_ms()) / 1000, 0.0))

    def _fire_due(self) -> None:
        now_ms = self._timetable.now_ms()
        due = self._due.take(now_ms, TOGETHER)
        if not due:
            return
        ticks: list[Tick] = []
        made: list[Made | None] = []
        for entry in due.values():
            ahead = entry.ahead
            if ahead is not None and ahead[0].due_ms == entry.due_ms >= now_ms - self._fresh_ms and not listened[0]:
                ticks.append(ahead[0])
                made.append(ahead[1])
                entry.ahead = None
            else:
                self._add_ticks(entry, now_ms, ticks, made)
        try:
            fired = self._timetable.fire(self.name, ticks)
        except OperationalError:
            # unknown whether fired: said again with the same due times, which does nothing twice
            for entry in due.values():
                self._due.put(entry)
            raise
        self._fired_ms = now_ms
        told = logger.isEnabledFor(logging.INFO)
        refused: dict[str, None] = {}
        for tick, message, done in zip(ticks, made, fired, strict=True):
            entry = due[tick.name]
            if not done:
                refused[tick.name] = None
                continue
            entry.due_ms = tick.next_due_ms
            if message is not None and (told or message.announced is not None):
                self._announce(entry, message)
        for name, entry in due.items():
            if name not in refused:
                self._due.put(entry)
        if refused:
            # edited since, or another beat believes to lead
            names = list(refused)
            self._load(zip(names, self._timetable.get(names), strict=True))
        self._make_ahead(now_ms)

    def _make_ahead(self, now_ms: int) -> None:
        """Make what is due soon, many at once: made one by one, each after a sleep, they cost several times as much.

        Its messages are of the time at which they are due. Nothing is made before its time that somebody may want to see or change.
        """
        following = self._due.next()
        if following is None or not self._ahead_ms < following.due_ms <= now_ms + AHEAD_MS or listened[0]:
            return
        self._ahead_ms = now_ms + AHEAD_MS
        for entry in self._due.approach(self._ahead_ms):
            due_ms = entry.due_ms
            if not entry.maker.alike:
                continue
            try:
                message = entry.maker.make(tick_id(self._seed, entry.name, due_ms), due_ms)
                next_ms = next_due_ms(entry.schedule, due_ms)
            except Exception:  # it is tried when it is due, and said then
                continue
            if next_ms > due_ms + self._fresh_ms:
                entry.ahead = Tick(entry.name, entry.edit, due_ms, next_ms, message.publications), message

    def _add_ticks(self, entry: Entry, now_ms: int, ticks: list[Tick], made: list[Made | None]) -> None:
        """Add what to do with an entry that is due. What cannot be sent is passed over, and said: the next tick may go well."""
        name, edit = entry.name, entry.edit
        try:
            todo = steps(
                entry.schedule, entry.due_ms, now_ms, missed=entry.missed, grace_ms=2 * self._lease_ms,
                deadline_ms=self._deadline_ms,
            )  # fmt: skip
        except Exception as exc:  # a schedule of the application's own: the others go on
            logger.error("beat: the schedule of %r fails, the entry is tried again in a minute: %s", name, said(exc))
            ticks.append(Tick(name, edit, entry.due_ms, now_ms + 60_000))
            made.append(None)
            return
        for due_ms, next_ms, run in todo:
            message: Made | None = None
            if run:
                try:
                    message = entry.maker.make(tick_id(self._seed, name, due_ms), now_ms)
                except OperationalError:
                    raise
                except Exception as exc:  # a router, a receiver of a signal, arguments that cannot be written: the others go on
                    logger.error("beat: %r cannot be sent: %s", name, said(exc), exc_info=not isinstance(exc, FastQError))
            else:
                logger.info("Scheduler: Passing over the missed run of %s (%s)", name, entry.task)
            ticks.append(Tick(name, edit, due_ms, next_ms, message.publications if message is not None else ()))
            made.append(message)

    def _announce(self, entry: Entry, message: Made) -> None:
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        logger.debug("%s sent. id->%s", entry.task, message.id)
        if message.announced is not None:
            after_task_publish.send(**message.announced)


def _pause(interrupt: int, delay_s: float) -> None:
    select.select([interrupt], [], [], delay_s)
