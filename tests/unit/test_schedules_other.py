"""Intervals, the sun, schedules of one's own, and schedules as plain values."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import FastQ
from fastq.exceptions import ImproperlyConfigured
from fastq.schedules import BaseSchedule, crontab, from_plain, maybe_schedule, schedstate, schedule, solar, to_plain


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NOW = at("2026-03-01T12:00")


# --- intervals ---


def test_an_interval_counts_from_the_last_run_in_elapsed_time() -> None:
    every = schedule(90, nowfun=lambda: NOW)
    assert every.next_after(NOW) == NOW + timedelta(seconds=90)
    assert every.is_due(NOW - timedelta(seconds=30)) == (False, 60)
    assert every.is_due(NOW - timedelta(seconds=90)) == schedstate(is_due=True, next=90)
    assert every.is_due(NOW - timedelta(days=9)) == (True, 90)
    assert every.remaining_estimate(NOW) == timedelta(seconds=90)
    assert every.is_due((NOW - timedelta(seconds=90)).replace(tzinfo=None)).is_due


@given(st.integers(1, 10**6), st.integers(0, 10**9))
def test_the_latest_of_many_missed_intervals_is_on_their_grid(every_ms: int, past_ms: int) -> None:
    every = schedule(timedelta(milliseconds=every_ms))
    until = NOW + timedelta(milliseconds=past_ms)
    latest = every.latest_between(NOW, until)
    if latest is None:
        assert past_ms < every_ms
    else:
        assert latest <= until < every.next_after(latest)
        assert (latest - NOW) % every.run_every == timedelta(0)


@pytest.mark.parametrize(
    ("every", "zone", "last", "following"),
    [
        (timedelta(hours=1), "UTC", "2026-03-01T12:17:20", "2026-03-01T13:00"),
        (timedelta(hours=1), "UTC", "2026-03-01T13:00:00", "2026-03-01T14:00"),
        (timedelta(minutes=5), "UTC", "2026-03-01T12:17:20.5", "2026-03-01T12:22"),
        (timedelta(seconds=30), "UTC", "2026-03-01T12:17:20.5", "2026-03-01T12:17:50"),
        (timedelta(days=1), "Europe/Berlin", "2026-03-01T12:17:20", "2026-03-01T23:00"),
        (timedelta(days=1), "Europe/Berlin", "2026-03-27T23:00", "2026-03-28T23:00"),
        # the days on which clocks are changed have 23 and 25 hours
        (timedelta(days=1), "Europe/Berlin", "2026-03-28T23:00", "2026-03-29T22:00"),
        (timedelta(days=1), "Europe/Berlin", "2026-10-24T22:00", "2026-10-25T23:00"),
        (timedelta(hours=1), "Asia/Kolkata", "2026-03-01T12:17:20", "2026-03-01T12:30"),
    ],
)
def test_a_relative_interval_is_put_down_to_the_clock(every: timedelta, zone: str, last: str, following: str) -> None:
    app = FastQ("times", timezone=zone, set_as_current=False)
    assert schedule(every, relative=True, app=app).next_after(at(last)) == at(following)


@given(st.sampled_from([1, 7, 59, 60, 90, 3599, 3600, 5400, 86399, 86400, 200_000]), st.integers(0, 400 * 86400_000))
def test_a_relative_interval_always_goes_on(every_s: int, after_ms: int) -> None:
    app = FastQ("times", timezone="Australia/Lord_Howe", set_as_current=False)
    moment = NOW + timedelta(milliseconds=after_ms)
    assert moment < schedule(every_s, relative=True, app=app).next_after(moment) <= moment + timedelta(seconds=every_s, hours=1)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (30, "30.00 seconds"), (1, "1.00 second"), (60, "1.00 minute"), (5400, "1.50 hours"), (172800, "2.00 days"),
        (0.5, "0.50 seconds"),
    ],
)  # fmt: skip
def test_an_interval_shows_how_often(seconds: float, said: str) -> None:
    assert repr(schedule(seconds)) == f"<freq: {said}>"
    assert schedule(seconds).seconds == seconds


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), timedelta(0)])
def test_an_interval_is_more_than_nothing(value: Any) -> None:
    with pytest.raises(ValueError, match="expected more than 0 seconds"):
        schedule(value)


@pytest.mark.parametrize("value", [None, "10", True])
def test_an_interval_is_a_number_or_a_timedelta(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a number of seconds or a timedelta"):
        schedule(value)


def test_intervals_are_equal_by_their_length() -> None:
    assert schedule(60) == schedule(timedelta(minutes=1)) == timedelta(minutes=1)
    assert schedule(60) != schedule(60, relative=True)
    assert len({schedule(60), schedule(60.0)}) == 1
    copy = pickle.loads(pickle.dumps(schedule(60, relative=True)))
    assert copy == schedule(60, relative=True)


def test_maybe_schedule_makes_an_interval_of_a_number_and_tells_others_whose_they_are() -> None:
    app = FastQ("times", set_as_current=False)
    assert maybe_schedule(30) == schedule(30)
    assert maybe_schedule(timedelta(hours=1), relative=True, app=app) == schedule(3600, relative=True)
    times = crontab()
    assert maybe_schedule(times, app=app) is times
    assert times.app is app
    assert maybe_schedule(None) is None


# --- the sun ---

EVENTS = (
    "dawn_astronomical", "dawn_nautical", "dawn_civil", "sunrise", "solar_noon", "sunset", "dusk_civil", "dusk_nautical",
    "dusk_astronomical",
)  # fmt: skip


def test_the_events_of_a_day_come_in_their_order() -> None:
    midnight = at("2026-03-20T00:00")
    found = [solar(event, 48.85, 2.35).next_after(midnight) for event in EVENTS]
    assert found == sorted(found)
    # near the equinox the day has twelve hours, and a little for the width of the sun and what the air lifts it
    assert timedelta(hours=12, minutes=5) < found[5] - found[3] < timedelta(hours=12, minutes=15)


@pytest.mark.parametrize(
    ("event", "degrees"),
    [
        ("dawn_astronomical", -18), ("dawn_nautical", -12), ("dawn_civil", -6), ("sunrise", -0.833), ("sunset", -0.833),
        ("dusk_civil", -6), ("dusk_nautical", -12), ("dusk_astronomical", -18),
    ],
)  # fmt: skip
def test_the_sun_stands_where_the_event_says(event: str, degrees: float) -> None:
    import ephem

    place = ephem.Observer()
    place.lat, place.lon, place.pressure = "48.85", "2.35", 0
    place.date = solar(event, 48.85, 2.35).next_after(at("2026-06-10T00:00")).replace(tzinfo=None)
    before = ephem.Date(place.date - ephem.minute)
    height = float(ephem.Sun(place).alt)
    assert height * 57.29578 == pytest.approx(degrees, abs=0.02)
    place.date = before
    assert (float(ephem.Sun(place).alt) < height) == (event.startswith("dawn") or event == "sunrise")


@pytest.mark.parametrize("event", EVENTS)
def test_each_event_comes_once_a_day_whenever_it_is_asked_for(event: str) -> None:
    times = solar(event, 40.0, -74.0)
    found = times.runs_between(at("2026-03-01T12:00"), at("2026-04-30T12:00"))
    assert len(found) in (60, 61)
    for run, following in pairwise(found):
        assert timedelta(hours=23, minutes=55) < following - run < timedelta(hours=24, minutes=5)
        for after in (run, run + timedelta(seconds=1), run + timedelta(hours=7), following - timedelta(seconds=1)):
            assert times.next_after(after) == following
    assert times.previous(found[-1]) == found[-1]


def test_a_polar_night_is_waited_out() -> None:
    # Longyearbyen: the sun is gone from the end of October to the middle of February, and does not set in summer
    sunrise = solar("sunrise", 78.22, 15.65)
    assert sunrise.next_after(at("2026-11-10T00:00")).strftime("%Y-%m") == "2027-02"
    sunset = solar("sunset", 78.22, 15.65)
    assert sunset.next_after(at("2026-05-10T00:00")).strftime("%Y-%m") == "2026-08"
    assert solar("solar_noon", 78.22, 15.65).next_after(at("2026-12-21T00:00")).day == 21


@pytest.mark.parametrize(
    ("event", "lat", "lon", "said"),
    [
        ("noon", 0, 0, "solar event 'noon' is unknown; expected one of dawn_astronomical"),
        ("sunset", 91, 0, "latitude 91: expected degrees from -90 to 90"),
        ("sunset", 0, -181, "longitude -181: expected degrees from -180 to 180"),
    ],
)
def test_a_place_or_event_that_is_none_is_refused(event: str, lat: float, lon: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        solar(event, lat, lon)


def test_a_solar_schedule_is_a_value() -> None:
    assert solar("sunset", 1, 2) == solar("sunset", 1.0, 2.0) != solar("sunrise", 1, 2)
    assert repr(solar("sunset", 1, 2)) == "<solar: sunset at latitude 1, longitude: 2>"
    assert pickle.loads(pickle.dumps(solar("sunset", 1, 2))) == solar("sunset", 1, 2)
    due = solar("sunset", 48.85, 2.35, nowfun=lambda: NOW)
    assert not due.is_due(NOW - timedelta(hours=1)).is_due
    assert due.is_due(NOW - timedelta(days=1)).is_due


def test_without_ephem_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'fastq\[solar\]'"):
        solar("sunset", 0, 0)


def test_a_configuration_module_loads_no_library_for_its_schedules() -> None:
    code = (
        "import sys, fastq.schedules as s; s.crontab(); sys.exit(bool({'ephem', 'zoneinfo', 'redis', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


# --- one's own ---


class Twice(BaseSchedule):
    """Due at each half past."""

    def next_after(self, moment: datetime) -> datetime:
        half = moment.replace(minute=30, second=0, microsecond=0)
        return half if half > moment else half + timedelta(hours=1)


class Due(BaseSchedule):
    def is_due(self, last_run_at: datetime) -> schedstate:
        return schedstate(True, 5.0)


def test_a_schedule_of_ones_own_says_when_it_runs_or_whether_it_is_due() -> None:
    own = Twice(nowfun=lambda: NOW)
    assert own.is_due(NOW - timedelta(hours=1)) == (True, 1800)
    assert own.is_due(NOW - timedelta(minutes=10)) == (False, 1800)
    assert own.latest_between(NOW - timedelta(days=1), NOW) == NOW - timedelta(minutes=30)
    assert own == Twice(nowfun=own.nowfun) != Twice()
    assert Due().is_due(NOW) == (True, 5.0)
    with pytest.raises(NotImplementedError, match="Due does not say when it runs next"):
        Due().next_after(NOW)


def test_a_class_of_ones_own_can_have_a_zone_of_its_own() -> None:
    class Zoned(crontab):
        def __init__(self, *args: Any, tz: Any = None, **kwargs: Any) -> None:
            self.tz = tz
            super().__init__(*args, tz=tz, **kwargs)

    zoned = Zoned(0, 4, tz="Asia/Kolkata")
    assert zoned.next_after(NOW) == at("2026-03-01T22:30")
    zoned.tz = "UTC"
    assert zoned.next_after(NOW) == at("2026-03-02T04:00")
    assert zoned.maybe_make_aware(datetime(2026, 3, 1, 12)) == NOW


# --- plain values ---


@pytest.mark.parametrize(
    "original",
    [schedule(0.25), schedule(3600, relative=True), solar("sunset", -33.9, 151.2), crontab(0, 4), crontab(tz="Asia/Kolkata")],
)
def test_plain_values_go_through_json_and_come_back(original: Any) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(original)))) == original


def test_numbers_and_timedeltas_have_a_plain_form() -> None:
    assert to_plain(30) == to_plain(timedelta(seconds=30)) == {"type": "interval", "every_s": 30.0}


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({}, "is no schedule: expected a mapping whose 'type' is one of crontab, interval, solar"),
        ({"type": "cron"}, "is no schedule"),
        ([], "is no schedule"),
        ({"type": "interval"}, "lacks every_s"),
        ({"type": "interval", "every_s": -1}, "expected more than 0 seconds"),
        ({"type": "solar", "event": "sunset", "lat": 1}, "lacks lon"),
        ({"type": "crontab", "minutes": "1"}, "has unknown keys minutes; known are"),
        ({"type": "crontab", "minute": "61"}, "crontab minute='61'"),
    ],
)
def test_plain_values_that_are_no_schedule_are_refused(plain: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_plain(plain)


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="class Twice cannot be kept in the broker: only crontab, schedule and solar can"):
        to_plain(Twice())
    with pytest.raises(TypeError, match=r"its zone .* has no name"):
        to_plain(crontab(tz=datetime.now().astimezone().tzinfo))
    with pytest.raises((TypeError, AttributeError)):
        to_plain("daily")
