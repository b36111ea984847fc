"""The scheduler that keeps its entries in the process: what it sends, when, and what its entries are."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastq import FastQ, Task, chain, group
from fastq.beat import ScheduleEntry, Scheduler
from fastq.beat.definition import of_application
from fastq.beat.entry import BeatLazyFunc
from fastq.exceptions import ImproperlyConfigured
from fastq.schedules import BaseSchedule, crontab, schedstate, schedule

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Recorder(Scheduler):
    """Keeps what it would send."""

    def setup_schedule(self) -> None:
        self.sent: list[tuple[str, list[Any], dict[str, Any], dict[str, Any]]] = []
        super().setup_schedule()

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:  # type: ignore[override]
        if name == "broken":
            raise RuntimeError("the wire is cut")
        self.sent.append((name, args, kwargs, options))

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.sent]


@pytest.fixture
def app() -> Iterator[FastQ]:
    with FastQ("beats", broker="memory://", backend="memory://") as app:
        yield app


@pytest.fixture
def clock() -> Clock:
    return Clock()


def due(scheduler: Scheduler) -> float:
    """Tick until nothing is due any more; return for how long it would sleep."""
    for _ in range(1000):
        if slept := scheduler.tick():
            return slept
    raise AssertionError("it never sleeps")


def every(seconds: float, clock: Clock) -> schedule:
    return schedule(seconds, nowfun=clock)


# --- entries ---


def test_an_entry_counts_its_runs_and_keeps_what_it_sends(app: FastQ, clock: Clock) -> None:
    entry = ScheduleEntry(
        name="a", task="t", schedule=every(10, clock), args=(1,), kwargs={"x": 2}, options={"queue": "q"}, app=app
    )
    assert (entry.last_run_at, entry.total_run_count) == (START, 0)
    assert entry.is_due() == (False, 10)
    clock.pass_s(10)
    assert entry.is_due().is_due
    following = next(entry)
    assert (following.total_run_count, following.last_run_at) == (1, clock.now)
    assert entry.next(clock.now + timedelta(seconds=5)).last_run_at == clock.now + timedelta(seconds=5)
    assert following == entry
    assert (following.args, following.kwargs, following.options) == ((1,), {"x": 2}, {"queue": "q"})
    following.update(ScheduleEntry(name="b", task="u", schedule=crontab(), app=app))
    assert (following.name, following.task, following.total_run_count, following.schedule) == ("a", "u", 1, crontab())
    assert repr(entry) == "<ScheduleEntry: a t(1, x=2) <freq: 10.00 seconds>>"
    assert dict(entry)["name"] == "a"
    copy = pickle.loads(pickle.dumps(ScheduleEntry("a", "t", START, 3, 10.0)))
    assert (copy.name, copy.total_run_count, copy.schedule) == ("a", 3, schedule(10))


def test_an_interval_that_is_sent_late_does_not_drift(app: FastQ, clock: Clock) -> None:
    scheduler = Recorder(app)
    scheduler.add(name="each", task="t", schedule=every(10, clock))
    moments = []
    for _ in range(5):
        clock.pass_s(due(scheduler) + 0.7)  # it always wakes late
        before = len(scheduler.sent)
        due(scheduler)
        if len(scheduler.sent) > before:
            moments.append(scheduler.schedule["each"].last_run_at)
    assert moments == [START + timedelta(seconds=10 * n) for n in range(1, len(moments) + 1)]
    assert len(moments) >= 4


# --- ticks ---


def test_a_tick_sends_one_entry_and_says_how_long_to_sleep(app: FastQ, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Recorder(app)
    assert scheduler.tick() == 300
    scheduler.add(name="ten", task="t10", schedule=every(10, clock), args=(1,), options={"expires": 5, "headers": {"mine": 1}})
    scheduler.add(name="four", task="t4", schedule=every(4, clock), kwargs={"x": 1})
    assert scheduler.tick() == pytest.approx(3.99)
    clock.pass_s(4)
    with caplog.at_level(logging.INFO, "fastq.beat"):
        assert scheduler.tick() == 0
    assert caplog.messages == ["Scheduler: Sending due task four (t4)"]
    assert scheduler.tick() == pytest.approx(3.99)
    clock.pass_s(6)
    due(scheduler)
    assert scheduler.names == ["t4", "t4", "t10"]
    name, args, kwargs, options = scheduler.sent[-1]
    assert (name, args, kwargs) == ("t10", [1], {})
    assert options == {"expires": 5, "headers": {"mine": 1, "celery_beat_task": True, "periodic_task_name": "ten"}}
    assert scheduler.schedule["ten"].total_run_count == 1


def test_runs_missed_while_it_slept_are_sent_once(app: FastQ, clock: Clock) -> None:
    scheduler = Recorder(app)
    scheduler.add(name="each", task="t", schedule=every(10, clock))
    scheduler.add(name="cron", task="c", schedule=crontab(nowfun=clock))
    due(scheduler)
    clock.pass_s(3607)
    assert due(scheduler) == pytest.approx(2.99)
    assert sorted(scheduler.names) == ["c", "t"]


def test_it_sleeps_no_longer_than_it_is_told(app: FastQ, clock: Clock) -> None:
    scheduler = Recorder(app, max_interval=7)
    scheduler.add(name="a", task="t", schedule=every(1000, clock))
    assert scheduler.tick() == 7
    app.conf.beat_max_loop_interval = 5
    assert Recorder(app).max_interval == 5


def test_an_error_of_one_entry_stops_no_other(app: FastQ, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(BaseSchedule):
        def is_due(self, last_run_at: datetime) -> schedstate:
            raise ValueError("no idea")

    scheduler = Recorder(app)
    scheduler.add(name="bad", task="broken", schedule=every(10, clock))
    scheduler.add(name="lost", task="t", schedule=Broken(nowfun=clock))
    scheduler.add(name="good", task="t", schedule=every(10, clock))
    due(scheduler)
    clock.pass_s(10)
    due(scheduler)
    assert scheduler.names == ["t"]
    assert "Message Error: Couldn't apply scheduled task bad: the wire is cut" in caplog.messages
    assert any("the schedule of lost fails" in message for message in caplog.messages)
    # it was counted, so that it is not tried for ever
    assert scheduler.schedule["bad"].total_run_count == 1


def test_entries_that_are_changed_while_it_runs_are_seen_at_the_next_tick(app: FastQ, clock: Clock) -> None:
    scheduler = Recorder(app)
    scheduler.add(name="slow", task="t", schedule=every(100, clock))
    assert scheduler.tick() == pytest.approx(99.99)
    scheduler.add(name="quick", task="q", schedule=every(2, clock))
    assert scheduler.tick() == pytest.approx(1.99)
    del scheduler.schedule["quick"]
    assert scheduler.tick() == pytest.approx(99.99)
    scheduler.schedule = {"own": ScheduleEntry(name="own", task="o", schedule=every(3, clock), app=app)}
    assert scheduler.tick() == pytest.approx(2.99)


def test_a_schedule_of_ones_own_is_asked_whether_it_is_due(app: FastQ, clock: Clock) -> None:
    class Always(BaseSchedule):
        def is_due(self, last_run_at: datetime) -> schedstate:
            return schedstate(True, 1.0)

    scheduler = Recorder(app)
    scheduler.add(name="own", task="t", schedule=Always(nowfun=clock))
    assert scheduler.tick() == 0
    assert scheduler.tick() == 0
    assert scheduler.names == ["t", "t"]


def test_ten_thousand_entries_are_not_compared_at_each_tick(app: FastQ, clock: Clock) -> None:
    asked = [0]

    class Counting(Recorder):
        def is_due(self, entry: ScheduleEntry) -> Any:
            asked[0] += 1
            return super().is_due(entry)

    scheduler = Counting(app)
    for number in range(10_000):
        scheduler.add(name=f"e{number}", task="t", schedule=every(1000 + number, clock))
    scheduler.tick()
    asked[0] = 0
    clock.pass_s(1000)
    due(scheduler)
    due(scheduler)
    assert asked[0] < 10
    assert scheduler.names == ["t"]


def test_arguments_can_be_made_when_they_are_sent(app: FastQ, clock: Clock) -> None:
    scheduler = Recorder(app)
    entry = scheduler.add(name="a", task="t", schedule=every(1, clock), args=[BeatLazyFunc(lambda x: x + 1, 4)],
                          kwargs={"y": BeatLazyFunc(dict)})  # fmt: skip
    scheduler.apply_async(entry)
    assert scheduler.sent[0][1:3] == ([5], {"y": {}})
    assert scheduler.schedule["a"].total_run_count == 1


def test_a_known_task_is_sent_by_its_own_apply_async(app: FastQ, clock: Clock) -> None:
    seen: list[Any] = []

    class Own(Task[..., Any]):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            seen.append((args, options["priority"]))
            return super().apply_async(args, kwargs, **options)

    @app.task(base=Own, name="known")
    def known(x: int) -> int:
        return x

    scheduler = Scheduler(app)
    entry = scheduler.add(name="a", task="known", schedule=every(1, clock), args=(1,), options={"priority": 9})
    assert scheduler.apply_async(entry).id
    assert seen == [([1], 9)]


# --- where entries come from ---


def test_beat_schedule_is_taken_in_with_every_form_of_schedule(app: FastQ) -> None:
    app.conf.CELERYBEAT_SCHEDULE = {
        "number": {"task": "a", "schedule": 30},
        "delta": {"task": "b", "schedule": timedelta(minutes=1), "relative": True},
        "cron": {"task": "c", "schedule": crontab(hour=4), "args": (1,), "kwargs": {"k": 1}, "options": {"queue": "q"}},
    }
    app.conf.beat_schedule["late"] = {"task": "d", "schedule": 5.0}
    entries = Scheduler(app).schedule
    assert {name: entry.schedule for name, entry in entries.items()} == {
        "number": schedule(30), "delta": schedule(60, relative=True), "cron": crontab(hour=4), "late": schedule(5),
    }  # fmt: skip
    assert (entries["cron"].args, entries["cron"].options) == ((1,), {"queue": "q"})
    assert all(entry.app is app for entry in entries.values())
    assert Scheduler(app, lazy=True).schedule == {}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (5, r"beat_schedule\['x'\] = 5: expected a mapping"),
        ({"schedule": 1}, r"\['task'\] = None: expected the name of a task"),
        ({"task": "t"}, r"\['schedule'\] = None: expected seconds, a timedelta, crontab"),
        ({"task": "t", "schedule": "0 4 * * *"}, r"\['schedule'\] = '0 4 \* \* \*': expected seconds"),
        ({"task": "t", "schedule": -1}, "expected more than 0 seconds"),
        ({"task": "t", "schedule": 1, "arg": ()}, r"has an unknown key 'arg' \(did you mean 'args'\?\)"),
        ({"task": "t", "schedule": 1, "args": "ab"}, r"\['args'\] = 'ab': expected a list"),
        ({"task": "t", "schedule": 1, "options": 5}, r"\['options'\] = 5: expected a mapping"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_name(app: FastQ, entry: Any, said: str) -> None:
    app.conf.beat_schedule = {"x": entry}
    with pytest.raises(ImproperlyConfigured, match=said):
        Scheduler(app)
    with pytest.raises(ImproperlyConfigured, match=said):
        of_application(app, "x", entry)


def test_merging_keeps_the_runs_of_known_entries_and_drops_the_others(app: FastQ) -> None:
    scheduler = Scheduler(app)
    scheduler.add(name="kept", task="t", schedule=10, total_run_count=7)
    scheduler.add(name="gone", task="t", schedule=10)
    scheduler.merge_inplace({"kept": {"task": "u", "schedule": 20}, "new": {"task": "v", "schedule": 30}})
    assert set(scheduler.schedule) == {"kept", "new"}
    assert (scheduler.schedule["kept"].task, scheduler.schedule["kept"].total_run_count) == ("u", 7)
    scheduler.update_from_dict({"kept": {"task": "w", "schedule": 1}})
    assert (scheduler.schedule["kept"].task, scheduler.schedule["kept"].total_run_count) == ("w", 0)


def test_a_missed_policy_of_the_shared_scheduler_is_said_to_mean_nothing_here(app: FastQ, caplog: pytest.LogCaptureFixture) -> None:
    app.conf.beat_schedule = {
        "x": {"task": "t", "schedule": 1, "missed": "all"},
        "y": {"task": "t", "schedule": 1, "missed": "once"},
    }
    assert set(Scheduler(app).schedule) == {"x", "y"}
    assert [record.args[0] for record in caplog.records if record.args] == ["x"]


# --- add_periodic_task ---


def test_added_tasks_are_named_by_their_signatures_and_stay(app: FastQ, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.on_after_configure.connect
    def setup(sender: FastQ, **kwargs: Any) -> None:
        sender.add_periodic_task(crontab(hour=7), add.s(5, 5), name="in the morning", queue="early", expires=60)

    assert app.add_periodic_task(10.0, add.s(2), args=(1,)) == "add(1, 2)"
    assert app.add_periodic_task(5, add, (3, 4)) == "add(3, 4)"
    # before any source is read, and whatever is set afterwards
    app.conf.beat_schedule = {"static": {"task": "add", "schedule": 1.0, "args": (0, 0)}}
    app.finalize()
    assert list(app.conf.beat_schedule) == ["static", "add(1, 2)", "add(3, 4)", "in the morning"]
    assert app.conf.beat_schedule["in the morning"] == {
        "task": "add", "schedule": crontab(hour=7), "args": (5, 5), "kwargs": {}, "options": {"queue": "early", "expires": 60},
    }  # fmt: skip
    assert set(Scheduler(app).schedule) == set(app.conf.beat_schedule)
    assert not caplog.records
    app.add_periodic_task(20.0, add.s(1, 2))
    assert app.conf.beat_schedule["add(1, 2)"]["schedule"] == 20.0
    assert "replaces one of the same arguments" in caplog.text


def test_canvases_can_be_added_too(app: FastQ) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    app.add_periodic_task(10.0, chain(add.s(1, 2), add.s(3)), name="chain")
    app.add_periodic_task(10.0, group(add.s(1, 2), add.s(3, 4)), name="group")
    scheduler = Scheduler(app)
    assert [scheduler.schedule[name].task for name in ("chain", "group")] == ["fastq.chain", "fastq.group"]
    assert scheduler.apply_async(scheduler.schedule["chain"]).id
    with pytest.raises(TypeError, match="takes a signature, such as"):
        app.add_periodic_task(10.0, "add")  # type: ignore[arg-type]


def test_two_applications_with_one_config_do_not_share_what_is_added() -> None:
    config = {"beat_schedule": {"static": {"task": "t", "schedule": 1}}}
    first, second = (FastQ(name, set_as_current=False) for name in "ab")
    for app in (first, second):
        app.config_from_object(config)
    first.add_periodic_task(1.0, first.signature("u"), name="added")
    assert set(first.conf.beat_schedule) == {"static", "added"}
    assert set(second.conf.beat_schedule) == {"static"} == set(config["beat_schedule"])
