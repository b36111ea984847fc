"""A worker inside the process does what `fastq worker` does, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastq import FastQ, chord
from fastq.exceptions import ImproperlyConfigured, OperationalError, SoftTimeLimitExceeded, TimeLimitExceeded
from fastq.testing import InProcessWorker, drain, start_worker
from fastq.testing.rest import workers
from fastq.transports import memory, open_inspector

POOLS = ("solo", "threads", "asyncio")


def make_app(url: str, **settings: Any) -> FastQ:
    app = FastQ("tests", broker=url, backend=url, set_as_current=False, **settings)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x

    @app.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task
    def fail() -> None:
        raise KeyError("no")

    @app.task(bind=True, max_retries=3)
    def retried(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    @app.task
    def thread() -> int:
        return threading.get_ident()

    @app.task
    def endless() -> None:
        while True:
            time.sleep(0.005)

    @app.task
    async def endless_later() -> None:
        while True:
            await asyncio.sleep(0.005)

    return app


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield "memory://testing-worker"
        memory.reset("testing-worker")
    elif request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/broker.db"
    else:
        yield request.getfixturevalue("redis_url")


@pytest.fixture
def app() -> Iterator[FastQ]:
    app = make_app("memory://testing-worker")
    yield app
    app.close()
    memory.reset("testing-worker")


def depth(app: FastQ) -> dict[str, int]:
    inspector = open_inspector(app.broker_url, app.transport_options())
    try:
        return inspector.depth(app.conf.task_default_queue)
    finally:
        inspector.close()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert not workers


@pytest.mark.parametrize("pool", POOLS)
def test_tasks_retries_and_workflows_run_on_every_broker_and_pool(url: str, pool: str) -> None:
    with make_app(url) as app, start_worker(app, pool=pool, concurrency=2) as worker:
        assert worker.is_alive() and app.hostname == worker.hostname
        tasks = app.tasks
        assert tasks["tests.unit.test_testing_worker.add"].delay(2, 2).get(timeout=10) == 4
        assert tasks["tests.unit.test_testing_worker.later"].delay(3).get(timeout=10) == 3
        assert tasks["tests.unit.test_testing_worker.retried"].delay().get(timeout=10) == 2
        add, total = tasks["tests.unit.test_testing_worker.add"], tasks["tests.unit.test_testing_worker.total"]
        assert chord([add.s(i, i) for i in range(4)], total.s()).delay().get(timeout=10) == 12
        with pytest.raises(KeyError):
            tasks["tests.unit.test_testing_worker.fail"].delay().get(timeout=10)
    assert not worker.is_alive() and app.hostname == ""


def named(app: FastQ, name: str) -> Any:
    return app.tasks[f"tests.unit.test_testing_worker.{name}"]


def test_a_task_declared_while_the_worker_runs_is_run(app: FastQ) -> None:
    with start_worker(app) as worker:

        @app.task
        def new() -> str:
            return "new"

        worker.reload()
        assert new.delay().get(timeout=10) == "new"


def test_two_workers_share_the_work(app: FastQ) -> None:
    both = threading.Barrier(2)

    @app.task
    def meet() -> int:
        both.wait(10)
        return threading.get_ident()

    with start_worker(app), start_worker(app):
        results = [meet.delay() for _ in range(2)]
        assert len({result.get(timeout=10) for result in results}) == 2


def test_it_takes_only_from_the_queues_it_is_given(app: FastQ) -> None:
    add = named(app, "add")
    with start_worker(app, queues="a, b") as worker:
        assert worker.queues == ("a", "b")
        other = add.delay(1, 1)
        assert add.apply_async((1, 2), queue="b").get(timeout=10) == 3
        assert not other.ready()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("task", ["endless", "endless_later"])
def test_what_does_not_end_is_named_and_goes_back_to_its_queue(app: FastQ, pool: str, task: str) -> None:
    running = threading.Event()

    def on_start(**_: Any) -> None:
        running.set()

    from fastq.signals import task_prerun

    task_prerun.connect(on_start)
    try:
        with pytest.raises(RuntimeError, match=rf"did not stop within 0.05 s.*{task}\["), start_worker(
            app, pool=pool, shutdown_timeout=0.05
        ):
            named(app, task).delay()
            assert running.wait(10)
    finally:
        task_prerun.disconnect(on_start)
    assert depth(app) == {"ready": 1, "delayed": 0, "leased": 0, "dead": 0}


@pytest.mark.parametrize("pool", POOLS)
def test_time_limits_hold_without_signals(app: FastQ, pool: str) -> None:
    with start_worker(app, pool=pool, concurrency=2):
        for task in ("endless", "endless_later"):
            with pytest.raises(TimeLimitExceeded):
                named(app, task).apply_async(time_limit=0.05).get(timeout=10)
            with pytest.raises(SoftTimeLimitExceeded):
                named(app, task).apply_async(soft_time_limit=0.05).get(timeout=10)
        assert named(app, "add").delay(1, 1).get(timeout=10) == 2


def test_what_the_worker_itself_raises_surfaces_at_its_end(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, *args: Any) -> None:
        raise LookupError("the consumer is broken")

    with pytest.raises(LookupError, match="the consumer is broken"), start_worker(app) as worker:
        monkeypatch.setattr("fastq.worker.intake.Intake.accept", broken)
        named(app, "add").delay(1, 1)
        worker._thread.join(10)


def test_a_broker_that_does_not_answer_is_said_at_the_start() -> None:
    app = make_app("redis://127.0.0.1:1")
    with pytest.raises(OperationalError, match=r"Cannot connect to redis://127\.0\.0\.1:1"), start_worker(app):
        raise AssertionError("the block must not run")


@pytest.mark.parametrize(
    "pool, said",
    [
        ("prefork", "a fork of a test process"),
        ("gevent", "monkey.patch_all"),
        ("eventlet", "eventlet.monkey_patch"),
        ("nosuch", "unknown pool"),
    ],
)
def test_a_pool_that_cannot_be_here_is_refused_with_the_reason(app: FastQ, pool: str, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said), start_worker(app, pool=pool):
        raise AssertionError("the block must not run")


@pytest.mark.parametrize(
    "pool, patch",
    [("gevent", "from gevent import monkey; monkey.patch_all()"), ("eventlet", "import eventlet; eventlet.monkey_patch()")],
)
def test_a_patched_process_may_use_greenlets(pool: str, patch: str) -> None:
    script = f"""
import warnings
warnings.simplefilter("ignore")  # eventlet's own
{patch}
from fastq import FastQ
from fastq.testing import start_worker
app = FastQ("green", broker="memory://")
@app.task
def add(x, y):
    return x + y
with start_worker(app, pool={pool!r}, concurrency=10):
    assert [r.get(timeout=10) for r in [add.delay(i, i) for i in range(20)]] == [2 * i for i in range(20)]
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "done\n", done.stderr


def test_options_that_only_celery_has_are_taken_and_others_are_not(app: FastQ) -> None:
    with start_worker(app, without_heartbeat=True, logfile=None, ping_task_timeout=3.0):
        pass
    with pytest.raises(TypeError, match="'concurency'"), start_worker(app, concurency=2):
        raise AssertionError("the block must not run")


def test_the_log_level_holds_as_long_as_the_worker(app: FastQ) -> None:
    before = logging.getLogger("fastq").level
    with start_worker(app, loglevel="info"):
        assert logging.getLogger("fastq").level == logging.INFO
    assert logging.getLogger("fastq").level == before


def test_stopping_twice_is_harmless(app: FastQ) -> None:
    worker = InProcessWorker(app)
    worker.start()
    worker.ensure_started()
    worker.stop()
    worker.stop()


def test_signals_of_a_worker_are_sent_in_order(app: FastQ) -> None:
    from fastq import signals

    names = ["celeryd_init", "worker_init", "celeryd_after_setup", "worker_process_init", "worker_ready"]
    names += ["worker_shutting_down", "worker_process_shutdown", "worker_shutdown"]
    told: list[str] = []
    senders: dict[str, Any] = {}

    def receiver(signal: Any, sender: Any, **_: Any) -> None:
        told.append(signal.name)
        senders[signal.name] = sender

    for name in names:
        getattr(signals, name).connect(receiver)
    try:
        with start_worker(app, queues=["one"]) as worker:
            assert named(app, "add").apply_async((1, 1), queue="one").get(timeout=10) == 2
    finally:
        for name in names:
            getattr(signals, name).disconnect(receiver)
    assert told == names
    assert senders["celeryd_init"] == senders["worker_shutting_down"] == worker.hostname
    ready = senders["worker_ready"]
    assert (ready.app, ready.hostname, ready.queues, ready.pool, ready.concurrency) == (app, worker.hostname, ["one"], "solo", 1)


def test_queues_that_a_receiver_adds_are_taken_from(app: FastQ) -> None:
    from fastq.signals import celeryd_after_setup

    def add_own(sender: str, instance: Any, **_: Any) -> None:
        instance.queues.append(f"{sender}.own")

    celeryd_after_setup.connect(add_own)
    try:
        with start_worker(app) as worker:
            assert named(app, "add").apply_async((1, 1), queue=f"{worker.hostname}.own").get(timeout=10) == 2
    finally:
        celeryd_after_setup.disconnect(add_own)


# --- drain ---


def test_drain_runs_what_is_queued_in_the_calling_thread(url: str) -> None:
    with make_app(url) as app:
        result = named(app, "thread").delay()
        group = [named(app, "add").delay(i, 1) for i in range(10)]
        assert drain(app) == 11
        assert result.get(timeout=1) == threading.get_ident()
        assert [r.get(timeout=1) for r in group] == list(range(1, 11))
        assert drain(app) == 0


def test_drain_runs_what_the_tasks_start_too_and_leaves_what_is_due_later(app: FastQ) -> None:
    add, total = named(app, "add"), named(app, "total")
    sum_of = chord([add.s(i, i) for i in range(3)], total.s()).delay()
    later = add.apply_async((1, 1), countdown=3600)
    assert drain(app) == 4
    assert sum_of.get(timeout=1) == 6
    assert not later.ready() and depth(app)["delayed"] == 1


def test_drain_runs_coroutines_and_keeps_what_fails_as_a_result(app: FastQ) -> None:
    fine, bad = named(app, "later").delay(7), named(app, "fail").delay()
    assert drain(app) == 2
    assert fine.get(timeout=1) == 7
    with pytest.raises(KeyError):
        bad.get(timeout=1)


def test_drain_works_in_any_thread(app: FastQ) -> None:
    named(app, "add").delay(1, 1)
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(drain(app)))
    thread.start()
    thread.join(10)
    assert counts == [1]


def test_drain_takes_only_the_queues_it_is_given(app: FastQ) -> None:
    add = named(app, "add")
    add.delay(1, 1)
    add.apply_async((1, 1), queue="other")
    assert drain(app, queues=["other"]) == 1
    assert drain(app) == 1


def test_an_interrupt_in_a_drained_task_ends_the_draining(app: FastQ) -> None:
    @app.task
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    interrupted.delay()
    named(app, "add").apply_async((1, 1), countdown=0)
    with pytest.raises(KeyboardInterrupt):
        drain(app)
    assert drain(app) <= 1
