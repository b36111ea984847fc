"""A fleet of one worker per pool behind a proxy, and work of every kind whose runs can be counted."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.workers import POOLS, Worker, eventually

__all__ = ["DEADLINE_S", "LEASE_S", "Fleet", "Load", "during", "fleet_of"]

LEASE_S = 2.0
DEADLINE_S = 60.0
#: slots of a worker, by pool
SLOTS = {"prefork": 2, "solo": 1}

TASKS = '''\
"""Tasks whose runs are counted: each run appends a line to a file, in one write."""
import os
import time

from fastq import FastQ, chain, chord

app = FastQ("tasks", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BROKER"])
app.conf.worker_lease = float(os.environ["TEST_LEASE"])
LEDGER = os.environ["TEST_LEDGER"]


def run_of(name):
    fd = os.open(LEDGER, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    os.write(fd, (name + "\\n").encode())
    os.close(fd)


@app.task
def work(name, ms=0, size=0):
    if ms:
        time.sleep(ms / 1000)
    run_of(name)
    return name + "." * size


@app.task
def step(before, name):
    run_of(name)
    return [*before, name]


@app.task(bind=True, max_retries=3)
def stubborn(self, name):
    run_of(f"{name} try {self.request.retries}")
    if self.request.retries < 2:
        raise self.retry(countdown=0.05 * self.request.retries)
    return name


@app.task
def total(names, name):
    run_of(name)
    return sorted(names)
'''


class Load:
    """What was sent: which result each task must have, and which runs there must be, each once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.expected: list[tuple[str, Any, Any]] = []
        self.runs: dict[str, str] = {}

    def work(self, pool: str, n: int, ms: int = 0, size: int = 0) -> None:
        """Send plain tasks."""
        tasks = self._fleet.tasks
        for _ in range(n):
            name = self._name(pool)
            self._expect(pool, tasks.work.apply_async((name, ms, size), queue=pool), name + "." * size)
            self.runs[name] = pool

    def flows(self, pool: str, n: int) -> None:
        """Send chains of three, chords of three, and tasks that are tried three times."""
        tasks = self._fleet.tasks
        for _ in range(n):
            names = [self._name(pool) for _ in range(3)]
            links = [tasks.step.s(name).set(queue=pool) for name in names]
            links[0] = tasks.step.s([], names[0]).set(queue=pool)
            self._expect(pool, tasks.chain(*links).apply_async(), names)
            self.runs |= dict.fromkeys(names, pool)

            names = [self._name(pool) for _ in range(4)]
            members = [tasks.work.s(name, 5).set(queue=pool) for name in names[:3]]
            body = tasks.total.s(names[3]).set(queue=pool)
            self._expect(pool, tasks.chord(members)(body), sorted(names[:3]))
            self.runs |= dict.fromkeys(names, pool)

            name = self._name(pool)
            self._expect(pool, tasks.stubborn.apply_async((name,), queue=pool), name)
            self.runs |= {f"{name} try {i}": pool for i in range(3)}

    def everywhere(self, seconds: float, flows: int = 2) -> Load:
        """Send every pool about so many seconds of work."""
        for pool in self._fleet.workers:
            self.work(pool, int(SLOTS.get(pool, 4) * seconds / 0.03), 30)
            self.flows(pool, flows)
        return self

    def _name(self, pool: str) -> str:
        self._fleet.sent += 1
        return f"{pool}-{self._fleet.sent}"

    def _expect(self, pool: str, result: Any, value: Any) -> None:
        self.expected.append((pool, result, value))

    def left(self) -> int:
        """How many messages wait or run, as far as Redis knows."""
        with self._fleet.server.client() as client:
            return sum(client.llen(f"fastq:{{{pool}}}:ready:0") for pool in self._fleet.workers)

    def check(self) -> None:
        """Wait for everything, then count: results right, each run once, nothing left in the queues."""
        deadline = time.monotonic() + DEADLINE_S
        wrong: list[str] = []
        for pool, result, value in self.expected:
            try:
                got = result.get(timeout=max(1.0, deadline - time.monotonic()))
            except Exception as problem:
                got = f"{type(problem).__name__}: {problem}"
            if got != value:
                wrong.append(f"{pool}: {result.id} gave {str(got)[:200]}")
        fleet = self._fleet
        assert not wrong, f"{len(wrong)} wrong, such as {wrong[:5]}; logs:\n{fleet.logs({w.partition(':')[0] for w in wrong})}"
        ran = Counter(line for line in fleet.ledger.read_text().splitlines() if line in self.runs)
        twice = {name: n for name, n in ran.items() if n > 1}
        assert not twice, f"ran more than once: {twice}; logs:\n{fleet.logs({self.runs[name] for name in twice})}"
        assert not (missing := self.runs.keys() - ran.keys()), f"did not run: {sorted(missing)[:10]}"


class Fleet:
    """One worker per pool, each on the queue of that name, all through one proxy. The test's own application goes straight."""

    def __init__(self, folder: Path, server: RedisServer, proxy: Proxy, tasks: ModuleType, ledger: Path) -> None:
        self.server = server
        self.proxy = proxy
        self.tasks = tasks
        self.ledger = ledger
        self.sent = 0
        self.workers = {
            pool: Worker(
                folder,
                *("-P", pool, "-Q", pool, "-n", f"{pool}@test", "-c", str(SLOTS.get(pool, 4)), "-l", "WARNING"),
                env={"TEST_BROKER": proxy.url},
            )
            for pool in POOLS
        }
        self._pids: dict[str, list[int]] = {}
        self._seen: dict[str, int] = {}

    def wait_ready(self) -> None:
        for pool in self.workers:
            assert self.tasks.work.apply_async((f"first {pool}",), queue=pool).get(timeout=DEADLINE_S) == f"first {pool}", (
                self.logs()
            )
        self._pids = {pool: sorted(worker.pool_pids()) for pool, worker in self.workers.items()}

    def begin(self) -> Load:
        """Start an episode: remember where the logs are."""
        self._seen = {pool: len(worker.log) for pool, worker in self.workers.items()}
        return Load(self)

    def log(self, pool: str) -> str:
        """Return what a worker has said since the episode began."""
        return self.workers[pool].log[self._seen.get(pool, 0) :]

    def logs(self, pools: set[str] | None = None) -> str:
        return "\n".join(f"--- {pool}:\n{self.log(pool)[-4000:]}" for pool in self.workers if pools is None or pool in pools)

    def wait_idle(self) -> None:
        """Wait until every process has registered itself as idle, over connections that live."""
        self.check_pickup(DEADLINE_S)
        processes = sum(len(pids) for pids in self._pids.values())
        with self.server.client() as client:
            eventually(
                lambda: (
                    sum(client.zcard(f"fastq:{{{pool}}}:idle") for pool in self.workers) == processes
                    # a supervisor, too, has a connection
                    and self.proxy.connections >= 2 * processes + len(self.workers)
                ),
                "every process idle",
            )

    def check_pickup(self, within_s: float) -> None:
        """Send every pool a task; each must be done in time."""
        sent = {pool: self.tasks.work.apply_async((f"pickup {pool}",), queue=pool) for pool in self.workers}
        end = time.monotonic() + within_s
        late = []
        for pool, result in sent.items():
            try:
                result.get(timeout=max(0.0, end - time.monotonic()))
            except TimeoutError:
                late.append(pool)
        assert not late, f"not within {within_s:g} s: {late}\n{self.logs(set(late))}"

    def check_alive(self) -> None:
        """No process was replaced: a broker in trouble costs no worker."""
        for pool, worker in self.workers.items():
            assert worker.process.poll() is None, f"the {pool} worker has ended:\n{self.log(pool)}"
            assert sorted(worker.pool_pids()) == self._pids[pool], f"{pool}: processes were replaced:\n{self.log(pool)}"
            assert "Traceback" not in self.log(pool), self.log(pool)

    def wait_lost(self, why: str = "") -> None:
        """Wait until every process that runs tasks has said that its connection is lost, and why."""
        for pool, pids in self._pids.items():
            said = re.compile(f"Connection to the broker lost.*{why}")
            eventually(
                lambda pool=pool, pids=pids, said=said: len(said.findall(self.log(pool))) >= len(pids),
                f"every process of {pool} notices:\n{self.log(pool)}",
            )

    def check_says(self) -> None:
        """Every process has said once that it lost its connection, and once that it has it again."""
        for pool, pids in self._pids.items():

            def again(pool: str = pool) -> bool:
                log = self.log(pool)
                return 1 <= log.count("Connection to the broker lost") <= log.count(" again")

            eventually(again, lambda pool=pool: f"{pool} says that it is connected again:\n{self.log(pool)}")  # type: ignore[misc]
            assert self.log(pool).count("Connection to the broker lost") <= len(pids), self.log(pool)


@contextmanager
def fleet_of(folder: Path, *options: str) -> Iterator[Fleet]:
    """Start a server with an append-only file, a proxy, and the workers."""
    server = RedisServer(folder / "redis", "--appendonly", "yes", "--appendfsync", "always", *options)
    names = {"TEST_BROKER": server.url, "TEST_LEASE": str(LEASE_S), "TEST_LEDGER": str(folder / "ledger")}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        (folder / "tasks.py").write_text(TASKS)
        spec = importlib.util.spec_from_file_location("tasks", folder / "tasks.py")
        assert spec is not None and spec.loader is not None
        tasks = importlib.util.module_from_spec(spec)
        sys.modules["tasks"] = tasks
        spec.loader.exec_module(tasks)
        with server, Proxy(server.port, seed=1) as proxy:
            fleet = Fleet(folder, server, proxy, tasks, folder / "ledger")
            try:
                fleet.wait_ready()
                yield fleet
            finally:
                for worker in fleet.workers.values():
                    if worker.process.poll() is None:
                        os.kill(worker.pid, signal.SIGTERM)
                for worker in fleet.workers.values():
                    worker.__exit__()
                tasks.app.close()
    finally:
        sys.modules.pop("tasks", None)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def during(seconds: float, act: Callable[[], object], every_s: float) -> None:
    """Do something again and again for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        act()
        time.sleep(every_s)
