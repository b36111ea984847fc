"""What every schedule can say: the next run after an instant, and whether one is due.

Instants that go out are in UTC, whatever zone the schedule is in: two datetimes of one zone compare by what the clock shows, which
is wrong in an hour that comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple

from fastq.running import app_finder
from fastq.schedules.zones import read_zone

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["BaseSchedule", "Calendar", "schedstate"]

_SECOND = timedelta(seconds=1)
#: further back nobody looks for a run: the longest way between two is 40 years (29 February on one day of the week)
_LONGEST = timedelta(days=366 * 41)


class schedstate(NamedTuple):
    """Whether a run is due, and in how many seconds to look again."""

    is_due: bool
    next: float


class BaseSchedule:
    """A schedule. One of your own overrides ``is_due(last_run_at)``, or ``next_after(moment)``, on which ``is_due`` is built."""

    nowfun: Callable[[], datetime] | None
    _app: FastQ | None
    _own_tz: tzinfo | None = None

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: FastQ | None = None) -> None:
        """``nowfun``: returns the time instead of the application's clock; a naive one is in UTC."""
        self.nowfun = nowfun
        self._app = app

    # --- whose it is ---

    @property
    def app(self) -> FastQ:
        """Return the application it was made for, else the current one."""
        return self._app or app_finder[0]()

    @app.setter
    def app(self, app: FastQ | None) -> None:
        self._app = app

    @property
    def tz(self) -> tzinfo:
        """Return the zone whose clock counts: its own, else the application's."""
        return self._own_tz if self._own_tz is not None else self.app.timezone

    @tz.setter
    def tz(self, tz: str | tzinfo | None) -> None:
        self._own_tz = read_zone(tz)

    @property
    def utc_enabled(self) -> bool:
        return bool(self.app.conf.enable_utc)

    # --- time ---

    def now(self) -> datetime:
        return (self.nowfun or self.app.now)()

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """Return a datetime in the schedule's zone; a naive one is in UTC (``naive_as_utc`` False: in the schedule's zone)."""
        if dt.tzinfo is None:
            if not naive_as_utc:
                return dt.replace(tzinfo=self.tz)
            dt = dt.replace(tzinfo=UTC)
        return dt.astimezone(self.tz)

    def to_local(self, dt: datetime) -> datetime:
        """Return a datetime in the machine's zone where ``enable_utc`` is off."""
        return dt if self.utc_enabled else dt.astimezone()

    # --- when it runs ---

    def next_after(self, moment: datetime) -> datetime:
        """Return the first run strictly after an aware ``moment``, in UTC. A pure function: no clock is looked at."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say when it runs next: it has is_due() alone, which a local scheduler can use "
            "(fastq beat -S persistent); for the shared one define next_after(moment)"
        )

    def runs_between(self, after: datetime, until: datetime, limit: int | None = None) -> list[datetime]:
        """Return the runs with after < run <= until, the oldest first, ``limit`` at most."""
        runs: list[datetime] = []
        for run in self._runs(after):
            if run > until or (limit is not None and len(runs) >= limit):
                break
            runs.append(run)
        return runs

    def _runs(self, after: datetime) -> Iterator[datetime]:
        while True:
            after = self.next_after(after)
            yield after

    def latest_between(self, after: datetime, until: datetime) -> datetime | None:
        """Return the latest run with after < run <= until, however many there are; None if there is none."""
        latest = None
        for run in self._runs(after):
            if run > until:
                break
            latest = run
        return latest

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return how long it is from now to the first run after ``last_run_at``; negative if that is past."""
        return self.next_after(_utc(last_run_at)) - _utc(self.now())

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Say whether a run has been due since ``last_run_at``, and in how many seconds to look again."""
        now = _utc(self.now())
        due = self.next_after(_utc(last_run_at))
        if due > now:
            return schedstate(False, (due - now).total_seconds())
        return schedstate(not self._too_late(now), (self.next_after(now) - now).total_seconds())

    def _too_late(self, now: datetime) -> bool:
        """Say whether the run that was missed is too old to be made up for."""
        return False

    def to_plain(self) -> dict[str, Any]:
        """Return the schedule as plain values, from which ``from_plain`` makes it again; TypeError where it cannot."""
        raise TypeError(
            f"a schedule of the class {type(self).__name__} cannot be kept in the broker: only crontab, schedule and solar can. "
            "Use it with a scheduler that keeps its schedules in the process (fastq beat -S persistent)"
        )

    # --- as a value ---

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return type(other) is type(self) and other.nowfun == self.nowfun
        return NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self.nowfun))


class Calendar(BaseSchedule):
    """A schedule whose runs are the same whenever it began."""

    def previous(self, moment: datetime) -> datetime | None:
        """Return the latest run at or before ``moment``; None if there was none in the 41 years before it.

        Looks back in doubled steps for one, then halves the way to the last. Some 30 calls of ``next_after``.
        """
        moment = _utc(moment)
        step = timedelta(minutes=1)
        empty = moment
        while step <= _LONGEST * 2:
            start = moment - min(step, _LONGEST)
            run = self.next_after(start)
            if run <= moment:
                break
            empty, step = start, step * 2
        else:
            return None
        while (later := self.next_after(run)) <= moment:  # there is none in (empty, moment]
            run = later
            middle = run + (empty - run) / 2
            if middle > run + _SECOND and (beyond := self.next_after(middle)) <= moment:
                run = beyond
            elif middle > run:
                empty = min(empty, middle)
        return run

    def latest_between(self, after: datetime, until: datetime) -> datetime | None:
        latest = self.previous(until)
        return latest if latest is not None and latest > after else None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
