"""Signals of a worker: each is sent where the documents say, in order, and as often."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import ModuleType

import pytest

from tests.integration.conftest import TASKS
from tests.workers import POOLS, Worker, eventually

RECEIVERS = '''

from fastq import signals

LOG = os.path.join(FOLDER, "signals")


def note(*words):
    fd = os.open(LOG, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(fd, (" ".join(map(str, [os.getpid(), *words])) + "\\n").encode())
    os.close(fd)


NAMES = """celeryd_init celeryd_after_setup import_modules worker_init worker_before_create_process worker_process_init
worker_process_shutdown worker_ready worker_shutting_down worker_shutdown eventlet_pool_started eventlet_pool_preshutdown
eventlet_pool_postshutdown user_preload_options heartbeat_sent""".split()


def told(name):
    def receiver(sender=None, **named):
        words = [name]
        if name == "worker_shutting_down":
            words += [named["sig"], named["how"], named["exitcode"]]
        if name == "worker_process_shutdown":
            words += [named["exitcode"]]
            assert named["pid"] == os.getpid()
        if name in ("celeryd_init", "celeryd_after_setup"):
            assert sender == named["instance"].hostname and named["conf"] is app.conf
            if name == "celeryd_init":
                named["conf"].task_default_priority = 7
            else:
                named["instance"].queues.append("more")
        if name == "worker_process_init" and os.environ.get("TEST_GATE"):
            note("before-init")
            await_file("init-gate")
        if name in ("worker_ready", "worker_init", "worker_shutdown"):
            assert sender.app is app and sender.hostname
        if name == "worker_ready":
            mark.delay("from-ready")
        note(*words)
        if name != "import_modules":  # there it stops the worker
            raise RuntimeError("what a receiver raises stops nothing")

    getattr(signals, name).connect(receiver, weak=False)


for one in NAMES:
    told(one)


@app.task
def seen(name):
    note("task", app.conf.task_default_priority)
    return name
'''


@pytest.fixture
def broker_url(redis_url: str) -> str:
    return redis_url


@pytest.fixture
def listening(tasks: ModuleType, tmp_path: Path) -> ModuleType:
    """The tasks' module as the worker reads it has receivers; in this process it has not."""
    (tmp_path / "tasks.py").write_text(TASKS + RECEIVERS)
    return tasks


def said(folder: Path) -> list[list[str]]:
    path = folder / "signals"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def of(lines: list[list[str]], pid: str) -> list[str]:
    return [" ".join(words) for one, *words in lines if one == pid]


BEGINNING = ["user_preload_options", "import_modules", "celeryd_init", "worker_init", "celeryd_after_setup"]


@pytest.mark.parametrize("pool", POOLS)
def test_every_signal_is_sent_in_order_and_as_often_as_it_should(
    pool: str, listening: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "2").wait_ready() as worker:
        assert listening.app.send_task("tasks.seen", ("a",)).get(timeout=30) == "a"
        assert listening.app.send_task("tasks.seen", ("b",), queue="more").get(timeout=30) == "b"
        eventually(lambda: list(folder.glob("from-ready.*")), "the task that worker_ready sends")
        assert worker.terminate(signal.SIGTERM) == 0, worker.log
        lines = said(folder)
        log = worker.log
    pids = list(dict.fromkeys(pid for pid, *_ in lines))
    workers = [pid for pid in pids if "worker_process_init" in of(lines, pid)]
    assert len(workers) == (2 if pool == "prefork" else 1)
    stopping = ["worker_shutting_down SIGTERM Warm 0"]
    if pool in ("prefork", "threads", "asyncio"):
        (nursery,) = set(pids) - set(workers)
        forks = ["worker_before_create_process"] * len(workers)
        assert of(lines, nursery) == [*BEGINNING, *forks, "worker_ready", *stopping, "worker_shutdown"]
        for pid in workers:
            own = [line for line in of(lines, pid) if not line.startswith("task ")]
            assert own == ["worker_process_init", "worker_process_shutdown 0"]
        everything = [" ".join(words) for _, *words in lines]
        assert everything[-1] == "worker_shutdown", "after the last process has ended"
    else:
        (pid,) = workers
        assert pids == [pid] and (pool != "solo" or int(pid) == worker.pid)
        pool_started, pool_stopped = [], []
        if pool == "eventlet":
            pool_started, pool_stopped = ["eventlet_pool_started"], ["eventlet_pool_preshutdown", "eventlet_pool_postshutdown"]
        own = [line for line in of(lines, pid) if not line.startswith("task ")]
        end = [*stopping, *pool_stopped, "worker_process_shutdown 0", "worker_shutdown"]
        assert own == [*BEGINNING, "worker_process_init", *pool_started, "worker_ready", *end]
    for pid in workers:
        assert of(lines, pid)[0 if len(pids) > 1 else len(BEGINNING)] == "worker_process_init", "before its first task"
    assert [words for _, *words in lines if words[0] == "task"] == [["task", "7"]] * 2, "celeryd_init changed the settings"
    assert "what a receiver raises stops nothing" in log and "heartbeat_sent" not in log


@pytest.mark.parametrize("pool", POOLS)
def test_a_process_that_is_still_being_prepared_takes_no_task(
    pool: str, listening: ModuleType, tmp_path: Path, folder: Path
) -> None:
    waiting = listening.app.send_task("tasks.seen", ("early",))
    with Worker(tmp_path, "-P", pool, "-c", "1", env={"TEST_GATE": "1"}) as worker:
        eventually(lambda: any(words == ["before-init"] for _, *words in said(folder)), lambda: f"the receiver runs; {worker.log}")
        assert " ready." not in worker.log and not waiting.ready()
        (folder / "init-gate").touch()
        assert waiting.get(timeout=30) == "early"
        worker.wait_ready()
    lines = [words[0] for _, *words in said(folder)]
    assert lines.index("worker_process_init") < lines.index("task")


def test_a_process_that_takes_the_place_of_another_is_prepared_too(listening: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", "prefork", "-c", "1").wait_ready() as worker:
        (pid,) = worker.pool_pids()
        os.kill(pid, signal.SIGKILL)
        assert listening.app.send_task("tasks.seen", ("later",)).get(timeout=30) == "later"
        assert worker.terminate() == 0
    names = [words[0] for _, *words in said(folder)]
    assert names.count("worker_process_init") == names.count("worker_before_create_process") == 2
    assert [names.count(name) for name in ("worker_init", "worker_ready", "worker_shutdown")] == [1, 1, 1]
    assert names.count("worker_process_shutdown") == 1, "a killed process tells nothing"


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_cold_stop_is_told_apart(pool: str, listening: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "1").wait_ready() as worker:
        listening.app.send_task("tasks.hold", ("gate",))
        eventually(lambda: list(folder.glob("holding-gate*")), "the task runs")
        assert worker.terminate(signal.SIGQUIT) == 1
    assert ["worker_shutting_down", "SIGQUIT", "Cold", "1"] in [words for _, *words in said(folder)]
