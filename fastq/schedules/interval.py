"""``schedule``: runs every so often."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from numbers import Real
from typing import TYPE_CHECKING, Any

from fastq.schedules.base import BaseSchedule
from fastq.schedules.zones import instant

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["maybe_schedule", "schedule"]

_UNITS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


class schedule(BaseSchedule):
    """Run every ``run_every``, counted from the run before in elapsed time.

    ``relative``: the next run is put down to the beginning of its day, hour or minute, by the clock of the application's zone: the
    largest of these that is not longer than the interval. So every hour means at the full hour.
    """

    run_every: timedelta
    relative: bool = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: FastQ | None = None,
    ) -> None:
        """``run_every``: seconds or a timedelta, more than 0."""
        super().__init__(nowfun=nowfun, app=app)
        self.run_every = _interval(run_every)
        self.relative = bool(relative)

    @property
    def seconds(self) -> float:
        return self.run_every.total_seconds()

    @property
    def human_seconds(self) -> str:
        for unit, unit_s in _UNITS:
            count = self.seconds / unit_s
            if count >= 1:
                return f"{count:.2f} {unit}{'s' if count > 1 else ''}"
        return f"{self.seconds:.2f} seconds" if self.seconds else "now"

    def next_after(self, moment: datetime) -> datetime:
        """Return the run after the one at ``moment``."""
        moment = moment.astimezone(UTC)
        if not self.relative:
            return moment + self.run_every
        if self.run_every >= timedelta(days=1):
            # days are counted by the clock: one may have 23 or 25 hours
            zone = self.tz
            day = moment.astimezone(zone).replace(tzinfo=None, fold=0) + self.run_every
            return instant(day.replace(hour=0, minute=0, second=0, microsecond=0), zone)[0]
        run = moment + self.run_every
        shown = run.astimezone(self.tz)
        over = timedelta(microseconds=shown.microsecond)
        if self.run_every >= timedelta(minutes=1):
            over += timedelta(seconds=shown.second)
        if self.run_every >= timedelta(hours=1):
            over += timedelta(minutes=shown.minute)
        return run - over if over < self.run_every else run

    def latest_between(self, after: datetime, until: datetime) -> datetime | None:
        if self.relative:
            return super().latest_between(after, until)
        count = (until - after) // self.run_every
        return after.astimezone(UTC) + count * self.run_every if count > 0 else None

    def is_due(self, last_run_at: datetime) -> Any:
        state = super().is_due(last_run_at)
        return state if not state.is_due else state._replace(next=self.seconds)

    def to_plain(self) -> dict[str, Any]:
        return {"type": "interval", "every_s": self.seconds, **({"relative": True} if self.relative else {})}

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return self.run_every == other.run_every and self.relative == other.relative
        return self.run_every == other

    def __hash__(self) -> int:
        return hash(self.run_every)

    def __reduce__(self) -> Any:
        return type(self), (self.run_every, self.relative, self.nowfun)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _interval(value: Any) -> timedelta:
    if not isinstance(value, timedelta) and not _is_number(value):
        raise TypeError(f"schedule({value!r}): expected a number of seconds or a timedelta, not {type(value).__name__}")
    try:
        every = value if isinstance(value, timedelta) else timedelta(seconds=float(value))
    except (OverflowError, ValueError):
        every = timedelta(0)
    if every <= timedelta(0):
        raise ValueError(f"schedule({value!r}): expected more than 0 seconds, and less than a million years")
    return every


def maybe_schedule(s: Any, relative: bool = False, app: FastQ | None = None) -> Any:
    """Return the schedule that a number of seconds or a timedelta means; anything else as it is, told whose it is."""
    if isinstance(s, timedelta) or _is_number(s):
        return schedule(s, relative, app=app)
    if s is not None:
        s.app = app
    return s
