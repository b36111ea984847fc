"""Every way to stop a worker, on every pool: what becomes of what runs, of what waits, and who is charged for it.

A row of the table is a worker that is stopped. The next row's worker shows what it left: it runs what was handed back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from fastq.transports import TransportOptions, open_inspector
from tests.integration.conftest import TASKS, ran
from tests.servers import RedisServer
from tests.workers import POOLS, Worker, children, eventually

#: how often a message was redelivered at someone's expense is a part of each effect's name: all end in 0 here
MORE = '''

@app.task(bind=True)
def sit(self, name):
    effect(f"began-{name}-{self.request.deliveries}")
    await_file(name)
    effect(f"ended-{name}-{self.request.deliveries}")


@app.task(bind=True)
async def sit_async(self, name):
    effect(f"began-{name}-{self.request.deliveries}")
    while not os.path.exists(os.path.join(FOLDER, name)):
        await asyncio.sleep(0.01)
    effect(f"ended-{name}-{self.request.deliveries}")


@app.task(bind=True)
def quick(self, name):
    effect(f"quick-{name}-{self.request.deliveries}")


@app.task(bind=True)
def deaf(self, name):
    """Hold the GIL for ever, through every signal, the first time."""
    effect(f"began-{name}-{self.request.deliveries}")
    if not os.path.exists(os.path.join(FOLDER, name)):
        import ctypes

        mutex = ctypes.create_string_buffer(64)
        lock = ctypes.PyDLL(None).pthread_mutex_lock
        lock(mutex)
        lock(mutex)
    effect(f"ended-{name}-{self.request.deliveries}")


@app.task(bind=True)
def stubborn(self, name):
    """Catch everything, block the hub, the first time."""
    effect(f"began-{name}-{self.request.deliveries}")
    import ctypes

    while not os.path.exists(os.path.join(FOLDER, name)):
        try:
            while not os.path.exists(os.path.join(FOLDER, name)):
                ctypes.CDLL(None).usleep(10_000)
        except BaseException:
            pass
    effect(f"ended-{name}-{self.request.deliveries}")


@app.task(bind=True)
def mother(self, name):
    """Fork a process, and see whether it can be terminated."""
    import multiprocessing
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,))
    process.start()
    time.sleep(0.2)
    process.terminate()
    process.join(20)
    ended = process.exitcode
    if ended is None:
        process.kill()
    effect(f"quick-{name}{ended}-{self.request.deliveries}")
'''


@pytest.fixture
def stoppable(tasks: ModuleType, tmp_path: Path) -> ModuleType:
    (tmp_path / "tasks.py").write_text(TASKS + MORE)
    exec(MORE, tasks.__dict__)
    return tasks


@dataclass(frozen=True)
class Row:
    """``steps``: signals, each with what the log says before the next one may come."""

    name: str
    steps: Sequence[tuple[int, str]]
    running_ends: bool
    exit_code: int
    settings: Sequence[str] = ()
    remap: str = ""


WARM, COLD, SOFT = "Warm shutdown", "Cold shutdown", "Initiating Soft Shutdown"

TABLE = (
    Row("TERM", [(signal.SIGTERM, WARM)], True, 0),
    Row("QUIT", [(signal.SIGQUIT, COLD)], False, 1),
    Row("INT", [(signal.SIGINT, WARM)], True, 0),
    Row("INT INT", [(signal.SIGINT, WARM), (signal.SIGINT, COLD)], False, 1),
    Row("INT INT INT", [(signal.SIGINT, WARM), (signal.SIGINT, COLD), (signal.SIGINT, "")], False, 1),
    Row("QUIT, soft, enough", [(signal.SIGQUIT, SOFT)], True, 1, ["worker_soft_shutdown_timeout=50"]),
    Row("QUIT, soft, not enough", [(signal.SIGQUIT, SOFT), (0, COLD)], False, 1, ["worker_soft_shutdown_timeout=0.3"]),
    Row("QUIT QUIT, soft", [(signal.SIGQUIT, SOFT), (signal.SIGQUIT, COLD)], False, 1, ["worker_soft_shutdown_timeout=50"]),
    Row("TERM as QUIT", [(signal.SIGTERM, COLD)], False, 1, remap="SIGQUIT"),
)


def slots(pool: str) -> int:
    return 1 if pool == "solo" else 2


def start(pool: str, directory: Path, row: Row) -> Worker:
    return Worker(
        directory, "-P", pool, "-c", str(slots(pool)), "-l", "INFO", *row.settings, env={"REMAP_SIGTERM": row.remap}
    ).wait_ready()


def release(folder: Path, gates: Sequence[str]) -> None:
    for gate in gates:
        (folder / gate).touch()


def stop_as(
    row: Row, at: int, worker: Worker, pool: str, stoppable: ModuleType, folder: Path, successor: Callable[[], Worker]
) -> Worker:
    """Stop the worker as the row says and return its successor, which has run what was handed back."""
    where = f"{pool}, {row.name}"
    gates = [f"r{at}s{i}" for i in range(slots(pool))]
    waiting = [f"r{at}w{i}" for i in range(12)]
    sit = stoppable.sit_async if pool == "asyncio" else stoppable.sit
    for gate in gates:
        sit.delay(gate)
    eventually(lambda: ran(folder, f"began-r{at}s") == [f"began-{g}-0" for g in gates], f"{where}: tasks run\n{worker.log}")
    stoppable.quick.delay_many([(name,) for name in waiting])
    for number, said in row.steps:
        if number:
            os.kill(worker.pid, number)
        if said:
            worker.wait_log(said)
    everything = sorted(f"quick-{name}-0" for name in waiting)
    if row.running_ends:
        # what waited goes back at once, not when the running task has ended
        following = successor()
        eventually(lambda: ran(folder, f"quick-r{at}w") == everything, f"{where}: what waited runs elsewhere\n{worker.log}")
        assert worker.process.poll() is None, f"{where}: it ended before its task\n{worker.log}"
        release(folder, gates)
        assert worker.process.wait(60) == row.exit_code, f"{where}\n{worker.log}"
    else:
        assert worker.process.wait(60) == row.exit_code, f"{where}\n{worker.log}"
        release(folder, gates)
        following = successor()
        eventually(lambda: len(ran(folder, f"quick-r{at}w")) >= len(waiting), f"{where}: what waited runs\n{following.log}")
    eventually(lambda: len(ran(folder, f"ended-r{at}s")) >= len(gates), f"{where}: what ran ends\n{following.log}")
    began = 1 if row.running_ends else 2
    assert ran(folder, f"began-r{at}s") == sorted(began * [f"began-{g}-0" for g in gates]), f"{where}: uncharged"
    assert ran(folder, f"ended-r{at}s") == [f"ended-{g}-0" for g in gates], f"{where}: once each"
    assert ran(folder, f"quick-r{at}w") == everything, f"{where}: once each, uncharged"
    log = worker.log
    assert "Traceback" not in log and "exited with" not in log, f"{where}\n{log}"
    if row.running_ends:
        assert f"Waiting for {len(gates)} running task{'s' * (len(gates) > 1)}: tasks.sit" in log, f"{where}\n{log}"
    eventually(lambda: not children(worker.pid), "no child left")
    return following


@pytest.mark.parametrize("pool", POOLS)
def test_every_way_to_stop_loses_nothing_and_charges_nobody(
    pool: str, stoppable: ModuleType, tmp_path: Path, folder: Path
) -> None:
    # the transport does not know why something comes back: on the second one, every other row
    table = TABLE if os.environ["TEST_BROKER"].startswith("redis") else TABLE[::2]
    workers = [start(pool, tmp_path, table[0])]

    def start_next() -> Worker:
        workers.append(start(pool, tmp_path, table[len(workers) % len(table)]))
        return workers[-1]

    try:
        for at, row in enumerate(table):
            stop_as(row, at, workers[at], pool, stoppable, folder, start_next)
    finally:
        for worker in workers:
            worker.__exit__()


# --- tasks that cannot be stopped ---


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize("kind", ["deaf", "stubborn"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_cold_stop_kills_what_ignores_it_and_charges_nobody(
    pool: str, kind: str, stoppable: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO").wait_ready() as worker:
        getattr(stoppable, kind).delay("gate")
        eventually(lambda: ran(folder, "began-gate"), "the task runs")
        began = time.monotonic()
        code = worker.terminate(signal.SIGQUIT)
        assert time.monotonic() - began < 20, "a second and a little"
        # a solo worker that holds the GIL cannot leave by itself: its keeper kills it
        assert code == (-signal.SIGKILL if (pool, kind) == ("solo", "deaf") else 1), worker.log
    (folder / "gate").touch()
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO").wait_ready() as second:
        eventually(lambda: ran(folder, "ended-gate"), lambda: f"it runs elsewhere\n{second.log}")
    assert ran(folder, "began-") == ["began-gate-0"] * 2 and ran(folder, "ended-") == ["ended-gate-0"]


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize("pool", [p for p in POOLS if p != "solo"])
def test_a_frozen_process_is_waited_for_when_warm_and_killed_when_cold(
    pool: str, stoppable: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        stoppable.sit.delay("gate")
        eventually(lambda: ran(folder, "began-gate"), "the task runs")
        (pid,) = worker.pool_pids()
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it stands still")
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait_log("is stopped (SIGSTOP")
        assert worker.process.poll() is None
        os.kill(worker.pid, signal.SIGQUIT)
        assert worker.process.wait(60) == 1
    (folder / "gate").touch()
    with Worker(tmp_path, "-P", pool, "-c", "1").wait_ready():
        eventually(lambda: ran(folder, "ended-gate"), "it runs elsewhere")
    assert ran(folder, "began-") == ["began-gate-0"] * 2 and ran(folder, "ended-") == ["ended-gate-0"]


# --- odd moments ---


@pytest.mark.parametrize(
    ("pool", "number"),
    [(pool, signal.SIGTERM) for pool in POOLS] + [(p, n) for p in ("prefork", "solo") for n in (signal.SIGQUIT, signal.SIGINT)],
)
def test_a_signal_during_the_start_ends_it(pool: str, number: int, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "import os, pathlib, time\nfrom fastq import FastQ\n"
        f"pathlib.Path({str(folder)!r}, f'importing.{{os.getpid()}}').touch()\n"
        "time.sleep(120)\napp = FastQ('tasks', broker='sqlite:///never.db')\n"
    )
    with Worker(tmp_path, "-P", pool, "-c", "1") as worker:
        eventually(lambda: ran(folder, "importing"), lambda: f"the application is being imported\n{worker.log}")
        assert worker.terminate(number) == (1 if number == signal.SIGQUIT else 0), worker.log
        assert "Traceback" not in worker.log, worker.log
        eventually(lambda: not children(worker.pid), "no child left")


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize("pool", POOLS)
def test_a_signal_while_the_broker_is_not_there_yet_ends_the_start(
    pool: str, stoppable: ModuleType, tmp_path: Path, folder: Path
) -> None:
    url = "redis://127.0.0.1:1/0"
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO", env={"TEST_BROKER": url}) as worker:
        worker.wait_log("Trying again in")
        assert worker.terminate() == 0, worker.log
        assert "Traceback" not in worker.log, worker.log


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize("pool", POOLS)
def test_term_twice_in_an_instant_is_one_warm_stop(pool: str, stoppable: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        result = stoppable.wait_for.delay("gate")
        eventually(lambda: ran(folder, "waiting-gate"), "the task runs")
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait_log(WARM)
        os.kill(worker.pid, signal.SIGTERM)
        time.sleep(0.1)
        (folder / "gate").touch()
        assert worker.process.wait(60) == 0, worker.log
        assert result.get(timeout=30) == "gate" and ran(folder, "wait") == ["waited-gate", "waiting-gate"]


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("pool", "number", "code"),
    [(pool, signal.SIGTERM, 0) for pool in POOLS]
    + [(pool, number, code) for pool in ("prefork", "solo") for number, code in ((signal.SIGINT, 0), (signal.SIGQUIT, 1))],
)
def test_a_signal_to_all_processes_at_once_is_one_stop(
    pool: str, number: int, code: int, stoppable: ModuleType, tmp_path: Path, folder: Path
) -> None:
    """A terminal signals its foreground processes, systemd those of a service."""
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        stoppable.sit.delay("gate")
        eventually(lambda: ran(folder, "began-gate"), "the task runs")
        os.killpg(worker.pid, number)
        worker.wait_log(COLD if code else WARM)
        if not code:
            (folder / "gate").touch()
        assert worker.process.wait(60) == code, worker.log
        assert "Traceback" not in worker.log and "exited with" not in worker.log, worker.log
        assert len(ran(folder, "ended-")) == 1 - code
        eventually(lambda: not children(worker.pid), "no child left")


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize("pool", [p for p in POOLS if p != "solo"])
def test_term_to_one_pool_process_lets_it_finish_and_replaces_it(
    pool: str, stoppable: ModuleType, tmp_path: Path, folder: Path
) -> None:
    sit = stoppable.sit_async if pool == "asyncio" else stoppable.sit
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        sit.delay("gate")
        eventually(lambda: ran(folder, "began-gate"), "the task runs")
        (pid,) = worker.pool_pids()
        os.kill(pid, signal.SIGTERM)
        stoppable.quick.delay_many([(f"later{i}",) for i in range(5)])
        (folder / "gate").touch()
        eventually(lambda: len(ran(folder, "quick-")) == 5, lambda: f"another goes on\n{worker.log}")
        eventually(lambda: worker.pool_pids() not in ([pid], []), "the process was replaced")
        assert worker.terminate() == 0
        assert "exited with" not in worker.log
    assert ran(folder, "began-") == ["began-gate-0"] and ran(folder, "ended-") == ["ended-gate-0"]
    assert ran(folder, "quick-") == [f"quick-later{i}-0" for i in range(5)]


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_process_that_a_task_forks_can_be_terminated_and_the_worker_goes_on(
    pool: str, stoppable: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        stoppable.mother.delay("m")
        stoppable.quick.delay("after")
        eventually(lambda: "quick-after-0" in ran(folder, "quick-"), lambda: f"the worker goes on\n{worker.log}")
        assert ran(folder, "quick-m") == [f"quick-m{-signal.SIGTERM}-0"]
        assert WARM not in worker.log


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "asyncio", "solo"])
def test_a_supervisor_killed_during_a_warm_stop_loses_nothing(
    pool: str, stoppable: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        stoppable.sit.delay("gate")
        eventually(lambda: ran(folder, "began-gate"), "the task runs")
        stoppable.quick.delay_many([(f"later{i}",) for i in range(5)])
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait_log(WARM)
        family = children(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
        worker.process.wait(60)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), "its processes end with it")
    (folder / "gate").touch()
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as second:
        eventually(
            lambda: ran(folder, "ended-gate") and len(ran(folder, "quick-")) == 5, lambda: f"all runs elsewhere\n{second.log}"
        )
    assert ran(folder, "quick-") == [f"quick-later{i}-0" for i in range(5)], "what had not started is not charged"
    # nobody was left to say who ran: as for a lost node
    assert ran(folder, "ended-") == [f"ended-gate-{0 if pool == 'solo' and ran(folder, 'began-gate-1') == [] else 1}"]


# --- without the broker ---


@pytest.mark.parametrize("pool", POOLS)
def test_a_warm_stop_without_a_broker_ends_within_bounds_and_says_what_it_could_not_settle(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        for name, value in (("TEST_BROKER", server.url), ("TEST_FOLDER", str(folder)), ("TEST_LEASE", "2")):
            monkeypatch.setenv(name, value)
        (tmp_path / "tasks.py").write_text(TASKS + MORE)

        def call(name: str, argument: str) -> None:
            command = Worker.command(tmp_path, "call", name, "-a", f'["{argument}"]')
            assert command.returncode == 0, command.stderr

        call("tasks.sit", "gate")
        with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
            eventually(lambda: ran(folder, "began-gate"), "the task runs")
            call("tasks.quick", "later")
            server.kill(signal.SIGKILL)
            os.kill(worker.pid, signal.SIGTERM)
            worker.wait_log(WARM)
            (folder / "gate").touch()
            eventually(lambda: ran(folder, "ended-gate"), "it is finished")
            began = time.monotonic()
            assert worker.process.wait(60) == 1, worker.log
            assert time.monotonic() - began < 20, f"a lease (2 s) and a little\n{worker.log}"
            assert "could not be settled" in worker.log and "could not be handed back" in worker.log, worker.log
        server.start()
        with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as second:
            eventually(lambda: len(ran(folder, "ended-")) == 2 and ran(folder, "quick-"), lambda: f"nothing is lost\n{second.log}")
            assert second.terminate() == 0


@pytest.mark.parametrize("pool", ["prefork", "gevent", "solo"])
def test_a_warm_stop_with_a_silent_broker_ends_within_bounds(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    with RedisServer(tmp_path / "redis") as server:
        for name, value in (("TEST_BROKER", server.url), ("TEST_FOLDER", str(folder)), ("TEST_LEASE", "2")):
            monkeypatch.setenv(name, value)
        (tmp_path / "tasks.py").write_text(TASKS + MORE)
        assert Worker.command(tmp_path, "call", "tasks.sit", "-a", '["gate"]').returncode == 0
        with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
            eventually(lambda: ran(folder, "began-gate"), "the task runs")
            server.kill(signal.SIGSTOP)
            (folder / "gate").touch()
            eventually(lambda: ran(folder, "ended-gate"), "it is finished")
            began = time.monotonic()
            assert worker.terminate() == 1, worker.log
            took_s = time.monotonic() - began
            assert took_s < 30, f"a few times what an answer may take\n{worker.log}"
            server.kill(signal.SIGCONT)
        with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as second:
            # what was sent last may have been carried out without an answer: then it is settled
            with contextlib.closing(open_inspector(server.url, TransportOptions())) as inspector:
                eventually(
                    lambda: not any(inspector.depth("default").values()), lambda: f"nothing waits, nothing is leased\n{second.log}"
                )
            assert second.terminate() == 0
        assert len(ran(folder, "ended-")) in (1, 2)


@pytest.mark.parametrize("pool", ["prefork", "gevent", "solo"])
def test_a_broker_that_comes_back_during_a_warm_stop_gets_the_outcome(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    with RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        for name, value in (("TEST_BROKER", server.url), ("TEST_FOLDER", str(folder)), ("TEST_LEASE", "15")):
            monkeypatch.setenv(name, value)
        (tmp_path / "tasks.py").write_text(TASKS + MORE)
        assert Worker.command(tmp_path, "call", "tasks.sit", "-a", '["gate"]').returncode == 0
        with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
            eventually(lambda: ran(folder, "began-gate"), "the task runs")
            server.kill(signal.SIGKILL)
            os.kill(worker.pid, signal.SIGTERM)
            (folder / "gate").touch()
            eventually(lambda: ran(folder, "ended-gate"), "it is finished")
            server.start()
            assert worker.process.wait(60) == 0, worker.log
        with server.client() as client:
            left = {key.decode() for key in client.scan_iter("*")}
            assert not [key for key in left if "leased" in key or "ready" in key], left
