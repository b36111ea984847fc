"""A timetable in dictionaries."""

from __future__ import annotations

import select
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from fastq.transports.memory.baton import pass_baton
from fastq.transports.memory.effects import keep
from fastq.transports.memory.queue import LEVELS, Queue
from fastq.transports.memory.signal import Signal
from fastq.transports.memory.stores import MemoryStore
from fastq.transports.timetable import Edit, Lead, Listing, Planned, Tick

__all__ = ["MemoryTimetable"]


@dataclass(slots=True)
class _Shared:
    """What the timetables of one scope share; it lives in the store, behind its lock."""

    plans: dict[str, Planned] = field(default_factory=dict)
    #: name -> number of the edit that removed it
    removed: dict[str, int] = field(default_factory=dict)
    #: name -> who fired last
    fired_by: dict[str, str] = field(default_factory=dict)
    version: int = 0
    leader: str = ""
    until_ms: int = 0
    waiting: list[Signal] = field(default_factory=list)

    def tell(self) -> None:
        for signal in self.waiting:
            signal.set()


class MemoryTimetable:
    """``Timetable`` in the store of one name."""

    def __init__(self, url: str, memory: MemoryStore, scope: str) -> None:
        self.url = url
        self._store = memory
        with memory.lock:
            self._shared = cast(_Shared, memory.timetables.setdefault(scope, _Shared()))
        self._signal: Signal | None = None

    def now_ms(self) -> int:
        return self._store.now_ms()

    def entries(self, since: int = 0) -> Listing:
        with self._store.lock:
            shared = self._shared
            plans = [plan for plan in shared.plans.values() if plan.edit > since]
            removed = [name for name, edit in shared.removed.items() if edit > since] if since else []
            return Listing(shared.version, len(shared.plans), plans, removed)

    def get(self, names: Sequence[str]) -> list[Planned | None]:
        with self._store.lock:
            return [self._shared.plans.get(name) for name in names]

    def edit(self, edits: Sequence[Edit]) -> list[int]:
        with self._store.lock:
            number = max(self._store.now_ms(), self._shared.version + 1)
            numbers = [self._edit(edit, number) for edit in edits]
            if any(numbers):
                self._shared.version = number
                self._shared.tell()
        return numbers

    def _edit(self, edit: Edit, number: int) -> int:
        shared = self._shared
        plan = shared.plans.get(edit.name)
        if edit.seen is not None and edit.seen != (plan.edit if plan is not None else 0):
            return 0
        if plan is None and (edit.definition is None or edit.remove):
            return 0
        if edit.remove:
            del shared.plans[edit.name]
            shared.fired_by.pop(edit.name, None)
            shared.removed[edit.name] = number
            return number
        plan = plan or Planned(edit.name, b"", 0)
        given = {key: value for key in ("definition", "due_ms", "paused") if (value := getattr(edit, key)) is not None}
        shared.plans[edit.name] = plan._replace(edit=number, **given)
        shared.removed.pop(edit.name, None)
        return number

    def fire(self, by: str, ticks: Sequence[Tick]) -> list[bool]:
        memory, shared = self._store, self._shared
        fired: list[bool] = []
        with memory.lock:
            now_ms = memory.now_ms()
            touched: dict[str, Queue] = {}
            for one in (one for tick in ticks for one in tick.publications):
                if not 0 <= one.level < LEVELS:
                    raise ValueError(f"priority {one.level} is outside of 0 to {LEVELS - 1}")
            for tick in ticks:
                plan = shared.plans.get(tick.name)
                same = plan is not None and plan.edit == tick.edit
                if plan is None or not same or plan.paused or plan.due_ms != tick.due_ms:
                    again = plan is not None and same and shared.fired_by.get(tick.name) == by
                    fired.append(plan is not None and again and tick.due_ms <= plan.last_due_ms)
                    continue
                plan = plan._replace(due_ms=tick.next_due_ms, last_due_ms=tick.due_ms)
                if tick.publications:
                    plan = plan._replace(last_run_ms=now_ms, runs=plan.runs + 1)
                shared.plans[tick.name] = plan
                shared.fired_by[tick.name] = by
                touched.update((queue.name, queue) for queue in keep(memory, tick.publications, now_ms))
                fired.append(True)
            pass_baton(memory, touched.values())
        return fired

    def lead(self, name: str, lease_ms: int) -> Lead:
        with self._store.lock:
            shared, now_ms = self._shared, self._store.now_ms()
            taken = not shared.leader or shared.until_ms <= now_ms
            if taken or shared.leader == name:
                shared.leader, shared.until_ms = name, now_ms + lease_ms
            return Lead(shared.leader == name, taken, shared.until_ms - now_ms, shared.version, now_ms, shared.leader)

    def resign(self, name: str) -> None:
        with self._store.lock:
            if self._shared.leader == name:
                self._shared.leader = ""
                self._shared.tell()

    def leader(self) -> str:
        with self._store.lock:
            return self._shared.leader if self._shared.until_ms > self._store.now_ms() else ""

    def wait(self, timeout_s: float, interrupt: int) -> bool:
        with self._store.lock:
            if self._signal is None:
                self._signal = Signal()
                self._shared.waiting.append(self._signal)
                return True
        select.select([self._signal.fileno(), interrupt], [], [], max(timeout_s, 0.0))
        return self._signal.clear()

    def close(self) -> None:
        with self._store.lock:
            if self._signal is not None:
                self._shared.waiting.remove(self._signal)
                self._signal.close()
                self._signal = None
