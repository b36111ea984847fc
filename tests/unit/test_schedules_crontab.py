"""crontab: what its fields mean, when it runs, what is refused, and how it is kept."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastq import FastQ
from fastq.schedules import ParseException, crontab, crontab_parser, from_plain, schedstate, to_plain


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "lowest", "text", "numbers"),
    [
        (60, 0, "*/15", {0, 15, 30, 45}),
        (24, 0, "*/4", {0, 4, 8, 12, 16, 20}),
        (7, 0, "*", {0, 1, 2, 3, 4, 5, 6}),
        (31, 1, "*/7", {1, 8, 15, 22, 29}),
        (12, 1, "2-12/4", {2, 6, 10}),
        (60, 0, "1,13,30-33,50-59/4", {1, 13, 30, 31, 32, 33, 50, 54, 58}),
        (60, 0, " 5 , 7 ", {5, 7}),
        (24, 0, "22-2", {22, 23, 0, 1, 2}),
        (24, 0, "20-4/3", {20, 23, 2}),
        (12, 1, "nov-feb", {11, 12, 1, 2}),
        (7, 0, "mon-fri", {1, 2, 3, 4, 5}),
        (7, 0, "Sat,Sunday,tues", {6, 0, 2}),
        (7, 0, "7", {0}),
        (7, 0, "5-7", {5, 6, 0}),
        (7, 0, "7-2", {0, 1, 2}),
        (7, 0, "0-7/2", {0, 2, 4, 6}),
        (7, 0, "fri-mon", {5, 6, 0, 1}),
        (60, 0, "*/61", {0}),
    ],
)
def test_a_field_means_these_numbers(count: int, lowest: int, text: str, numbers: set[int]) -> None:
    assert crontab_parser(count, lowest).parse(text) == numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("60 * * * *", "minute='60': 60 is out of range; allowed are numbers from 0 to 59"),
        ("* 24 * * *", "hour='24': 24 is out of range"),
        ("* * 0 * *", "day_of_month='0': 0 is out of range; allowed are numbers from 1 to 31"),
        ("* * * 13 *", "month_of_year='13': 13 is out of range"),
        ("* * * * 8", "day_of_week='8': 8 is out of range; allowed are numbers from 0 to 7, names (sun to sat)"),
        ("*/0 * * * *", "the step after / is a whole number, 1 or more, not '0'"),
        ("*/ * * * *", "the step after / is a whole number, 1 or more, not ''"),
        ("5/10 * * * *", "a step needs a range, such as 5-59/10"),
        ("-5 * * * *", "negative numbers are not allowed"),
        ("1,,2 * * * *", "there is an empty part in '1,,2'"),
        ("noon * * * *", "'noon' is no number"),
        ("* * * * mo", "'mo' is no number and no name of a day"),
        ("* * * * */2x", "the step after / is a whole number"),
        ("1*2 * * * *", "'1*2' cannot be read"),
        ("* * * *", "has 4 fields; expected five"),
        ("@reboot", "has 1 field; expected five"),
        ("0 0 31 feb *", "no month of these has a day 31; it would never run"),
        ("0 0 30-31 2 *", "no month of these has a day 30"),
        ("0 0 31 4,6,9,11 *", "no month of these has a day 31"),
    ],
)
def test_a_wrong_line_says_which_field_what_was_seen_and_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ParseException) as caught:
        crontab.from_string(text)
    assert said in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [True, 1.5, b"1", object()])
def test_a_field_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"crontab minute=.*: expected a number, text such as"):
        crontab(minute=value)


@pytest.mark.parametrize("value", [[], set(), [60], "", [1, -1]])
def test_a_field_without_a_possible_number_is_refused(value: Any) -> None:
    with pytest.raises(ParseException, match="crontab minute="):
        crontab(minute=value)


def test_fields_may_be_numbers_texts_and_collections() -> None:
    by_text = crontab("0,15,30", "4", "mon-tue", "1-3", "jan")
    assert crontab({0, 15, 30}, 4, [1, 2], range(1, 4), ("jan",)) == by_text
    assert crontab(iter([0, 15, 30]), frozenset({4}), ("mon", 2), (1, "2-3"), {1}) == by_text
    assert crontab(minute=0, hour=0) == crontab.from_string("@daily") == crontab.from_string(" 0 0 * * * ")
    assert crontab(None, None) == crontab()
    assert (by_text.minute, by_text.day_of_week) == ({0, 15, 30}, {1, 2})


def test_equal_crontabs_are_one_key_and_different_ones_are_not() -> None:
    assert {crontab(0, 4): 1}[crontab("0", "4")] == 1
    assert len({crontab(0, 4), crontab(0, 5), crontab(0, 4, tz="Europe/Paris"), crontab(0, 4, day_of_week=1)}) == 4
    assert crontab(0, 4) != crontab(0, 4, nowfun=datetime.now)
    assert crontab(0, 4) != "0 4 * * *"


def test_repr_is_the_line_with_its_zone() -> None:
    assert repr(crontab(0, "*/2", day_of_week="mon", day_of_month=3)) == "<crontab: 0 */2 3 * mon (m/h/dM/MY/d)>"
    assert repr(crontab(tz="Europe/Paris")) == "<crontab: * * * * * (m/h/dM/MY/d) Europe/Paris>"


def test_it_comes_back_from_pickle_and_from_plain_values() -> None:
    for original in (
        crontab("*/5", {1, 4}, "mon-fri", [1, 15], "jan,jul", tz="America/New_York"),
        crontab(),
        crontab.from_string("0 4 * * *", tz="UTC"),
    ):
        assert pickle.loads(pickle.dumps(original)) == original
        plain = json.loads(json.dumps(to_plain(original)))
        assert from_plain(plain) == original
        assert repr(from_plain(plain)).split(")")[1:] == repr(original).split(")")[1:]
    assert to_plain(crontab(0, {4, 2}, tz="Europe/Paris")) == {
        "type": "crontab", "minute": "0", "hour": "2,4", "day_of_month": "*", "month_of_year": "*", "day_of_week": "*",
        "tz": "Europe/Paris",
    }  # fmt: skip


def test_an_unknown_zone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"tz='Europe/Pariss': no such zone .* did you mean 'Europe/Paris'"):
        crontab(tz="Europe/Pariss")
    with pytest.raises(TypeError, match="tz=5"):
        crontab(tz=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "after", "runs"),
    [
        ("* * * * *", "2026-03-01T10:00:00", ["2026-03-01T10:01", "2026-03-01T10:02"]),
        ("* * * * *", "2026-03-01T10:00:59.999999", ["2026-03-01T10:01"]),
        ("0 4 * * *", "2026-03-01T04:00:00", ["2026-03-02T04:00"]),
        ("0 4 * * *", "2026-03-01T03:59:59.9", ["2026-03-01T04:00"]),
        ("*/20 22-2 * * *", "2026-12-31T23:30", ["2026-12-31T23:40", "2027-01-01T00:00", "2027-01-01T00:20"]),
        ("0 0 31 * *", "2026-01-31T00:00", ["2026-03-31T00:00", "2026-05-31T00:00"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        # both fields of days must match, as in Celery: not either, as in cron(5)
        ("0 9 13 * fri", "2026-01-01T00:00", ["2026-02-13T09:00", "2026-03-13T09:00", "2026-11-13T09:00"]),
        ("0 0 * * 7", "2026-11-21T00:00", ["2026-11-22T00:00", "2026-11-29T00:00"]),
        ("0 0 29 2 mon", "2096-03-01T00:00", ["2112-02-29T00:00"]),
    ],
)
def test_it_runs_at_these_times(line: str, after: str, runs: list[str]) -> None:
    times = crontab.from_string(line, tz="UTC")
    assert times.runs_between(at(after), at(runs[-1])) == [at(run) for run in runs]


def test_is_due_says_whether_and_when_to_look_again() -> None:
    app = FastQ("times", set_as_current=False)
    now = at("2026-03-01T12:10:30")
    times = crontab(minute="*/5", nowfun=lambda: now, app=app)
    assert times.is_due(at("2026-03-01T12:10:00")) == (False, 270.0)
    assert times.is_due(at("2026-03-01T12:09:59")) == (True, 270.0)
    # missed for years is due once
    assert times.is_due(at("2020-03-01T12:09:59")) == schedstate(is_due=True, next=270.0)
    assert times.remaining_estimate(at("2026-03-01T12:10:00")) == timedelta(seconds=270)
    # naive is UTC, of nowfun too
    times.nowfun = lambda: datetime(2026, 3, 1, 12, 15)
    assert times.is_due(datetime(2026, 3, 1, 12, 14)).is_due


def test_the_zone_is_its_own_else_the_applications() -> None:
    app = FastQ("times", timezone="America/New_York", set_as_current=False)
    assert crontab(0, 4, app=app).next_after(at("2026-01-10T00:00")) == at("2026-01-10T09:00")
    assert crontab(0, 4, tz="Asia/Kolkata", app=app).next_after(at("2026-01-10T00:00")) == at("2026-01-10T22:30")


def test_without_an_application_given_it_uses_the_current_one() -> None:
    app = FastQ("times", timezone="Europe/Berlin")
    try:
        assert crontab(0, 4).app is app
        assert crontab(0, 4).next_after(at("2026-01-10T00:00")) == at("2026-01-10T03:00")
    finally:
        app.close()


def test_a_missed_run_older_than_the_deadline_is_not_due() -> None:
    app = FastQ("times", beat_cron_starting_deadline=60, set_as_current=False)
    last = at("2026-03-01T04:00")
    times = crontab(0, 4, app=app)
    times.nowfun = lambda: at("2026-03-03T04:00:59")
    assert times.is_due(last) == (True, 86341.0)
    times.nowfun = lambda: at("2026-03-03T04:01:01")
    assert times.is_due(last) == (False, 86339.0)


@pytest.mark.parametrize("line", ["* * * * *", "0 4 * * *", "*/7 2 * * mon", "0 0 29 2 *", "59 23 31 12 *", "0 0 29 2 mon"])
def test_previous_is_the_run_that_next_after_comes_to(line: str) -> None:
    times = crontab.from_string(line, tz="Europe/Berlin")
    for moment in (at("2026-11-21T10:17:30"), at("2026-03-29T01:00"), at("2026-03-30T02:00")):
        before = times.previous(moment)
        assert before is not None
        assert before <= moment < times.next_after(before)
        assert times.next_after(before - timedelta(seconds=1)) == before
        assert times.previous(before) == before
        assert times.latest_between(before, moment) is None
        assert times.latest_between(before - timedelta(seconds=1), moment) == before


def test_runs_between_leaves_out_the_first_instant_and_can_be_limited() -> None:
    times = crontab(minute="*/30", tz="UTC")
    start, end = at("2026-01-01T00:00"), at("2026-01-01T02:00")
    assert len(times.runs_between(start, end)) == 4
    assert times.runs_between(start, end, limit=2) == [at("2026-01-01T00:30"), at("2026-01-01T01:00")]
