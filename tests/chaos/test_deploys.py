"""Deploys under full load: nodes are stopped and started one after the other, and every task runs exactly once, charged to nobody.

What ran is a line in a file, written by the task itself. ``make chaos`` asks for more rounds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from fastq.transports import open_inspector
from tests.chaos.test_kill import ROUNDS
from tests.workers import Worker, eventually

TASKS = '''\
"""Every run leaves one line."""
import asyncio
import os
import time

from fastq import FastQ

app = FastQ("tasks", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BROKER"])
app.conf.worker_lease = 2
RUNS = os.open(os.environ["TEST_RUNS"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)


def note(what, name, request):
    os.write(RUNS, f"{what} {name} {request.deliveries} {os.getpid()} {time.time():.3f}\\n".encode())


@app.task(bind=True, ignore_result=True)
def short(self, name):
    note("began", name, self.request)
    note("ended", name, self.request)


@app.task(bind=True)
def slow(self, name):
    note("began", name, self.request)
    time.sleep(0.05)
    note("ended", name, self.request)


@app.task(bind=True)
async def slow_async(self, name):
    note("began", name, self.request)
    await asyncio.sleep(0.05)
    note("ended", name, self.request)


@app.task(bind=True)
def step(self, n, name):
    note("began", f"{name}.{n}", self.request)
    time.sleep(0.005)
    note("ended", f"{name}.{n}", self.request)
    return n + 1


@app.task(bind=True, default_retry_delay=0.3)
def again(self, name):
    run = f"{name}.{self.request.retries}"
    note("began", run, self.request)
    note("ended", run, self.request)
    if self.request.retries < 2:
        raise self.retry()
'''

CASES = [(broker, pool) for broker in ("redis", "sqlite") for pool in ("prefork", "threads", "gevent", "asyncio")]
SLOTS = {"prefork": "2", "threads": "8", "gevent": "20", "asyncio": "20"}
#: tasks that wait at most: the producer keeps the nodes busy and does not run away
BACKLOG = 400


def load(directory: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Write the application's module where workers start, and import it as a producer does."""
    path = directory / "tasks.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("tasks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tasks", module)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Ran:
    what: str
    name: str
    deliveries: int
    pid: int
    at_s: float


class Site:
    def __init__(self, directory: Path, broker: str, tasks: ModuleType, pool: str) -> None:
        self.directory = directory
        self.broker = broker
        self.tasks = tasks
        self.pool = pool
        self.wanted: set[str] = set()
        #: processes that were running when their node was stopped cold
        self.cold: set[int] = set()
        self.nodes: list[Worker] = []
        self._halt = threading.Event()
        self._producer = threading.Thread(target=self._produce, daemon=True)
        self._error: BaseException | None = None

    def ran(self) -> list[Ran]:
        path = self.directory / "runs"
        lines = path.read_text().splitlines() if path.exists() else []
        fields = [line.split(" ") for line in lines]
        return [Ran(what, name, int(deliveries), int(pid), float(at)) for what, name, deliveries, pid, at in fields]

    def ended(self) -> int:
        path = self.directory / "runs"
        return path.read_bytes().count(b"ended ") if path.exists() else 0

    # --- load ---

    def start_load(self) -> None:
        self._producer.start()

    def end_load(self) -> None:
        self._halt.set()
        self._producer.join(60)
        if self._error is not None:
            raise self._error

    def _produce(self) -> None:
        chance = random.Random(1)
        slow = self.tasks.slow_async if self.pool == "asyncio" else self.tasks.slow
        short, step, again = self.tasks.short, self.tasks.step, self.tasks.again
        number = 0
        try:
            while not self._halt.is_set():
                number += 1
                names = [f"short-{number}-{i}" for i in range(30)]
                short.delay_many([(name,) for name in names])
                slow.delay(f"slow-{number}")
                slow.delay(f"slower-{number}")
                (step.s(0, f"chain-{number}") | step.s(f"chain-{number}") | step.s(f"chain-{number}")).delay()
                short.apply_async((f"later-{number}",), countdown=chance.uniform(0.1, 2.0))
                self.wanted |= {*names, f"slow-{number}", f"slower-{number}", f"later-{number}"}
                self.wanted |= {f"chain-{number}.{n}" for n in range(3)}
                if number % 4 == 0:
                    again.delay(f"again-{number}")
                    self.wanted |= {f"again-{number}.{n}" for n in range(3)}
                while not self._halt.is_set() and len(self.wanted) - self.ended() > BACKLOG:
                    self._halt.wait(0.02)
        except BaseException as error:
            self._error = error

    # --- nodes ---

    def start(self, at: int) -> None:
        arguments = ("-P", self.pool, "-c", SLOTS[self.pool], "-n", f"node{at}@%h")
        self.nodes[at : at + 1] = [Worker(self.directory, *arguments).wait_ready()]

    def replace(self, at: int, number: int) -> None:
        """Stop a node, wait for its end, start the next: what a deploy does."""
        node = self.nodes[at]
        if number == signal.SIGQUIT:
            self.cold.update(node.pool_pids())
        code = node.terminate(number)
        assert code == (1 if number == signal.SIGQUIT else 0), f"{code}\n{node.log}"
        assert "Traceback" not in node.log and "exited with" not in node.log, node.log
        self.start(at)

    def await_runs(self, more: int) -> None:
        least = self.ended() + more
        eventually(lambda: self.ended() >= least, f"{more} runs more")

    def left(self) -> dict[str, int]:
        """Return how many messages are anywhere in the broker."""
        with contextlib.closing(open_inspector(self.broker, self.tasks.app.transport_options())) as inspector:
            return {name: n for name, n in inspector.depth("default").items() if n}


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    broker, pool = request.param
    url = request.getfixturevalue("redis_url") if broker == "redis" else f"sqlite:///{tmp_path / 'fastq.db'}"
    monkeypatch.setenv("TEST_BROKER", url)
    monkeypatch.setenv("TEST_RUNS", str(tmp_path / "runs"))
    tasks = load(tmp_path, TASKS, monkeypatch)
    site = Site(tmp_path, url, tasks, pool)
    try:
        yield site
    finally:
        site._halt.set()
        for node in site.nodes:
            node.__exit__()
        tasks.app.close()


def roll(site: Site, steps: list[tuple[int, int]]) -> float:
    """Deploy under load, node after node; return the longest time in which nothing ended."""
    site.start(0)
    site.start(1)
    site.start_load()
    site.await_runs(300)
    began = time.time()
    for at, number in steps:
        site.replace(at, number)
        site.await_runs(100)
    over = time.time()
    site.end_load()
    eventually(lambda: {run.name for run in site.ran() if run.what == "ended"} >= site.wanted, "all that was sent has run")
    eventually(lambda: not site.left(), lambda: f"nothing is left in the broker: {site.left()}")
    for node in site.nodes:
        assert node.terminate() == 0, node.log
    moments = [began, *sorted(run.at_s for run in site.ran() if run.what == "ended" and began < run.at_s < over), over]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))


@pytest.mark.parametrize("site", CASES, ids="-".join, indirect=True)
def test_a_rolling_restart_under_full_load_runs_every_task_once_and_charges_nobody(site: Site) -> None:
    gap_s = roll(site, [(at, signal.SIGTERM) for _ in range(2 * ROUNDS) for at in (0, 1)])
    runs = site.ran()
    print(f"{site.pool}: {len(site.wanted)} tasks, longest gap {gap_s * 1000:.0f} ms")
    for what in ("began", "ended"):
        counted = Counter(run.name for run in runs if run.what == what)
        assert set(counted) == site.wanted
        assert not [name for name, n in counted.items() if n > 1], f"{what} once each"
    assert not [run for run in runs if run.deliveries], "nobody is charged"
    assert gap_s < 10, "one node always runs; far more than the moment that it takes on an idle machine"
    assert not site.left()


@pytest.mark.parametrize("site", [CASES[0], CASES[2], CASES[5], CASES[7]], ids="-".join, indirect=True)
def test_a_cold_stop_within_a_deploy_repeats_only_what_had_started_and_charges_nobody(site: Site) -> None:
    roll(site, [(0, signal.SIGTERM), (1, signal.SIGQUIT), (0, signal.SIGQUIT), (1, signal.SIGTERM)])
    runs = site.ran()
    assert {run.name for run in runs if run.what == "ended"} == site.wanted
    assert not [run for run in runs if run.deliveries], "nobody is charged"
    began: dict[str, list[Ran]] = {}
    for run in runs:
        if run.what == "began":
            began.setdefault(run.name, []).append(run)
    repeated = {name: same for name, same in began.items() if len(same) > 1}
    print(f"{site.pool}: {len(site.wanted)} tasks, {len(repeated)} of them ran twice")
    for name, same in repeated.items():
        assert all(run.pid in site.cold for run in same[:-1]), f"{name} had started in a process that was stopped cold: {same}"


OLD = '''\
import os
from fastq import FastQ

app = FastQ("tasks", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BROKER"])


@app.task
def known(x):
    return x
'''
NEW = OLD + '''

@app.task
def added(x):
    return x + 1
'''


@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_a_task_that_an_old_node_does_not_know_waits_as_a_dead_letter_and_can_be_put_back(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue("redis_url") if broker == "redis" else f"sqlite:///{tmp_path / 'fastq.db'}"
    monkeypatch.setenv("TEST_BROKER", url)
    for version, text in (("old", OLD), ("new", NEW)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "tasks.py").write_text(text)
    tasks = load(tmp_path, NEW, monkeypatch)
    try:
        with Worker(tmp_path / "old", "-P", "threads", "-c", "1", "-l", "INFO").wait_ready() as old:
            too_early = tasks.added.delay(1)
            old.wait_log("Received unregistered task of type 'tasks.added'")
            assert tasks.known.delay(5).get(timeout=30) == 5, "the old node goes on"
            assert old.terminate() == 0
        with Worker(tmp_path / "new", "-P", "threads", "-c", "1", "-l", "INFO").wait_ready():
            assert tasks.added.delay(2).get(timeout=30) == 3
            command = Worker.command(tmp_path / "new", "dead", "retry", "--reason", "unregistered", "--all", "-f")
            assert command.returncode == 0, command.stdout + command.stderr
            # a new object each time: a result that is final is remembered
            eventually(lambda: tasks.app.AsyncResult(too_early.id).state == "SUCCESS", "it ran after all")
            assert tasks.app.AsyncResult(too_early.id).get(timeout=30) == 2
    finally:
        tasks.app.close()
