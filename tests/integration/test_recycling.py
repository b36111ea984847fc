"""Processes that are replaced after so many tasks, or when they have grown: nothing is lost, or runs twice, and no slot is idle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from tests.integration.conftest import TASKS, ran
from tests.workers import Worker, children, eventually

MORE = '''

LEAKED = []


def resident_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


@app.task
def leak(i, mib):
    """Keep so much memory, and say how much there is."""
    LEAKED.append(b"x" * (mib << 20))
    effect(f"leak-{i}")
    return os.getpid(), resident_kib()


@app.task
def count(i):
    effect(f"count-{i}")
    return os.getpid()


@app.task
async def hold_async(name):
    effect(f"holding-{name}-{os.getpid()}")
    while not os.path.exists(os.path.join(FOLDER, name)):
        await asyncio.sleep(0.01)
    return name
'''

#: pools whose processes have many slots
ROOMY = ("threads", "gevent", "eventlet", "asyncio")
FORKED = ("prefork", *ROOMY)

ONE_BROKER = pytest.mark.parametrize("broker_url", ["redis"], indirect=True)

#: more than an application needs that has done nothing yet
LIMIT_KIB = 200 * 1024


@pytest.fixture
def module(tasks: ModuleType, tmp_path: Path) -> ModuleType:
    (tmp_path / "tasks.py").write_text(TASKS + MORE)
    exec(compile(MORE, str(tmp_path / "tasks.py"), "exec"), tasks.__dict__)
    return tasks


def alive(worker: Worker, pid: int) -> bool:
    return pid in children(worker.pid)


@pytest.mark.parametrize("pool", FORKED)
def test_under_load_a_process_is_replaced_every_20_tasks_and_each_task_runs_once(
    pool: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    number = 200
    slots = "2" if pool == "prefork" else "5"
    with Worker(tmp_path, "-P", pool, "-c", slots, "--max-tasks-per-child", "20", "-l", "INFO").wait_ready() as worker:
        pids = Counter(r.get(timeout=60) for r in module.count.delay_many([(i,) for i in range(number)]))
        assert len(ran(folder, "count-")) == number, "each ran once"
        assert max(pids.values()) <= 20, pids
        assert len(pids) >= number // 20
        assert worker.terminate() == 0
        assert "exited with" not in worker.log and "Traceback" not in worker.log
        assert "ends (max tasks), another takes its place" in worker.log


@pytest.mark.parametrize("pool", FORKED)
def test_a_process_that_has_grown_past_its_limit_is_replaced(pool: str, module: ModuleType, tmp_path: Path, folder: Path) -> None:
    """Each task leaves 60 MiB behind."""
    number = 12
    arguments = ("-P", pool, "-c", "1" if pool == "prefork" else "2", "--max-memory-per-child", str(LIMIT_KIB), "-l", "INFO")
    with Worker(tmp_path, *arguments).wait_ready() as worker:
        found = [module.leak.delay(i, 60).get(timeout=60) for i in range(number)]
        assert len(ran(folder, "leak-")) == number, "each ran once"
        assert len({pid for pid, _ in found}) >= 3, found
        for pid, kib in found:
            assert kib < LIMIT_KIB + (60 << 10) + (30 << 10), "over the limit it takes no more tasks"
            over = [k for p, k in found if p == pid and k > LIMIT_KIB + 1024]
            assert len(over) <= 1, "and only the last of its tasks found it above"
        worker.wait_log("ends (max memory), another takes its place")
        assert worker.terminate() == 0
        assert "exited with" not in worker.log


@ONE_BROKER
def test_a_limit_below_what_the_application_needs_lets_every_process_run_a_task(
    module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", "prefork", "-c", "1", "--max-memory-per-child", "1", "-l", "INFO").wait_ready() as worker:
        pids = [module.count.delay(i).get(timeout=60) for i in range(5)]
        assert len(set(pids)) == 5 and len(ran(folder, "count-")) == 5
        assert worker.terminate() == 0


@ONE_BROKER
def test_the_setting_does_what_the_option_does(module: ModuleType, tmp_path: Path) -> None:
    with Worker(tmp_path, "-P", "threads", "-c", "1", "-l", "INFO", "worker_max_memory_per_child=1").wait_ready() as worker:
        assert len({module.count.delay(i).get(timeout=60) for i in range(3)}) == 3
        assert worker.terminate() == 0


@ONE_BROKER
@pytest.mark.parametrize("pool", ROOMY)
@pytest.mark.parametrize("limit", ["tasks", "memory"])
def test_while_a_process_drains_its_successor_works(
    pool: str, limit: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    """A process of many slots may drain for as long as its longest task runs; its other slots would be idle for as long."""
    option = ("--max-tasks-per-child", "3") if limit == "tasks" else ("--max-memory-per-child", "1")
    hold = module.hold_async if pool == "asyncio" else module.hold
    with Worker(tmp_path, "-P", pool, "-c", "4", *option, "-l", "INFO").wait_ready() as worker:
        held = hold.delay("gate")
        eventually(lambda: ran(folder, "holding-gate-"), "the long task running")
        old = int(ran(folder, "holding-gate-")[0].rpartition("-")[2])
        number = 8 if limit == "tasks" else 4  # with so low a limit of memory every task costs a process
        pids = [module.count.delay(i).get(timeout=60) for i in range(number)]
        assert pids[0] == old and pids[-1] != old, pids
        assert alive(worker, old), "it still runs the long task"
        # its successors are spent, too, sooner or later: there are two processes at most
        assert len(worker.pool_pids()) <= 2
        (folder / "gate").touch()
        assert held.get(timeout=60) == "gate"
        eventually(lambda: not alive(worker, old), "the old process gone")
        assert old not in [module.count.delay(number + i).get(timeout=60) for i in range(number)]
        assert len(ran(folder, "count-")) == 2 * number and len(ran(folder, "holding-")) == 1
        assert worker.terminate() == 0
        assert "exited with" not in worker.log


@ONE_BROKER
def test_a_prefork_process_is_replaced_when_it_has_ended_so_that_no_more_run_than_allowed(
    module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", "prefork", "-c", "1", "--max-tasks-per-child", "1", "-l", "INFO").wait_ready() as worker:
        held = module.hold.delay("gate")
        other = module.count.delay(0)
        eventually(lambda: ran(folder, "holding-gate-"), "the long task running")
        (pid,) = worker.pool_pids()
        assert not other.ready()
        (folder / "gate").touch()
        assert held.get(timeout=60) == "gate" and other.get(timeout=60) != pid
        assert worker.terminate() == 0


@pytest.mark.parametrize("option", [("--max-tasks-per-child", "3"), ("--max-memory-per-child", "1")])
def test_a_solo_worker_ends_itself_and_says_so(option: tuple[str, str], module: ModuleType, tmp_path: Path, folder: Path) -> None:
    """It has nobody who would replace it: what started it does."""
    for i in range(5):
        module.count.delay(i)
    runs = 3 if option[0] == "--max-tasks-per-child" else 1
    with Worker(tmp_path, "-P", "solo", *option, "-l", "INFO") as worker:
        assert worker.process.wait(60) == 0
        assert "The worker ends (max" in worker.log
    assert runs <= len(ran(folder, "count-")) <= 3
    with Worker(tmp_path, "-P", "solo", "-l", "INFO"):
        eventually(lambda: len(ran(folder, "count-")) == 5, "the rest")
    assert Counter(ran(folder, "count-")) == {f"count-{i}": 1 for i in range(5)}
