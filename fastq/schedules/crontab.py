"""``crontab``: runs at times of the day, on days of the week, of the month, of the year, by the clock of a zone.

What it does where clocks are put forward or back:

* a crontab with certain hours runs once for each time that it names. A time that the clock skips: once, at the instant the clock is
  put forward (several skipped ones are one run). A time that the clock shows twice: at the first.
* a crontab for every hour (``hour='*'``) runs whenever the clock shows a time that matches, so every 15 minutes stays every 15
  minutes: times that are skipped are no runs, times shown twice are two.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from fastq.schedules.base import Calendar
from fastq.schedules.fields import DAY_OF_MONTH, DAY_OF_WEEK, HOUR, MINUTE, MONTH_OF_YEAR, Field, ParseException
from fastq.schedules.zones import changed_at, instant, is_repeated, key_of, read_zone

if TYPE_CHECKING:
    from fastq.app import FastQ

__all__ = ["crontab"]

_MINUTE = timedelta(minutes=1)
#: in the order of a line of cron(5)
_LINE: tuple[Field, ...] = (MINUTE, HOUR, DAY_OF_MONTH, MONTH_OF_YEAR, DAY_OF_WEEK)
_NICKNAMES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip
#: month -> most days it can have
_LENGTHS = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
Spec = int | str | Iterable[int] | Iterable[str] | None


class crontab(Calendar):
    """Run when the clock of a zone shows a time that every field allows: unlike in cron(5), both of the fields of days must.

    A field is ``*``, a number, a name (``mon``, ``jan``), a range ``a-b``, steps ``*/n`` or ``a-b/n``, a list of these with commas,
    or a set or list of numbers. Sunday is 0 and 7. Steps count from the beginning of the range, anew in each hour, day or month.
    """

    minute: frozenset[int]
    hour: frozenset[int]
    day_of_week: frozenset[int]
    day_of_month: frozenset[int]
    month_of_year: frozenset[int]

    def __init__(
        self,
        minute: Spec = "*",
        hour: Spec = "*",
        day_of_week: Spec = "*",
        day_of_month: Spec = "*",
        month_of_year: Spec = "*",
        tz: str | tzinfo | None = None,
        nowfun: Callable[[], datetime] | None = None,
        app: FastQ | None = None,
    ) -> None:
        """``tz``: the zone whose clock counts, such as ``'Europe/Paris'``; None: the application's.

        ParseException (a ValueError) where a field cannot be read, or if no day is ever like that.
        """
        super().__init__(nowfun=nowfun, app=app)
        self._orig_minute = _kept(minute)
        self._orig_hour = _kept(hour)
        self._orig_day_of_week = _kept(day_of_week)
        self._orig_day_of_month = _kept(day_of_month)
        self._orig_month_of_year = _kept(month_of_year)
        for field in _LINE:
            setattr(self, field.name, field.read(getattr(self, "_orig_" + field.name)))
        self._own_tz = read_zone(tz)
        self._refuse_impossible()
        #: [n]: the first minute, or hour, from n on; -1 if there is none
        self._minutes = _following(self.minute, 60)
        self._hours = _following(self.hour, 24)
        self._every_hour = len(self.hour) == 24
        self._first_of_day = (self._hours[0], self._minutes[0])
        #: [first day of the month's weekday, Monday 0]: bit n is set where day n (from 1) may run
        self._days = tuple(
            sum(1 << day for day in self.day_of_month if (weekday + day) % 7 in self.day_of_week) for weekday in range(7)
        )

    def _refuse_impossible(self) -> None:
        first = min(self.day_of_month)
        if all(first > _LENGTHS[month] for month in self.month_of_year):
            raise ParseException(
                f"crontab day_of_month={self._orig_day_of_month!r}, month_of_year={self._orig_month_of_year!r}: no month of these "
                f"has a day {first}; it would never run"
            )

    @classmethod
    def from_string(cls, crontab: str, **kwargs: Any) -> crontab:
        """Make one of a line of cron(5), minute hour day_of_month month_of_year day_of_week, or ``@daily`` and the like.

        ``kwargs``: ``tz``, ``nowfun``, ``app``.
        """
        parts = _NICKNAMES.get(crontab.strip().lower(), crontab).split()
        if len(parts) != len(_LINE):
            raise ParseException(
                f"crontab {crontab!r} has {len(parts)} field{'s' if len(parts) != 1 else ''}; expected five, separated by spaces: "
                f"minute hour day_of_month month_of_year day_of_week, or one of {', '.join(_NICKNAMES)}"
            )
        fields: dict[str, Any] = {field.name: part for field, part in zip(_LINE, parts, strict=True)}
        return cls(**fields, **kwargs)

    # --- when it runs ---

    def next_after(self, moment: datetime) -> datetime:
        zone = self.tz
        shown = moment.astimezone(zone)
        wall = shown.replace(tzinfo=None, fold=0)
        if zone is UTC:
            return self._matching(wall + _MINUTE).replace(tzinfo=UTC)
        moment = moment.astimezone(UTC)
        if self._every_hour:
            return self._next_shown(moment, shown, wall, zone)
        while True:  # more than once only while the clock shows times again, or right after it was put forward
            wall = self._matching(wall + _MINUTE)
            run, _ = instant(wall, zone)
            if run > moment:
                return run

    def _next_shown(self, moment: datetime, shown: datetime, wall: datetime, zone: tzinfo) -> datetime:
        """Return the first instant after ``moment`` at which the clock shows a match."""
        matching = self._matching(wall + _MINUTE)
        if is_repeated(shown):
            before, after = shown.utcoffset(), shown.replace(fold=1).utcoffset()
            assert before is not None and after is not None
            run = (matching - before).replace(tzinfo=UTC)
            second = wall.replace(tzinfo=UTC, microsecond=0)  # clocks are changed at whole ones
            back = changed_at(second - before, second - after, zone)
            if run < back:
                return run
            # the clock is put back before it shows the match: the times from there come first
            wall = (back + after).replace(tzinfo=None)
            return (self._matching(_up(wall)) - after).replace(tzinfo=UTC)
        while True:
            run, is_shown = instant(matching, zone)
            if not is_shown:
                matching = self._matching(_up(run.astimezone(zone).replace(tzinfo=None, fold=0)))
            elif run > moment:
                return run
            else:
                return matching.replace(tzinfo=zone, fold=1).astimezone(UTC)

    def _matching(self, wall: datetime) -> datetime:
        """Return the first whole minute that matches from the one of ``wall`` on; naive, as clocks show it."""
        year, month, day, hour, minute = wall.year, wall.month, wall.day, wall.hour, wall.minute
        if month in self.month_of_year and self._days[date(year, month, 1).weekday()] >> day & 1:
            if hour in self.hour and (found := self._minutes[minute]) >= 0:
                return datetime(year, month, day, hour, found)
            if (found := self._hours[hour + 1]) >= 0:
                return datetime(year, month, day, found, self._first_of_day[1])
        while True:
            if month in self.month_of_year:
                weekday, length = monthrange(year, month)
                bits = self._days[weekday] >> day + 1
                if bits and (day := day + (bits & -bits).bit_length()) <= length:
                    return datetime(year, month, day, *self._first_of_day)
            day = 0
            month += 1
            if month == 13:
                month = 1
                year += 1

    def _too_late(self, now: datetime) -> bool:
        deadline_s = self.app.conf.beat_cron_starting_deadline
        if deadline_s is None:
            return False
        latest = self.previous(now)
        return latest is not None and (now - latest).total_seconds() > deadline_s

    # --- as a value ---

    def to_plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"type": "crontab"}
        for field in _LINE:
            plain[field.name] = field.text(getattr(self, "_orig_" + field.name))
        if self._own_tz is not None:
            plain["tz"] = key_of(self._own_tz)
            if plain["tz"] is None:
                raise TypeError(
                    f"{self!r}: its zone {self._own_tz!r} has no name to keep it by; give tz a name such as 'Europe/Paris'"
                )
        return plain

    def __repr__(self) -> str:
        zone = f" {key_of(self._own_tz) or self._own_tz}" if self._own_tz is not None else ""
        fields = " ".join(str(getattr(self, "_orig_" + field.name)) for field in _LINE)
        return f"<crontab: {fields} (m/h/dM/MY/d){zone}>"

    def _value(self) -> tuple[Any, ...]:
        return self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year, self._own_tz, self.nowfun

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, crontab) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def __reduce__(self) -> Any:
        """Pickle all but the application: where it is read again, the current one is its."""
        return type(self), (
            self._orig_minute, self._orig_hour, self._orig_day_of_week, self._orig_day_of_month, self._orig_month_of_year,
            self._own_tz, self.nowfun,
        )  # fmt: skip


def _kept(value: Spec) -> Any:
    """Return a field as it was given, so that it can be shown; an iterator is used up only once."""
    if value is None:
        return "*"
    return list(value) if isinstance(value, Iterator) else value


def _following(numbers: frozenset[int], count: int) -> tuple[int, ...]:
    following = [-1] * (count + 1)
    for number in range(count - 1, -1, -1):
        following[number] = number if number in numbers else following[number + 1]
    return tuple(following)


def _up(wall: datetime) -> datetime:
    """Return the first whole minute from a time on."""
    return wall if not wall.second and not wall.microsecond else wall + _MINUTE
