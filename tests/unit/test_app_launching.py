"""``app.Worker``, ``app.Beat``, ``app.clock``: what they are made of. They run in integration/test_celery_operations.py."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastq.cli
from fastq import FastQ
from fastq.exceptions import ImproperlyConfigured


@pytest.fixture
def app() -> Iterator[FastQ]:
    """An application that is a global of a module."""
    module: Any = types.ModuleType("launched")
    module.app = FastQ("launched", broker="memory://launched", set_as_current=False)
    sys.modules["launched"] = module
    yield module.app
    del sys.modules["launched"]
    module.app.close()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    lines: list[list[str]] = []

    def run(args: list[str]) -> int:
        signal.signal(signal.SIGTERM, lambda signum, frame: None)
        lines.append(args)
        return 3

    monkeypatch.setattr(fastq.cli, "run", run)
    return lines


def test_options_are_those_of_the_command(app: FastQ, ran: list[list[str]]) -> None:
    worker = app.Worker(
        hostname="w1@%h", pool_cls="threads", concurrency=4, queues=["a", "b"], include=("m",), autoscale=(8, 2), loglevel=20,
        task_events=True, purge=False, logfile=None, quiet=True, max_tasks_per_child=5, schedule_filename="s.db", beat=True,
    )  # fmt: skip
    before = signal.getsignal(signal.SIGTERM)
    assert worker.exitcode is None and worker.start() is None and worker.exitcode == 3
    assert signal.getsignal(signal.SIGTERM) is before, "the program has its signals back"
    assert ran == [[
        "-A", "launched:app", "--quiet", "worker", "--hostname=w1@%h", "--pool=threads", "--concurrency=4", "--queues=a,b",
        "--include=m", "--autoscale=8,2", "--loglevel=INFO", "--task-events", "--max-tasks-per-child=5",
        "--schedule-filename=s.db", "--beat",
    ]]  # fmt: skip
    app.Beat(max_interval=2.5, scheduler_cls="persistent", schedule="s").run()
    assert ran[1] == ["-A", "launched:app", "beat", "--max-interval=2.5", "--scheduler=persistent", "--schedule=s"]
    assert app.WorkController(pool="solo").options == {"pool": "solo"} and app.Worker.app is app
    assert repr(worker).startswith("<Worker of launched: {'hostname': 'w1@%h'")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurency": 2}, "Did you mean '--concurrency'"),
        ({"pool": "prefrok"}, "unknown pool"),
        ({"soft_time_limit": 5, "time_limit": 1}, "more than --time-limit"),
        ({"concurrency": "many"}, "many"),
    ],
)
def test_wrong_options_are_refused(app: FastQ, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        app.Worker(**options).start()


@pytest.mark.parametrize("start", ["app.Worker().start()", "app.Beat().run()", "app.worker_main([])"])
def test_a_worker_whose_processes_would_start_workers_is_refused(
    app: FastQ, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: str
) -> None:
    (tmp_path / "unguarded.py").write_text("from launched import app\ndef main():\n    START\nmain()".replace("START", start))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "fastq.worker.hello", types.ModuleType("hello"))
    with pytest.raises(ImproperlyConfigured, match=r"process of a worker imports the module unguarded.*__main__"):
        importlib.import_module("unguarded")
    assert not ran


def test_what_its_processes_could_not_import_is_refused(app: FastQ, ran: list[list[str]]) -> None:
    with pytest.raises(ImproperlyConfigured, match="no global of any module"):
        FastQ("hidden", set_as_current=False).Worker().start()
    raised: list[Exception] = []

    def start() -> None:
        try:
            app.Worker().start()
        except RuntimeError as exc:
            raised.append(exc)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0]) and not ran


@pytest.mark.parametrize("name", ["stop", "pool", "consumer", "blueprint", "state", "nothing_of_the_kind"])
def test_what_is_not_there_is_no_attribute(app: FastQ, name: str) -> None:
    with pytest.raises(AttributeError, match=f"app.Worker has no {name}"):
        getattr(app.Worker(), name)


def test_the_clock_only_rises(app: FastQ, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = app.clock
    assert abs(clock.value - time.time_ns() // 1000) < 60_000_000, "as the clock of events"
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    seen = [clock.value, clock.forward(), clock.forward(), clock.adjust(5), clock.adjust(clock.value + 1000), clock.value]
    assert seen == sorted(seen) and len(set(seen[:5])) == 5
    assert int(clock) == int(str(clock)) == seen[-1] and str(seen[-1]) in repr(clock)
