"""What an entry of ``beat_schedule`` says: checked here, for whichever scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastq.config import suggest
from fastq.exceptions import ImproperlyConfigured
from fastq.schedules import maybe_schedule

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["MISSED", "Missed", "checked_missed", "given"]

#: what happens to ticks that nobody fired in time
Missed = Literal["once", "skip", "all"]
MISSED: tuple[Missed, ...] = ("once", "skip", "all")

_KEYS = ("task", "schedule", "args", "kwargs", "options", "relative", "missed")


def given(app: FastQ, name: str, entry: Any, times: Sequence[str]) -> dict[str, Any]:
    """Return what an entry says by its keys, ``schedule`` made of what stands for one; ``missed`` and ``options`` are always there.

    ``times``: methods of which its schedule must have one. ImproperlyConfigured names the entry, and what in it cannot be meant.
    """
    where = f"beat_schedule[{name!r}]"
    if not isinstance(name, str) or not name:
        raise ImproperlyConfigured(f"beat_schedule has an entry named {name!r}: expected text")
    said = dict(entry) if isinstance(entry, Mapping) else _fields(entry, where)
    for key in said:
        if key not in _KEYS and key != "name":
            raise ImproperlyConfigured(
                f"{where} has an unknown key {key!r}{suggest(str(key), list(_KEYS))}; known: {', '.join(_KEYS)}"
            )
    said.pop("name", None)
    task = said.get("task")
    said["task"] = getattr(task, "name", task)
    if not isinstance(said["task"], str) or not said["task"]:
        raise ImproperlyConfigured(f"{where}['task'] = {task!r}: expected the name of a task")
    said["schedule"] = _schedule(app, where, said, times)
    if isinstance(said.get("args"), str) or not isinstance(said.get("args") or (), Sequence):
        raise ImproperlyConfigured(f"{where}['args'] = {said['args']!r}: expected a list or tuple")
    for key in ("kwargs", "options"):
        if not isinstance(said.get(key) or {}, Mapping):
            raise ImproperlyConfigured(f"{where}[{key!r}] = {said[key]!r}: expected a mapping")
    # add_periodic_task has it among the options
    said["options"] = dict(said.get("options") or {})
    said["missed"] = checked_missed(said["options"].pop("missed", None) or said.get("missed") or "once", where)
    return said


def checked_missed(missed: Any, where: str) -> Missed:
    """Return the policy; ImproperlyConfigured for what is none."""
    if missed not in MISSED:
        raise ImproperlyConfigured(f"{where}: missed={missed!r} is not one of {', '.join(MISSED)}")
    policy: Missed = missed
    return policy


def _schedule(app: FastQ, where: str, said: Mapping[str, Any], times: Sequence[str]) -> Any:
    when, reason = said.get("schedule"), ""
    try:
        schedule = maybe_schedule(when, bool(said.get("relative", False)), app=app)
    except (AttributeError, TypeError, ValueError) as exc:
        schedule, reason = None, f" ({exc})" if isinstance(exc, ValueError) else ""
    if not any(callable(getattr(schedule, method, None)) for method in times):
        raise ImproperlyConfigured(
            f"{where}['schedule'] = {when!r}: expected seconds, a timedelta, crontab(...), solar(...) or a schedule of your own"
            f"{reason}"
        )
    return schedule


def _fields(entry: Any, where: str) -> dict[str, Any]:
    """Return the fields of an entry that is an object, such as Celery's ScheduleEntry."""
    if not hasattr(entry, "task") or not hasattr(entry, "schedule"):
        raise ImproperlyConfigured(f"{where} = {entry!r}: expected a mapping such as {{'task': 'mail.send', 'schedule': 30.0}}")
    return {key: getattr(entry, key) for key in ("task", "schedule", "args", "kwargs", "options") if hasattr(entry, key)}
