"""crontab where clocks are put forward or back, against a walk through every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastq.schedules import crontab

#: zone -> instants (UTC) near which its clock is changed
CHANGES = {
    "Europe/Berlin": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    # by half an hour
    "Australia/Lord_Howe": ["2026-10-03T15:30", "2026-04-04T15:00"],
    # a day that was skipped, and one shown twice
    "Pacific/Apia": ["2011-12-30T10:00", "2011-04-02T14:00"],
    "Pacific/Kwajalein": ["1993-08-21T12:00"],
    # at midnight, so that the day begins at 1, or the last hour of it is shown twice
    "America/Havana": ["2026-03-08T05:00", "2026-11-01T05:00"],
    "UTC": ["2026-03-29T01:00"],
}


def runs(line: str, zone: str, after: str, count: int) -> list[str]:
    times = crontab.from_string(line, tz=zone)
    moment, found = datetime.fromisoformat(after).replace(tzinfo=UTC), []
    for _ in range(count):
        moment = times.next_after(moment)
        found.append(moment.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes")[5:])
    return found


@pytest.mark.parametrize(
    ("line", "zone", "after", "expected"),
    [
        # a fixed time that is skipped: when the clock is put forward, once
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T02:00", ["03-29T03:00+02:00", "03-30T02:30+02:00"]),
        ("*/15 2 * * *", "Europe/Berlin", "2026-03-28T02:00", ["03-29T03:00+02:00", "03-30T02:00+02:00"]),
        # together with a time that is there at that instant: one run
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29T03:00+02:00", "03-30T02:00+02:00"]),
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08T03:00-04:00", "03-09T02:30-04:00"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T18:00", ["10-04T02:30+11:00", "10-05T02:15+11:00"]),
        ("0 9 * * *", "Pacific/Apia", "2011-12-29T20:00", ["12-31T00:00+14:00", "12-31T09:00+14:00"]),
        ("0 0 * * *", "America/Havana", "2026-03-07T12:00", ["03-08T01:00-04:00", "03-09T00:00-04:00"]),
        # a fixed time that is shown twice: at the first
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25T02:30+02:00", "10-26T02:30+01:00"]),
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01T01:30-04:00", "11-02T01:30-05:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["04-05T01:45+11:00", "04-06T01:45+10:30"]),
        # every hour: whenever the clock shows it
        ("30 * * * *", "Europe/Berlin", "2026-03-29T00:00", ["03-29T01:30+01:00", "03-29T03:30+02:00", "03-29T04:30+02:00"]),
        ("30 * * * *", "Europe/Berlin", "2026-10-25T00:00", ["10-25T02:30+02:00", "10-25T02:30+01:00", "10-25T03:30+01:00"]),
        ("*/30 * * * *", "Australia/Lord_Howe", "2026-04-04T14:45",
         ["04-05T01:30+10:30", "04-05T02:00+10:30", "04-05T02:30+10:30"]),
        ("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00", ["04-05T01:45+11:00", "04-05T01:45+10:30"]),
    ],
)  # fmt: skip
def test_a_changed_clock_loses_no_run_and_doubles_none(line: str, zone: str, after: str, expected: list[str]) -> None:
    assert runs(line, zone, after, len(expected)) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_every_quarter_of_an_hour_stays_that(zone: str) -> None:
    times = crontab(minute="*/15", tz=zone)
    for change in CHANGES[zone]:
        middle = datetime.fromisoformat(change).replace(tzinfo=UTC)
        found = times.runs_between(middle - timedelta(hours=4), middle + timedelta(hours=4))
        assert [later - earlier for earlier, later in pairwise(found)] == [timedelta(minutes=15)] * 31


def walked(times: crontab, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Return the runs with start < run <= end by looking at the clock each minute, from a day and a half before."""
    expected: set[datetime] = set()
    shown_until: datetime | None = None
    every_hour = len(times.hour) == 24
    instant = start - timedelta(hours=36)

    def matches(wall: datetime) -> bool:
        return (
            wall.minute in times.minute
            and wall.hour in times.hour
            and wall.day in times.day_of_month
            and wall.month in times.month_of_year
            and wall.isoweekday() % 7 in times.day_of_week
        )

    while instant <= end:
        wall = instant.astimezone(zone).replace(tzinfo=None, fold=0)
        if every_hour:
            if matches(wall):
                expected.add(instant)
        elif shown_until is None or wall > shown_until:
            # what the clock shows for the first time; more than one minute on: it was put forward over the rest
            skipped = wall if shown_until is None else shown_until + timedelta(minutes=1)
            while skipped <= wall:
                if matches(skipped):
                    expected.add(instant)
                skipped += timedelta(minutes=1)
        if shown_until is None or wall > shown_until:
            shown_until = wall
        instant += timedelta(minutes=1)
    return sorted(run for run in expected if run > start)


def field(lowest: int, highest: int) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.integers(lowest, highest), min_size=1, max_size=4)


EVERY = st.just("*")


@settings(max_examples=120, deadline=None)
@given(
    change=st.sampled_from([(zone, change) for zone, changes in CHANGES.items() for change in changes]),
    minute=EVERY | field(0, 59),
    hour=EVERY | field(0, 23) | field(0, 3),
    day_of_week=EVERY | EVERY | field(0, 6),
    day_of_month=EVERY | EVERY | field(1, 31),
    before_s=st.integers(0, 26 * 3600) | st.floats(0, 8000),
)
@example(change=("Europe/Berlin", "2026-10-25T01:00"), minute="*", hour="*", day_of_week="*", day_of_month="*", before_s=1)
@example(
    change=("Australia/Lord_Howe", "2026-04-04T15:00"), minute={1, 2, 30}, hour="*", day_of_week="*", day_of_month="*", before_s=0.1
)
@example(change=("Pacific/Apia", "2011-12-30T10:00"), minute="*", hour={0, 3}, day_of_week={5}, day_of_month="*", before_s=7200)
def test_next_after_finds_what_a_walk_through_every_minute_finds(change, minute, hour, day_of_week, day_of_month, before_s) -> None:  # type: ignore[no-untyped-def]
    name, moment = change
    zone = ZoneInfo(name)
    times = crontab(minute, hour, day_of_week, day_of_month, tz=name)
    start = datetime.fromisoformat(moment).replace(tzinfo=UTC) - timedelta(seconds=before_s)
    floor = start.replace(second=0, microsecond=0)
    end = floor + timedelta(hours=30)
    expected = [run for run in walked(times, zone, floor - timedelta(minutes=1), end) if run > start]
    found = times.runs_between(start, end)
    assert found == expected
    assert all(earlier < later for earlier, later in pairwise(found))
    # from whichever instant it is asked
    for index, run in enumerate(found[:20]):
        assert times.next_after(run - timedelta(microseconds=1)) == run
        if index:
            assert times.next_after(found[index - 1]) == run
