"""Moving the clock runs what is due on the way, each at its own time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastq import FastQ
from fastq.exceptions import ImproperlyConfigured
from fastq.testing import Clock, app_clock, drain, eager, start_worker
from fastq.transports import memory

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Diary:
    """What ran, and how long after the start."""

    def __init__(self, app: FastQ, clock: Clock) -> None:
        self.lines: list[tuple[Any, timedelta]] = []
        self.clock = clock

        @app.task(name="note")
        def note(what: Any) -> None:
            self.lines.append((what, self.clock.now() - START))

        @app.task(name="countdown")
        def countdown(n: int) -> None:
            self.lines.append((n, self.clock.now() - START))
            if n:
                countdown.apply_async((n - 1,), countdown=60)

        @app.task(name="flaky", bind=True, max_retries=3, default_retry_delay=600)
        def flaky(self_: Any) -> str:
            self.lines.append((self_.request.retries, self.clock.now() - START))
            if self_.request.retries < 2:
                raise self_.retry()
            return "at last"

        @app.task(name="limited", rate_limit="1/m")
        def limited() -> None:
            self.lines.append(("limited", self.clock.now() - START))

        self.note, self.countdown, self.flaky, self.limited = note, countdown, flaky, limited


@pytest.fixture
def app() -> Iterator[FastQ]:
    app = FastQ("clock", broker="memory://testing-clock", set_as_current=False)
    yield app
    app.close()
    memory.reset("testing-clock")


@pytest.fixture
def clock(app: FastQ) -> Iterator[Clock]:
    with app_clock(app, START) as clock:
        yield clock


@pytest.fixture(params=["solo", "threads", "asyncio"])
def diary(request: pytest.FixtureRequest, app: FastQ, clock: Clock) -> Iterator[Diary]:
    diary = Diary(app, clock)
    with start_worker(app, pool=request.param, concurrency=4):
        yield diary


def test_what_is_due_runs_in_the_order_of_its_due_times_and_at_them(diary: Diary) -> None:
    diary.note.apply_async(("two hours",), countdown=7200)
    diary.note.apply_async(("one hour",), countdown=3600)
    diary.note.apply_async(("half past two",), eta=START + timedelta(hours=2, minutes=30))
    diary.note.apply_async(("later",), countdown=3 * 3600 + 1)
    began = time.monotonic()
    assert diary.clock.advance(hours=3) == START + timedelta(hours=3)
    assert time.monotonic() - began < 5
    assert diary.lines == [
        ("one hour", timedelta(hours=1)),
        ("two hours", timedelta(hours=2)),
        ("half past two", timedelta(hours=2, minutes=30)),
    ]


def test_what_a_task_starts_is_counted_from_its_own_time(diary: Diary) -> None:
    diary.countdown.delay(3)
    diary.clock.advance(minutes=10)
    assert diary.lines == [(3 - n, timedelta(minutes=n)) for n in range(4)]


def test_retries_happen_at_their_times(diary: Diary) -> None:
    result = diary.flaky.delay()
    diary.clock.advance(timedelta(minutes=10))
    assert not result.ready()
    diary.clock.advance(600)
    assert result.get(timeout=5) == "at last"
    assert diary.lines == [(n, timedelta(minutes=10 * n)) for n in range(3)]


def test_a_rate_limit_gives_its_turns_as_time_passes(diary: Diary) -> None:
    for _ in range(3):
        diary.limited.delay()
    diary.clock.advance(hours=1)
    times = [at for _, at in diary.lines]
    assert len(times) == 3
    assert all(late - early >= timedelta(minutes=1) for early, late in itertools.pairwise(times))


def test_what_expires_on_the_way_is_not_run_and_a_call_made_later_is(diary: Diary) -> None:
    late = diary.note.apply_async(("late",), countdown=3600, expires=60)
    diary.clock.advance(hours=1)
    assert late.state == "REVOKED" and diary.lines == []
    in_time = diary.note.apply_async(("in time",), expires=60)
    diary.clock.wait()
    assert in_time.successful()


def test_results_are_dated_by_it(diary: Diary) -> None:
    result = diary.note.apply_async(("dated",), countdown=3600)
    diary.clock.advance(hours=2)
    assert result.date_done == START + timedelta(hours=1)


def test_time_stands_still_until_it_is_moved(clock: Clock) -> None:
    assert clock.now() == START == clock.advance()
    assert clock.advance_to(START + timedelta(days=1)) == clock.now() == START + timedelta(days=1)


def test_time_does_not_go_back(clock: Clock) -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance_to(START - timedelta(seconds=1))


def test_afterwards_the_time_is_as_it_was(app: FastQ) -> None:
    with app_clock(app) as clock:
        assert abs(clock.now() - app.now()) < timedelta(minutes=1)
        clock.advance(days=300)
    store = memory.store("testing-clock")
    assert abs(store.now_ms() / 1000 - time.time()) < 60
    with start_worker(app):  # and nothing holds a later call back
        diary = Diary(app, clock)
        result = diary.note.apply_async(("now",), expires=60)
        assert result.get(timeout=10) is None


def test_without_a_worker_what_is_due_waits_for_drain(app: FastQ, clock: Clock) -> None:
    diary = Diary(app, clock)
    diary.countdown.delay(2)
    assert drain(app) == 1
    clock.advance(minutes=1)
    assert drain(app) == 1
    clock.advance(minutes=5)
    assert drain(app) == 1
    assert diary.lines == [(2, timedelta(0)), (1, timedelta(minutes=1)), (0, timedelta(minutes=6))]


def test_a_task_that_does_not_end_is_named(app: FastQ, clock: Clock) -> None:
    go_on = threading.Event()

    @app.task(name="waits")
    def waits() -> None:
        go_on.wait(10)

    with start_worker(app):
        waits.apply_async(countdown=60)
        with pytest.raises(TimeoutError, match=r"waits\[.*\] runs, at 2030-01-01 12:01:00"):
            clock.advance(hours=1, timeout=0.05)
        go_on.set()


def test_only_the_memory_broker_has_such_a_clock(tmp_path: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="needs memory://"):
        Clock(FastQ("other", broker=f"sqlite:///{tmp_path}/b.db", set_as_current=False))


# --- eager ---


def test_eager_mode_ends_with_its_block(app: FastQ) -> None:
    @app.task
    def fail() -> None:
        raise KeyError("no")

    with eager(app, propagate=False):
        assert fail.delay().state == "FAILURE"
    with eager(app), pytest.raises(KeyError):
        fail.delay()
    assert not app.conf.task_always_eager and not app.conf.is_set("task_always_eager")


def test_eager_mode_leaves_what_the_application_had_set(app: FastQ) -> None:
    app.conf.task_always_eager = True
    with eager(app):
        pass
    assert app.conf.task_always_eager
    assert not app.conf.is_set("task_eager_propagates")
