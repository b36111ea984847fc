"""Processes that die of their tasks, of their start, or with everything else: every task ends, and neighbours run normally."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fastq import chord
from fastq.exceptions import ChordError, WorkerLostError
from tests.chaos.harmful import MORE, add_tasks, dead_letters, node, nursery_of, slots
from tests.chaos.test_recovery import holders
from tests.integration.conftest import TASKS, ran
from tests.workers import POOLS, Worker, children, eventually

SEED = int(os.environ.get("FASTQ_CHAOS_SEED") or 1)
ROUNDS = 5
DELIVERIES = 3

#: how a process ends -> what the caller reads
TEXTS = {
    "exit": "ended with exit code 3, ended from within",
    "segfault": "ended with signal 11 (SIGSEGV), a crash in C code",
    "kill": "ended with signal 9 (SIGKILL), killed: the system may have been out of memory",
    "abort": "ended with signal 6 (SIGABRT), aborted",
}
#: each way once, each pool once; gevent and eventlet processes take half a second to start
ENDS = [("redis", "prefork", how) for how in TEXTS] + [
    ("redis", "threads", "segfault"), ("redis", "asyncio", "abort"), ("redis", "gevent", "kill"), ("redis", "eventlet", "exit"),
    ("sqlite", "prefork", "kill"), ("sqlite", "gevent", "segfault"),
]  # fmt: skip

FORKED = [pool for pool in POOLS if pool != "solo"]

#: what the supervisor does is the same on every broker where nothing is settled or released in a new way
ONE_BROKER = pytest.mark.parametrize("broker_url", ["redis"], indirect=True)


@pytest.fixture
def module(tasks: ModuleType, tmp_path: Path) -> ModuleType:
    return add_tasks(tasks, tmp_path)


@pytest.mark.parametrize(("broker_url", "pool", "how"), ENDS, indirect=["broker_url"])
def test_a_task_that_ends_its_process_every_time_is_a_dead_letter_and_its_caller_is_told_why(
    pool: str, how: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with node(tmp_path, pool) as worker:
        began = time.monotonic()
        alone = module.crash.apply_async(("alone", how), link_error=module.after_error.si())
        with pytest.raises(WorkerLostError) as caught:
            alone.get(timeout=60)
        print(f"{pool}, {how}: a dead letter after {time.monotonic() - began:.2f} s: {caught.value}")
        assert TEXTS[how] in str(caught.value) and "This was the 3rd death" in str(caught.value), caught.value
        eventually(lambda: ran(folder, "after-error"), "the errback runs")
        body = chord([module.add.s(1, 1), module.crash.s("member", how)], module.total.s()).delay()
        with pytest.raises(ChordError, match="WorkerLostError"):
            body.get(timeout=60, follow_parents=False)
        assert module.add.delay(1, 1).get(timeout=60) == 2
        assert len(ran(folder, "crash-alone")) == len(ran(folder, "crash-member")) == DELIVERIES
        assert len(ran(folder, "after-error")) == 1 and not ran(folder, "total")
        assert [letter.reason for letter in dead_letters(module)] == 2 * ["worker-lost"]
        assert {letter.detail["deliveries"] for letter in dead_letters(module)} == {DELIVERIES}
        assert worker.terminate() == 0


def test_a_task_that_ends_a_solo_worker_is_a_dead_letter_after_three_workers(
    module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    lost = module.crash.delay("solo", "kill")
    for _ in range(DELIVERIES):
        with Worker(tmp_path, "-P", "solo", "-l", "INFO") as worker:
            assert worker.process.wait(60) == -signal.SIGKILL
    with node(tmp_path, "solo"):
        with pytest.raises(WorkerLostError, match=r"the process of this task died\. This was the 3rd death"):
            lost.get(timeout=60)
        assert module.add.delay(1, 1).get(timeout=60) == 2
    assert len(ran(folder, "crash-")) == DELIVERIES


@ONE_BROKER
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_task_that_meets_a_limit_of_memory_fails_and_its_process_lives(pool: str, module: ModuleType, tmp_path: Path) -> None:
    with node(tmp_path, pool) as worker:
        pids = worker.pool_pids()
        with pytest.raises(MemoryError):
            module.devour.delay().get(timeout=60)
        assert module.add.delay(1, 1).get(timeout=60) == 2
        assert worker.pool_pids() == pids
        assert not dead_letters(module) or {letter.reason for letter in dead_letters(module)} == {"failed"}


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_task_that_must_not_run_twice_is_a_dead_letter_at_the_first_death(
    pool: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with node(tmp_path, pool):
        with pytest.raises(WorkerLostError, match=r"must not run twice \(acks_late=False"):
            module.crash_once.delay("a").get(timeout=60)
        assert len(ran(folder, "crash-a")) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_waits_behind_a_crash_in_its_batch_is_not_charged(pool: str, module: ModuleType, tmp_path: Path, folder: Path) -> None:
    """One slot that holds a batch of one name, measured short: one of them kills the process."""
    number, fatal = 300, 150
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready():
        results = module.short.delay_many([(i, fatal) for i in range(number)])
        with pytest.raises(WorkerLostError):
            results[fatal].get(timeout=60)
        assert [r.get(timeout=60) for i, r in enumerate(results) if i != fatal] == [i for i in range(number) if i != fatal]
        assert len(ran(folder, "fatal")) == DELIVERIES
        charged = [name for name in ran(folder, "short-") if not name.endswith("-0")]
        assert not charged, "only what ran is charged"
        assert [letter.reason for letter in dead_letters(module)] == ["worker-lost"]


@ONE_BROKER
@pytest.mark.parametrize("pool", ["threads", "gevent", "eventlet", "asyncio"])
def test_what_runs_beside_a_crash_is_never_a_dead_letter_with_it(
    pool: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    """Nine tasks run beside one that kills their common process: charged twice at most, then each has its last chance alone."""
    beside = module.beside if pool != "asyncio" else module.beside_async
    with node(tmp_path, pool):
        neighbours = [beside.delay(str(i)) for i in range(9)]
        eventually(lambda: len(ran(folder, "beside-")) == 9, "the neighbours running")
        began = time.monotonic()
        lost = module.crash.delay("poison", "kill")
        eventually(lambda: len(ran(folder, "crash-")) >= 2, "the second death")
        (folder / "gate").touch()
        with pytest.raises(WorkerLostError):
            lost.get(timeout=60)
        counts = [r.get(timeout=60) for r in neighbours]
        print(f"{pool}: all over {time.monotonic() - began:.2f} s after the poison came; neighbours charged {sorted(counts)}")
        assert max(counts) <= DELIVERIES - 1
        assert len(ran(folder, "crash-")) == DELIVERIES
        assert [letter.reason for letter in dead_letters(module)] == ["worker-lost"]


@ONE_BROKER
@pytest.mark.parametrize("pool", FORKED)
def test_processes_that_die_while_they_start_cost_no_task_anything(
    pool: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    """Dying in worker_process_init, before and after the node was ready."""
    (folder / "sick").touch()
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO") as worker:
        waiting = module.beside.delay("early")
        eventually(lambda: len(ran(folder, "died-at-start")) >= 2, lambda: f"two deaths at the start\n{worker.log}")
        (folder / "sick").unlink()
        (folder / "gate").touch()
        assert waiting.get(timeout=60) == 0, "nobody is charged"
        worker.wait_ready()
        (folder / "gate").unlink()
        running = module.beside.delay("late")
        eventually(lambda: ran(folder, "beside-late-0"), "it runs")
        (folder / "sick").touch()
        before = len(ran(folder, "died-at-start"))
        os.kill(worker.pool_pids()[0], signal.SIGKILL)
        eventually(lambda: len(ran(folder, "died-at-start")) >= before + 2, "two deaths more")
        (folder / "sick").unlink()
        (folder / "gate").touch()
        assert running.get(timeout=60) == 1, "charged for the one death that it had a part in"
        assert worker.terminate() == 0


@ONE_BROKER
@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_process_that_cannot_import_the_application_any_more_is_tried_again(
    pool: str, module: ModuleType, tmp_path: Path
) -> None:
    """A green process is a fresh interpreter: a deploy in the middle may break its import, and the next one cures it."""
    with node(tmp_path, pool) as worker:
        (tmp_path / "tasks.py").write_text("raise RuntimeError('half deployed')")
        os.kill(worker.pool_pids()[0], signal.SIGKILL)
        worker.wait_log("half deployed")
        (tmp_path / "tasks.py").write_text(TASKS + MORE)
        assert module.add.delay(1, 1).get(timeout=60) == 2


@ONE_BROKER
@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_the_death_of_the_nursery_stops_no_task(pool: str, module: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        held = module.hold.delay("a")
        eventually(lambda: holders(folder, "a"), "the task running")
        os.kill(nursery_of(worker), signal.SIGKILL)
        worker.wait_log("The nursery died")
        os.kill(holders(folder, "a")[0], signal.SIGKILL)
        killed = time.monotonic()
        eventually(lambda: len(holders(folder, "a")) == 2, lambda: f"the task running again\n{worker.log}")
        print(f"{pool}: running again {time.monotonic() - killed:.2f} s after nursery and process were killed")
        (folder / "a").touch()
        assert held.get(timeout=60) == "a"
        assert worker.terminate() == 0


@pytest.mark.parametrize(
    ("broker_url", "pool"),
    [*[("redis", pool) for pool in POOLS], ("sqlite", "prefork"), ("sqlite", "gevent"), ("sqlite", "solo")],
    indirect=["broker_url"],
)
def test_every_process_of_a_node_killed_in_any_order_loses_nothing(
    pool: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    """Five nodes one after another, each killed process by process while it works."""
    chance = random.Random(f"{SEED} {pool}")
    number = 60 if pool == "solo" else 150
    results = module.work.delay_many([(i, 10) for i in range(number)])
    gaps: list[float] = []
    for part in range(1, ROUNDS + 1):
        with Worker(tmp_path, "-P", pool, "-c", slots(pool), "-l", "INFO").wait_ready() as worker:
            eventually(lambda part=part: len(ran(folder, "work-")) >= part * number // 8, "some work")  # type: ignore[misc]
            pids = [worker.pid, *children(worker.pid)]
            chance.shuffle(pids)
            for pid in pids:
                kill(pid)
                gaps.append(chance.choice((0, 0, 0.002, 0.02)))
                time.sleep(gaps[-1])  # long enough for another of them to act on the death, or not
            worker.process.wait(60)
            worker.kill_all()  # what was started meanwhile
    print(f"seed {SEED}, {pool}: gaps {gaps}")
    with node(tmp_path, pool):
        ends = [ended(r.get) for r in results]
    lost = ends.count("WorkerLostError")
    assert set(ends) <= {"done", "WorkerLostError"}
    assert len(dead_letters(module)) == lost, "each is done, or a dead letter"
    assert {f"work-{i}" for i, end in enumerate(ends) if end == "done"} <= set(ran(folder, "work-"))
    assert lost <= 10, "three of five kills under one task are rare"


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it died with another


def ended(get: Callable[..., object]) -> str:
    try:
        get(timeout=60)
    except WorkerLostError as exc:
        return type(exc).__name__
    return "done"
