"""Look at periodic entries and change them, while beats run: what ``app.schedules`` is."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from fastq.beat.definition import Definition, Missed, checked, of_application, packed, unpacked
from fastq.beat.instants import first_due_ms, moment
from fastq.beat.making import Maker
from fastq.beat.shared import timetable_of
from fastq.beat.taking_in import entries_of
from fastq.exceptions import FastQError, ImproperlyConfigured, ScheduleNotFound
from fastq.schedules import BaseSchedule, to_plain
from fastq.transports.timetable import Edit, Planned, Timetable

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.result import AsyncResult

__all__ = ["Entry", "Schedules"]

#: how often a change is tried when others change the same entry
TRIES = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One periodic entry, and what it has done so far."""

    name: str
    task: str
    #: None: it cannot be read, see ``error``
    schedule: BaseSchedule | None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    #: what becomes of runs that nobody sent in time: "once", "skip" or "all"
    missed: Missed = "once"
    #: "app": from the application's code, "api": added by the API or the command line
    origin: str = "api"
    paused: bool = False
    #: in UTC; None: it is paused, or no beat has taken it in yet
    next_run_at: datetime | None = None
    last_run_at: datetime | None = None
    runs: int = 0
    #: why it cannot be used
    error: str = ""

    @property
    def state(self) -> str:
        """Return "waiting", "paused", "broken", or "new": no beat has taken it in yet."""
        if self.error:
            return "broken"
        if self.paused:
            return "paused"
        return "new" if self.next_run_at is None else "waiting"

    def as_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can write, as far as its arguments can be."""
        try:
            plain = to_plain(self.schedule) if self.schedule is not None else None
        except TypeError:
            plain = {"type": "custom", "repr": repr(self.schedule)}
        return {
            "name": self.name,
            "task": self.task,
            "schedule": plain,
            "args": list(self.args),
            "kwargs": dict(self.kwargs),
            "options": dict(self.options),
            "missed": self.missed,
            "origin": self.origin,
            "state": self.state,
            "next_run_at": self.next_run_at.isoformat() if self.next_run_at else None,
            "last_run_at": self.last_run_at.isoformat() if self.last_run_at else None,
            "runs": self.runs,
            "error": self.error,
        }


class Schedules:
    """The periodic entries of an application, as the broker has them. Each call is one short conversation with it; any thread."""

    def __init__(self, app: FastQ) -> None:
        self._app = app

    @contextmanager
    def _open(self) -> Iterator[Timetable]:
        timetable = timetable_of(self._app)
        try:
            yield timetable
        finally:
            timetable.close()

    # --- looking ---

    def list(self) -> list[Entry]:
        """Return all entries by name, those of the application included that no beat has taken in yet."""
        with self._open() as timetable:
            found = {plan.name: self._entry(plan) for plan in timetable.entries().plans}
        for name, said in entries_of(self._app).items():
            if name not in found:
                found[name] = self._new(name, said)
        return [found[name] for name in sorted(found)]

    def get(self, name: str) -> Entry:
        """Return one entry; ScheduleNotFound if there is none."""
        with self._open() as timetable:
            (plan,) = timetable.get([name])
            if plan is not None:
                return self._entry(plan)
            said = entries_of(self._app).get(name)
            if said is not None:
                return self._new(name, said)
            raise self._unknown(timetable, name)

    def leader(self) -> str:
        """Return the name of the beat that leads, "" if none does: then nothing is sent."""
        with self._open() as timetable:
            return timetable.leader()

    # --- changing ---

    def add(
        self,
        name: str,
        task: Any,
        schedule: float | timedelta | BaseSchedule,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        missed: Missed = "once",
        paused: bool = False,
        **options: Any,
    ) -> Entry:
        """Add an entry; ``task`` is a task or its name, ``options`` are those of ``apply_async``. It stays until it is removed.

        ValueError if there is one of that name.
        """
        app = self._app
        app.finalize()
        definition = self._checked(
            name,
            Definition(
                _task_name(task), to_plain(schedule), tuple(args), dict(kwargs or {}), options, missed, "api", "", str(app.timezone)
            ),
        )
        times = definition.times(app, name)
        with self._open() as timetable:
            due_ms = first_due_ms(times, timetable.now_ms())
            if name in entries_of(app) or not timetable.edit([Edit(name, packed(app, definition), due_ms, paused, 0)])[0]:
                raise ValueError(f"there is a periodic entry {name!r} already: change it, or choose another name")
        return self.get(name)

    def change(
        self,
        name: str,
        *,
        task: Any = None,
        schedule: float | timedelta | BaseSchedule | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        missed: Missed | None = None,
        **options: Any,
    ) -> Entry:
        """Change what is given, and leave the rest; an option that is None goes. What the entry has done so far stays.

        A changed schedule counts from the last run, and begins with its first run that is not past. A change of an entry of the
        application's stays until its code says something else of this entry than it does now.
        """
        app = self._app
        app.finalize()
        given: dict[str, Any] = {}
        if task is not None:
            given["task"] = _task_name(task)
        if schedule is not None:
            given.update(schedule=to_plain(schedule), zone=str(app.timezone))
        if args is not None:
            given["args"] = tuple(args)
        if kwargs is not None:
            given["kwargs"] = dict(kwargs)
        if missed is not None:
            given["missed"] = missed

        def changed(plan: Planned, now_ms: int) -> Edit:
            old = unpacked(app, plan.definition)
            merged = {key: value for key, value in {**old.options, **options}.items() if value is not None}
            new = self._checked(name, replace(old, options=merged, **given))
            due_ms = None
            if (old.schedule, old.zone) != (new.schedule, new.zone):
                due_ms = first_due_ms(new.times(app, name), now_ms, plan.last_due_ms)
            return Edit(name, packed(app, new), due_ms)

        return self._edited(name, changed)

    def pause(self, name: str) -> Entry:
        """Send it no more until it is resumed. Harmless if it is paused."""
        return self._edited(name, lambda plan, now_ms: Edit(name, paused=True))

    def resume(self, name: str) -> Entry:
        """Send it again, from its next run after now on: runs in between were not missed. Harmless if it is not paused."""

        def resumed(plan: Planned, now_ms: int) -> Edit | None:
            if not plan.paused:
                return None
            times = unpacked(self._app, plan.definition).times(self._app, name)
            return Edit(name, due_ms=first_due_ms(times, now_ms, plan.last_due_ms), paused=False)

        return self._edited(name, resumed)

    def run_now(self, name: str) -> AsyncResult[Any]:
        """Send it once, at once, paused or not; return the result. Its schedule and its count of runs do not change."""
        entry = self.get(name)
        if entry.error:
            raise ImproperlyConfigured(f"the periodic entry {name!r} cannot be sent: {entry.error}")
        headers = {**(entry.options.get("headers") or {}), "celery_beat_task": True, "periodic_task_name": name}
        return self._app.send_task(entry.task, entry.args, entry.kwargs, **{**entry.options, "headers": headers})

    def remove(self, name: str) -> None:
        """Remove an entry. ValueError for one of the application's code, which would bring it back: it can be paused."""
        if name in entries_of(self._app):
            raise ValueError(
                f"the periodic entry {name!r} comes from the application's code (beat_schedule or add_periodic_task): "
                "take it out there, or pause it"
            )
        with self._open() as timetable:
            if not timetable.edit([Edit(name, remove=True)])[0]:
                raise self._unknown(timetable, name)

    # --- ---

    def _edited(self, name: str, change: Callable[[Planned, int], Edit | None]) -> Entry:
        """Change an entry as it is at that moment, again if somebody else was faster."""
        with self._open() as timetable:
            for _ in range(TRIES):
                (plan,) = timetable.get([name])
                if plan is None and (said := entries_of(self._app).get(name)) is not None:
                    # no beat has run yet: as the first one would take it in
                    definition = of_application(self._app, name, said)
                    due_ms = first_due_ms(definition.times(self._app, name), timetable.now_ms())
                    timetable.edit([Edit(name, packed(self._app, definition), due_ms, False, 0)])
                    (plan,) = timetable.get([name])
                if plan is None:
                    raise self._unknown(timetable, name)
                edit = change(plan, timetable.now_ms())
                if edit is None or timetable.edit([edit._replace(seen=plan.edit)])[0]:
                    break
            else:
                raise FastQError(f"the periodic entry {name!r} was changed by others again and again: try once more")
        return self.get(name)

    def _checked(self, name: str, definition: Definition) -> Definition:
        """Return the definition, if messages can be made of it. TypeError and ValueError tell why not."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a periodic entry is text, not {name!r}")
        checked(definition, f"periodic entry {name!r}")
        Maker(self._app, name, definition)
        task = self._app.tasks.get(definition.task)
        if task is not None:
            task._planned().check(definition.args, definition.kwargs)
        return definition

    def _entry(self, plan: Planned) -> Entry:
        ran = moment(plan.last_run_ms) if plan.last_run_ms else None
        due = moment(plan.due_ms) if plan.due_ms and not plan.paused else None
        try:
            said = unpacked(self._app, plan.definition)
        except FastQError as exc:
            return Entry(plan.name, "", None, paused=plan.paused, last_run_at=ran, runs=plan.runs, error=str(exc))
        schedule, error = None, ""
        try:
            schedule = said.times(self._app, plan.name)
        except (FastQError, ValueError, TypeError) as exc:
            error = str(exc)
        return Entry(
            plan.name, said.task, schedule, said.args, said.kwargs, said.options, said.missed, said.origin, plan.paused, due, ran,
            plan.runs, error,
        )  # fmt: skip

    def _new(self, name: str, said: Any) -> Entry:
        try:
            definition = of_application(self._app, name, said)
            return Entry(
                name, definition.task, definition.times(self._app, name), definition.args, definition.kwargs, definition.options,
                definition.missed, "app",
            )  # fmt: skip
        except (FastQError, ValueError, TypeError) as exc:
            return Entry(name, "", None, origin="app", error=str(exc))

    def _unknown(self, timetable: Timetable, name: str) -> ScheduleNotFound:
        names = {plan.name for plan in timetable.entries().plans} | set(entries_of(self._app))
        near = difflib.get_close_matches(name, names, 1)
        known = f" Did you mean {near[0]!r}?" if near else f" There are {len(names)}; `fastq schedule list` shows them."
        return ScheduleNotFound(f"there is no periodic entry {name!r}.{known}")


def _task_name(task: Any) -> str:
    name = getattr(task, "name", task)
    if not isinstance(name, str) or not name:
        raise TypeError(f"task={task!r}: expected a task or its name")
    return name
