"""Which ticks of an entry are sent: in time, late, and after nobody sent any for long."""

from __future__ import annotations

from datetime import UTC, datetime

from fastq.beat.definition import Missed
from fastq.beat.instants import CATCH_UP, Step, first_due_ms, next_due_ms, steps
from fastq.schedules import BaseSchedule, crontab, schedule

HOUR_MS = 3_600_000


def at(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type,misc]


def done(times: BaseSchedule, due_ms: int, now_ms: int, missed: Missed = "once", deadline_ms: int | None = None) -> list[Step]:
    return list(steps(times, due_ms, now_ms, missed=missed, grace_ms=10_000, deadline_ms=deadline_ms))


def test_a_tick_in_time_is_sent_whatever_the_policy() -> None:
    for missed in ("once", "skip", "all"):
        assert done(schedule(10), 1000, 1005, missed) == [Step(1000, 11_000, True)]


def test_an_interval_keeps_its_beat_however_late_its_ticks_are() -> None:
    assert done(schedule(10), 1000, 9_999) == [Step(1000, 11_000, True)]
    assert done(schedule(10), 1000, 35_000) == [Step(1000, 41_000, True)]
    assert next_due_ms(schedule(0.0015), 1000) == 1002


def test_missed_ticks_are_sent_once() -> None:
    nightly = crontab(hour=4, minute=0)
    assert done(nightly, at(2026, 1, 1, 4), at(2026, 1, 5, 9)) == [Step(at(2026, 1, 1, 4), at(2026, 1, 6, 4), True)]


def test_missed_ticks_are_skipped_but_not_those_of_a_failover() -> None:
    assert done(schedule(1), 1000, 8_500, "skip") == [Step(1000, 9000, True)]
    nightly = crontab(hour=4, minute=0)
    late, soon = at(2026, 1, 1, 4, 0, 11), at(2026, 1, 1, 4, 0, 9)
    assert [step.run for step in done(nightly, at(2026, 1, 1, 4), late, "skip")] == [False]
    assert [step.run for step in done(nightly, at(2026, 1, 1, 4), soon, "skip")] == [True]


def test_all_missed_ticks_are_sent_a_bounded_number_at_once() -> None:
    assert done(schedule(1), 1000, 3500, "all") == [Step(1000, 2000, True), Step(2000, 3000, True), Step(3000, 4000, True)]
    assert len(done(schedule(1), 1000, HOUR_MS, "all")) == CATCH_UP


def test_the_starting_deadline_limits_how_late_a_crontab_is_sent() -> None:
    hourly = crontab(minute=0)
    due, now = at(2026, 1, 1, 1), at(2026, 1, 1, 3, 30)
    assert [step.run for step in done(hourly, due, now, "once", 20 * 60_000)] == [False]
    assert [step.run for step in done(hourly, due, now, "once", 40 * 60_000)] == [True]
    assert [step.run for step in done(hourly, due, now, "all", 40 * 60_000)] == [False, False, True]
    assert [step.run for step in done(schedule(3600), due, now, "once", 60_000)] == [True]


def test_a_new_entry_begins_with_its_first_run_from_now_on() -> None:
    now = at(2026, 1, 1, 3, 30)
    assert first_due_ms(crontab(hour=4, minute=0), now) == at(2026, 1, 1, 4)
    assert first_due_ms(schedule(60), now) == now + 60_000


def test_a_changed_schedule_counts_from_the_last_run_and_makes_up_for_nothing() -> None:
    now = at(2026, 1, 1, 12)
    assert first_due_ms(schedule(3600), now, now - 600_000) == now + 3_000_000
    assert first_due_ms(schedule(60), now, now - 600_000) == now + 60_000
    assert first_due_ms(schedule(60), now, now - 625_000) == now + 35_000, "it stays on its beat"
    assert first_due_ms(schedule(60, relative=True), now, now - 625_000) == next_due_ms(schedule(60, relative=True), now)
    assert first_due_ms(crontab(hour=4, minute=0), now, at(2026, 1, 1, 3)) == at(2026, 1, 2, 4)
