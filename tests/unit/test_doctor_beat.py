"""What fastq doctor finds in the timetables of periodic tasks: entries that nobody sends, and never one that is well."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, doctor
from fastq.records import Publication
from fastq.transports import Scope, open_timetable
from fastq.transports.judging import TimetableSeen, judge_timetable
from fastq.transports.timetable import Edit, Planned, Tick, Timetable
from tests.unit.redis_parts import message

HOUR_MS = 3_600_000


@pytest.fixture(params=["redis", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # where a beat would have its file
    monkeypatch.setattr("fastq.transports.judging.LOOK_AGAIN_S", 0.0)
    return request.getfixturevalue("redis_url") if request.param == "redis" else f"sqlite:///{tmp_path}/beat.db"


class Site:
    """An application, its timetable, and what the doctor says of that."""

    def __init__(self, url: str, stack: contextlib.ExitStack) -> None:
        self.url = url
        self._stack = stack
        self.timetable = self.open("site")

    def open(self, scope: str) -> Timetable:
        timetable = open_timetable(self.url, FastQ("any", set_as_current=False).transport_options(), scope)
        self._stack.callback(timetable.close)
        return timetable

    def enter(self, name: str, due_in_s: float, *, paused: bool = False, timetable: Timetable | None = None) -> None:
        to = timetable or self.timetable
        due_ms = round(to.now_ms() + due_in_s * 1000)
        assert to.edit([Edit(name, b"what it says", due_ms, paused)])[0]

    def fire(self, name: str, next_in_s: float) -> None:
        (plan,) = self.timetable.get([name])
        assert plan is not None
        next_ms = round(self.timetable.now_ms() + next_in_s * 1000)
        assert self.timetable.fire("b", [Tick(name, plan.edit, plan.due_ms, next_ms, [Publication("q", message(name))])]) == [True]

    def found(self, **settings: Any) -> list[tuple[str, str]]:
        """Return code and subject of what is said of periodic tasks."""
        self.findings = doctor.examine(FastQ("site", broker=self.url, set_as_current=False, **settings))
        return [(one.code, one.subject) for one in self.findings if one.code in ("no-beat", "overdue-entry")]

    @property
    def said(self) -> doctor.Finding:
        return next(one for one in self.findings if one.code in ("no-beat", "overdue-entry"))


@pytest.fixture
def site(url: str) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(url, stack)


def test_overdue_entries_that_no_beat_sends_are_one_finding(site: Site) -> None:
    for name, due_in_s in (("a", -600), ("b", -7200), ("later", 60)):
        site.enter(name, due_in_s)
    assert site.found() == [("no-beat", "site")]
    assert site.said.level == "warning" and "start fastq beat" in site.said.advice
    assert "2 of 3 periodic tasks are overdue, 'b' by 2 h; none was ever sent" in site.said.text
    # the command has no application, as a rule, where it is only given a broker
    (other,) = [one for one in doctor.Examination(FastQ("x", broker=site.url, set_as_current=False), declared=False).run()
                if one.code == "no-beat"]  # fmt: skip
    assert other.subject == "site"
    site.timetable.edit([Edit("a", remove=True), Edit("b", remove=True)])
    assert site.found() == []


def test_nothing_is_said_of_entries_that_are_paused_not_due_finished_or_late_by_a_failover(site: Site) -> None:
    site.enter("paused", -7200, paused=True)
    site.enter("tomorrow", 86_400)
    site.timetable.edit([Edit("never again", b"x", 0)])
    site.enter("a failover", -20)
    assert site.found() == []
    site.enter("a slow failover", -200)
    assert site.found(beat_lease=60) == []
    assert site.found(beat_lease=5) == [("no-beat", "site")]


def test_an_entry_that_is_not_sent_though_a_beat_is_at_work_is_named(site: Site) -> None:
    site.enter("broken", -7200)
    for name in ("x", "y"):
        site.enter(name, 0)
    assert site.timetable.lead("beat@one", 60_000).leads
    assert site.found() == [("overdue-entry", "broken")]
    assert "beat@one leads" in site.said.text and "2 h overdue" in site.said.text
    assert "fastq schedule show broken" in site.said.advice
    # it dies: until another leads nothing else is late, and what was sent since tells that one was at work
    site.fire("x", -20)
    site.timetable.resign("beat@one")
    assert site.found() == [("overdue-entry", "broken")]
    assert "others are sent" in site.said.text
    site.enter("y", -7000)
    assert [code for code, _ in site.found()] == ["overdue-entry"] * 2


def test_a_beat_that_has_just_taken_over_and_makes_up_for_what_was_missed_is_given_a_moment() -> None:
    now_ms = 10 * HOUR_MS
    dues = iter([(HOUR_MS, HOUR_MS, HOUR_MS), (2 * HOUR_MS, HOUR_MS, now_ms), (3 * HOUR_MS, now_ms, now_ms)])
    slept: list[float] = []

    def look() -> TimetableSeen:
        return TimetableSeen([Planned(f"e{i}", b"", due) for i, due in enumerate(next(dues))], "beat@new", now_ms)

    assert list(judge_timetable("site", Scope(timetable="site"), look, slept.append)) == []
    assert len(slept) == 2


def test_nothing_is_said_where_a_file_keeps_the_schedule(site: Site, tmp_path: Path) -> None:
    site.enter("left by an earlier beat", -7200)
    assert site.found(beat_scheduler="persistent") == []
    assert site.found(beat_scheduler="fastq.beat.PersistentScheduler") == []
    (tmp_path / "fastq-beat-schedule").touch()
    assert site.found() == [], "fastq beat -S persistent runs in this directory"
    long_ago = time.time() - 86_400
    os.utime(tmp_path / "fastq-beat-schedule", (long_ago, long_ago))
    assert site.found() == [("no-beat", "site")]


def test_other_applications_on_the_same_broker_are_given_more_time(site: Site) -> None:
    other = site.open("other")
    site.enter("theirs", -300, timetable=other)
    assert site.found() == []
    site.enter("theirs", -1200, timetable=other)
    assert site.found() == [("no-beat", "other")]
    assert site.found(beat_scheduler="persistent") == [("no-beat", "other")]


def test_many_stuck_entries_are_counted(site: Site) -> None:
    for i in range(13):
        site.enter(f"e{i:02}", -7200 + i)
    site.timetable.lead("beat@one", 60_000)
    found = site.found()
    assert [subject for _, subject in found] == [f"e{i:02}" for i in range(10)] + ["site"]
    assert "3 more" in [one for one in site.findings if one.code == "overdue-entry"][-1].text
