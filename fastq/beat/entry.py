"""One periodic task of a local scheduler: what is sent when, and when it last was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastq.canvas.texts import reprcall
from fastq.schedules import maybe_schedule, schedstate, schedule

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["BeatLazyFunc", "ScheduleEntry"]

_EDITABLE = ("task", "schedule", "args", "kwargs", "options")


class BeatLazyFunc:
    """An argument that is made anew each time its task is sent: ``args=[BeatLazyFunc(datetime.now)]``."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._args = args
        self._kwargs = kwargs

    def __call__(self) -> Any:
        return self._func(*self._args, **self._kwargs)


class ScheduleEntry:
    """A periodic task: its name, what it sends, its schedule, and its runs so far.

    Two are equal that send the same by the same schedule, whatever their names and runs.
    """

    name: str | None
    schedule: Any
    last_run_at: datetime
    total_run_count: int

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        relative: bool = False,
        app: FastQ | None = None,
    ) -> None:
        """``schedule``: seconds, a timedelta (``relative``: by the clock) or a schedule. ``last_run_at``: None is now."""
        self.app = app
        self.name = name
        self.task = task
        self.args = args
        self.kwargs = dict(kwargs) if kwargs else {}
        self.options = dict(options) if options else {}
        self.schedule = maybe_schedule(schedule, relative, app=app)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0

    def default_now(self) -> datetime:
        """Return the time of its schedule, else of its application."""
        now: datetime = self.schedule.now() if self.schedule or self.app is None else self.app.now()
        return now

    _default_now = default_now

    def is_due(self) -> schedstate:
        """Say whether it is to be sent now, and in how many seconds to look again."""
        state: schedstate = self.schedule.is_due(self.last_run_at)
        return state

    def next(self, last_run_at: datetime | None = None) -> ScheduleEntry:
        """Return the entry as it is after one more run.

        ``last_run_at``: None is now, for an interval the latest time at which it was due: it does not drift.
        """
        values = {**dict(self), "last_run_at": last_run_at or self._run_at(), "total_run_count": self.total_run_count + 1}
        return type(self)(**values)

    __next__ = _next_instance = next

    def _run_at(self) -> datetime:
        now = self.default_now()
        if not isinstance(self.schedule, schedule):
            return now
        aware = self.schedule.maybe_make_aware
        return self.schedule.latest_between(aware(self.last_run_at), aware(now)) or now

    def update(self, other: ScheduleEntry) -> None:
        """Take what is sent, and when, from another entry; its runs stay its own."""
        for name in _EDITABLE:
            setattr(self, name, getattr(other, name))

    def editable_fields_equal(self, other: ScheduleEntry) -> bool:
        return all(getattr(self, name) == getattr(other, name) for name in _EDITABLE)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __eq__(self, other: object) -> bool:
        return self.editable_fields_equal(other) if isinstance(other, ScheduleEntry) else NotImplemented

    __hash__ = object.__hash__

    def __lt__(self, other: object) -> bool:
        # two that are due at once stand in a heap
        return id(self) < id(other) if isinstance(other, ScheduleEntry) else NotImplemented

    def __repr__(self) -> str:
        call = reprcall(self.task or "", tuple(self.args or ()), self.kwargs)
        return f"<{type(self).__name__}: {self.name} {call} {self.schedule}>"

    def __reduce__(self) -> Any:
        return type(self), (
            self.name, self.task, self.last_run_at, self.total_run_count, self.schedule, self.args, self.kwargs, self.options,
        )  # fmt: skip
