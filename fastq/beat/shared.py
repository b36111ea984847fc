"""The schedule that all beats share: its entries in memory of the one that leads, and its ticks fired through the broker.

Exactly once. The broker fires a tick only for who names the due time at which its entry stands, and moves that on in the same step:
of two beats that both believe to lead, one gets nothing. So leading is for thrift alone: those that wait do not load anything.
"""

from __future__ import annotations

import heapq
import logging
import os
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastq.beat.definition import Definition, unpacked
from fastq.beat.instants import steps
from fastq.beat.making import Made, Maker, tick_id
from fastq.beat.taking_in import take_in
from fastq.exceptions import FastQError, OperationalError
from fastq.schedules import BaseSchedule
from fastq.signals import after_task_publish
from fastq.transports import open_timetable
from fastq.transports.timetable import Planned, Tick, Timetable

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["SharedScheduler", "scope_of", "timetable_of"]

logger = logging.getLogger("fastq.beat")

#: ticks that fall due within this time after others have been fired are fired together, s: it bounds what many entries cost
BREATH_S = 0.04
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


@dataclass(slots=True, eq=False)
class _Entry:
    """An entry of the timetable as the leader has it."""

    plan: Planned
    definition: Definition
    schedule: BaseSchedule
    maker: Maker


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
        self._entries: dict[str, _Entry] = {}
        #: (due, name), also of entries that have moved on: the entry says what holds
        self._heap: list[tuple[int, str]] = []
        #: names of entries that cannot be used, and the edit at which they were said to be so
        self._broken: dict[str, int] = {}
        self._version = 0
        #: when to ask for the lead again, on the monotonic clock
        self._ask_at = 0.0
        self._fired_at = 0.0
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
        for plan in listing.plans:
            self._load(plan)
        logger.info(
            "beat: leading, with %d entries (%d added, %d changed and %d removed by the application).",
            len(self._entries), added, changed, removed,
        )  # fmt: skip

    def _read_edits(self) -> None:
        listing = self._timetable.entries(self._version)
        if listing.version >= self._version:
            for name in listing.removed:
                self._drop(name)
            for plan in listing.plans:
                self._load(plan)
        if listing.version < self._version or len(self._entries) + len(self._broken) != listing.total:
            # more was removed than is remembered, or it is another store
            self._forget()
            self.leads = True
            listing = self._timetable.entries()
            for plan in listing.plans:
                self._load(plan)
        self._version = listing.version

    def _forget(self) -> None:
        self.leads = False
        self._entries.clear()
        self._heap.clear()
        self._broken.clear()

    def _lost(self, error: OperationalError) -> None:
        if not self._away:
            self._away = True
            logger.error("beat: the broker does not answer: %s", error)
        # what it led with may be another's by now
        self._forget()
        self._ask_at = 0.0

    # --- entries ---

    def _load(self, plan: Planned) -> None:
        known = self._entries.get(plan.name)
        if known is not None and known.plan.edit == plan.edit:
            known.plan = plan
        else:
            try:
                definition = unpacked(self.app, plan.definition)
                schedule = definition.times(self.app, plan.name)
                self._entries[plan.name] = _Entry(plan, definition, schedule, Maker(self.app, plan.name, definition))
                self._broken.pop(plan.name, None)
            except Exception as exc:  # the others go on: an entry comes from whoever can write to the broker
                self._entries.pop(plan.name, None)
                if self._broken.get(plan.name) != plan.edit:
                    logger.error("beat: the entry %r cannot be used: %s", plan.name, _said(exc))
                self._broken[plan.name] = plan.edit
                return
        if not plan.paused and plan.due_ms:
            heapq.heappush(self._heap, (plan.due_ms, plan.name))

    def _drop(self, name: str) -> None:
        self._entries.pop(name, None)
        self._broken.pop(name, None)

    def _reload(self, names: Iterable[str]) -> None:
        names = list(names)
        for name, plan in zip(names, self._timetable.get(names), strict=True):
            if plan is None:
                self._drop(name)
            else:
                self._load(plan)

    # --- ticks ---

    def _next(self) -> _Entry | None:
        """Return the entry that is due next; what is on top of the heap and does not hold any more goes."""
        heap = self._heap
        while heap:
            due_ms, name = heap[0]
            entry = self._entries.get(name)
            if entry is not None and entry.plan.due_ms == due_ms and not entry.plan.paused:
                return entry
            heapq.heappop(heap)
        return None

    def _rest_s(self) -> float:
        """Return how long nothing is due: no longer than the lead is sure."""
        now = time.monotonic()
        longest_s = min(max(self._ask_at - now, 0.0), self.max_interval)
        entry = self._next()
        if entry is None:
            return longest_s
        due_s = (entry.plan.due_ms - self._timetable.now_ms()) / 1000
        return min(longest_s, max(due_s, self._fired_at + BREATH_S - now, 0.0))

    def _fire_due(self) -> None:
        now_ms = self._timetable.now_ms()
        due: list[_Entry] = []
        while len(due) < TOGETHER and (entry := self._next()) is not None and entry.plan.due_ms <= now_ms:
            heapq.heappop(self._heap)
            due.append(entry)
        if not due:
            return
        ticks: list[Tick] = []
        made: list[Made | None] = []
        for entry in due:
            for tick, message in self._ticks(entry, now_ms):
                ticks.append(tick)
                made.append(message)
        try:
            fired = self._timetable.fire(self.name, ticks)
        except OperationalError:
            # unknown whether fired: said again with the same due times, which does nothing twice
            for entry in due:
                heapq.heappush(self._heap, (entry.plan.due_ms, entry.plan.name))
            raise
        self._fired_at = time.monotonic()
        refused: dict[str, None] = {}
        for tick, message, done in zip(ticks, made, fired, strict=True):
            entry_now = self._entries[tick.name]
            if not done:
                refused[tick.name] = None
                continue
            entry_now.plan = entry_now.plan._replace(due_ms=tick.next_due_ms, last_due_ms=tick.due_ms)
            if message is not None:
                self._announce(entry_now, message)
        for entry in due:
            if entry.plan.name not in refused:
                heapq.heappush(self._heap, (entry.plan.due_ms, entry.plan.name))
        if refused:
            # edited since, or another beat believes to lead
            self._reload(refused)

    def _ticks(self, entry: _Entry, now_ms: int) -> list[tuple[Tick, Made | None]]:
        """Return what to do with an entry that is due. What cannot be sent is passed over, and said: the next tick may go well."""
        plan, ticks = entry.plan, []
        try:
            todo = list(
                steps(
                    entry.schedule, plan.due_ms, now_ms, missed=entry.definition.missed, grace_ms=2 * self._lease_ms,
                    deadline_ms=self._deadline_ms,
                )
            )  # fmt: skip
        except Exception as exc:  # a schedule of the application's own: the others go on
            logger.error("beat: the schedule of %r fails, the entry is tried again in a minute: %s", plan.name, _said(exc))
            return [(Tick(plan.name, plan.edit, plan.due_ms, now_ms + 60_000), None)]
        for step in todo:
            message: Made | None = None
            if step.run:
                try:
                    message = entry.maker.make(tick_id(self._seed, plan.name, step.due_ms), now_ms)
                except OperationalError:
                    raise
                except Exception as exc:  # a router, a receiver of a signal, arguments that cannot be written: the others go on
                    logger.error("beat: %r cannot be sent: %s", plan.name, _said(exc), exc_info=not isinstance(exc, FastQError))
            else:
                logger.info("Scheduler: Passing over the missed run of %s (%s)", plan.name, entry.definition.task)
            publications = message.publications if message is not None else ()
            ticks.append((Tick(plan.name, plan.edit, step.due_ms, step.next_ms, publications), message))
        return ticks

    def _announce(self, entry: _Entry, message: Made) -> None:
        logger.info("Scheduler: Sending due task %s (%s)", entry.plan.name, entry.definition.task)
        logger.debug("%s sent. id->%s", entry.definition.task, message.id)
        if message.announced is not None:
            after_task_publish.send(**message.announced)


def _said(exc: Exception) -> str:
    return str(exc) if isinstance(exc, FastQError) else f"{type(exc).__name__}: {exc}"


def _pause(interrupt: int, delay_s: float) -> None:
    select.select([interrupt], [], [], delay_s)
