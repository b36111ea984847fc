"""Bring the shared timetable up to what the application's code says: done by the beat that takes the lead, and by no other.

Two versions of an application may run beats side by side during a deployment. Each takes its own entries in when it takes the
lead, so the timetable changes with the leader and not every second.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastq.beat.definition import Definition, of_application, packed, unpacked
from fastq.beat.instants import first_due_ms
from fastq.beat.making import Maker
from fastq.exceptions import FastQError, ImproperlyConfigured
from fastq.transports.timetable import Edit, Planned, Timetable

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["check", "entries_of", "take_in"]

logger = logging.getLogger("fastq.beat")


def entries_of(app: FastQ) -> Mapping[str, Any]:
    """Return the periodic entries of an application's code, after everything was imported that may add some."""
    app.finalize()
    found: Mapping[str, Any] = app.conf.beat_schedule
    return found


def check(app: FastQ) -> None:
    """Raise ImproperlyConfigured, with its name, for an entry of the application's code that cannot be meant."""
    for name, entry in entries_of(app).items():
        definition = of_application(app, name, entry)
        try:
            first_due_ms(definition.times(app, name), 0)
            Maker(app, name, definition)
        except FastQError:
            raise
        except Exception as exc:  # options that no call has, a schedule of one's own
            raise ImproperlyConfigured(f"beat_schedule[{name!r}]: {exc}") from exc


def take_in(app: FastQ, timetable: Timetable) -> tuple[int, int, int]:
    """Add, change and remove what the application's code added, changed and removed; return how many of each.

    An entry whose definition in the code is the one taken in last is left alone: a change by the API or the command line stays.
    """
    said: dict[str, Definition] = {}
    entries = entries_of(app)
    for name, entry in entries.items():
        try:
            said[name] = of_application(app, name, entry)
        except FastQError as exc:
            logger.error("beat: the entry %r is left as it was: %s", name, exc)
    there = {plan.name: plan for plan in timetable.entries().plans}
    now_ms = timetable.now_ms()
    adds: list[Edit] = []
    changes: list[Edit] = []
    for name, definition in said.items():
        plan = there.get(name)
        try:
            if plan is None:
                due_ms = first_due_ms(definition.times(app, name), now_ms)
                adds.append(Edit(name, packed(app, definition), due_ms, False, 0))
            elif (old := _read(app, plan)) is None or old.source != definition.source:
                changes.append(_change(app, plan, old, definition, now_ms))
        except Exception as exc:  # one entry that cannot be used, such as a schedule without next_after(): the others go on
            logger.error("beat: the entry %r is left as it was: %s", name, exc)
    removals = [
        Edit(name, seen=plan.edit, remove=True)
        for name, plan in there.items()
        if name not in entries and (old := _read(app, plan)) is not None and old.origin == "app"
    ]
    done = timetable.edit([*adds, *changes, *removals])
    counts = (len(adds), len(adds) + len(changes))
    return (
        sum(map(bool, done[: counts[0]])), sum(map(bool, done[counts[0] : counts[1]])), sum(map(bool, done[counts[1] :])),
    )  # fmt: skip


def _change(app: FastQ, plan: Planned, old: Definition | None, definition: Definition, now_ms: int) -> Edit:
    if old is not None and old.origin == "api" and not old.source:
        logger.warning("beat: the entry %r was added by the API; now it is the application's.", plan.name)
    due_ms = plan.due_ms
    if old is None or not due_ms or (old.schedule, old.zone) != (definition.schedule, definition.zone):
        due_ms = first_due_ms(definition.times(app, plan.name), now_ms, plan.last_due_ms)
    return Edit(plan.name, packed(app, definition), due_ms, False, plan.edit)


def _read(app: FastQ, plan: Planned) -> Definition | None:
    """Return what an entry says, None if it cannot be read (a key that is not trusted any more, a newer version)."""
    try:
        return unpacked(app, plan.definition)
    except FastQError:
        return None
