"""What the beat that leads has of the timetable: its entries in memory, and which of them is due next."""

from __future__ import annotations

import heapq
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastq.beat.definition import Missed, unpacked
from fastq.beat.making import Made, Maker
from fastq.exceptions import FastQError
from fastq.schedules import BaseSchedule
from fastq.transports.timetable import Planned, Tick

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["Due", "Entry", "said"]

logger = logging.getLogger("fastq.beat")


@dataclass(slots=True, eq=False)
class Entry:
    """An entry that can be used. It is replaced by another object when it is edited, and moves on otherwise."""

    name: str
    edit: int
    due_ms: int
    paused: bool
    task: str
    missed: Missed
    schedule: BaseSchedule
    maker: Maker
    #: a tick that was made before it is due; it may be a past one
    ahead: tuple[Tick, Made] | None = None


class Due:
    """Entries by name, and in the order in which they are due."""

    def __init__(self, app: FastQ) -> None:
        self._app = app
        self._entries: dict[str, Entry] = {}
        #: heaps of (due, name), also of entries that have moved on, and twice of edited ones: the entry says what holds. One of
        #: what is due until ``_near_ms``, so few that processors have them at hand, and one of the rest
        self._near: list[tuple[int, str]] = []
        self._far: list[tuple[int, str]] = []
        self._near_ms = 0
        #: names of entries that cannot be used, and the edit at which they were said to be so
        self._broken: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many entries there are, broken ones included."""
        return len(self._entries) + len(self._broken)

    @property
    def usable(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._entries.clear()
        self._near.clear()
        self._far.clear()
        self._near_ms = 0
        self._broken.clear()

    def load(self, plan: Planned) -> None:
        """Take an entry in as the broker has it now."""
        known = self._entries.get(plan.name)
        if known is not None and known.edit == plan.edit:
            known.due_ms, known.paused = plan.due_ms, plan.paused
        else:
            try:
                definition = unpacked(self._app, plan.definition)
                schedule, maker = definition.times(self._app, plan.name), Maker(self._app, plan.name, definition)
            except Exception as exc:  # the others go on: an entry comes from whoever can write to the broker
                self._entries.pop(plan.name, None)
                if self._broken.get(plan.name) != plan.edit:
                    logger.error("beat: the entry %r cannot be used: %s", plan.name, said(exc))
                self._broken[plan.name] = plan.edit
                return
            self._entries[plan.name] = Entry(
                plan.name, plan.edit, plan.due_ms, plan.paused, definition.task, definition.missed, schedule, maker
            )
            self._broken.pop(plan.name, None)
        if not plan.paused and plan.due_ms:
            self._push(plan.due_ms, plan.name)

    def drop(self, name: str) -> None:
        self._entries.pop(name, None)
        self._broken.pop(name, None)

    def next(self) -> Entry | None:
        """Return the entry that is due next; what is on top of a heap and does not hold any more goes."""
        for heap in (self._near, self._far):
            while heap:
                due_ms, name = heap[0]
                entry = self._entries.get(name)
                if entry is not None and entry.due_ms == due_ms and not entry.paused:
                    return entry
                heapq.heappop(heap)
        return None

    def take(self, until_ms: int, most: int) -> dict[str, Entry]:
        """Take out what is due until then, by name."""
        taken: dict[str, Entry] = {}
        for heap in (self._near, self._far):
            while heap and heap[0][0] <= until_ms and len(taken) < most:
                due_ms, name = heapq.heappop(heap)
                entry = self._entries.get(name)
                if entry is not None and entry.due_ms == due_ms and not entry.paused:
                    taken[name] = entry
        return taken

    def put(self, entry: Entry) -> None:
        """Put one back that was taken, where it belongs now."""
        self._push(entry.due_ms, entry.name)

    def approach(self, until_ms: int) -> list[Entry]:
        """Bring near what is due until then; return it, unless it was near before."""
        far, arrived = self._far, {}
        self._near_ms = max(self._near_ms, until_ms)
        while far and far[0][0] <= until_ms:
            due = due_ms, name = heapq.heappop(far)
            entry = self._entries.get(name)
            if entry is not None and entry.due_ms == due_ms and not entry.paused:
                heapq.heappush(self._near, due)
                arrived[name] = entry
        return list(arrived.values())

    def _push(self, due_ms: int, name: str) -> None:
        heapq.heappush(self._near if due_ms <= self._near_ms else self._far, (due_ms, name))


def said(exc: Exception) -> str:
    """Return what an error says, with its kind where it is not one of fastq's."""
    return str(exc) if isinstance(exc, FastQError) else f"{type(exc).__name__}: {exc}"
