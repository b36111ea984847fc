"""Time limits of real workers on every pool: each cell of the table in docs/limits.md."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fastq.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from tests.integration.conftest import TASKS, ran
from tests.workers import POOLS, Worker, eventually

MORE = '''

import collections
import ctypes
import itertools
from fastq.exceptions import SoftTimeLimitExceeded

if "TEST_MAX_DELIVERIES" in os.environ:
    app.conf.task_max_deliveries = int(os.environ["TEST_MAX_DELIVERIES"])

#: s: nothing is waited for so long unless a limit does not work
LONG_S = 120


def spin(caught=()):
    """Wait in short steps, and do not give up at ``caught``."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except caught:
            effect("caught")


async def spin_async(caught=()):
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        try:
            await asyncio.sleep(LONG_S)
        except caught:
            effect("caught")


@app.task(soft_time_limit=0.5, time_limit=60)
def tidy(name):
    try:
        spin()
    except SoftTimeLimitExceeded as exc:
        effect("tidied-" + name)
        return list(exc.args)


@app.task(soft_time_limit=0.5, time_limit=60)
async def tidy_async(name):
    try:
        await spin_async()
    except SoftTimeLimitExceeded as exc:
        await asyncio.sleep(0.01)
        effect("tidied-" + name)
        return list(exc.args)


@app.task(soft_time_limit=0.5)
def slow(name):
    effect("slow-" + name)
    spin()


@app.task(soft_time_limit=0.5)
async def slow_async(name):
    effect("slow-" + name)
    await spin_async()


@app.task(time_limit=1)
def stubborn(name):
    effect("stubborn-" + name)
    spin(Exception)


@app.task(time_limit=1)
async def stubborn_async(name):
    effect("stubborn-" + name)
    await spin_async(Exception)


def block(s):
    """Compute in C, with the GIL: neither a signal nor another thread gets in. ``s`` 0: for ever."""
    if s:
        ctypes.PyDLL(None).usleep(round(s * 1e6))
    else:
        collections.deque(itertools.repeat(None), maxlen=0)


@app.task(time_limit=1)
def deaf(name, s=0):
    effect("deaf-" + name)
    block(s)


@app.task(time_limit=1)
async def deaf_async(name, s=0):
    effect("deaf-" + name)
    block(s)


@app.task
def patient(name):
    effect("waiting-" + name)
    await_file(name)
    return name


@app.task
async def patient_async(name):
    effect("waiting-" + name)
    while not os.path.exists(os.path.join(FOLDER, name)):
        await asyncio.sleep(0.01)
    return name


@app.task
def unlimited(name):
    effect("unlimited-" + name)
    spin(Exception)


@app.task
def follow(*args):
    effect("follow")


@app.task(time_limit=60, soft_time_limit=30)
def quick(i):
    effect(f"quick-{i}")
    return i
'''

#: what the pool does is the same on every broker; what the supervisor settles is not
ONE_BROKER = pytest.mark.parametrize("broker_url", ["redis"], indirect=True)

#: pools whose process the supervisor kills for a task that cannot be interrupted
KILLING = ("prefork", "gevent", "eventlet", "asyncio")


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def module(tasks: ModuleType, tmp_path: Path) -> ModuleType:
    (tmp_path / "tasks.py").write_text(TASKS + MORE)
    exec(compile(MORE, str(tmp_path / "tasks.py"), "exec"), tasks.__dict__)
    return tasks


@contextlib.contextmanager
def at_work(tmp_path: Path, pool: str, *arguments: str) -> Iterator[Worker]:
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO", *arguments).wait_ready() as worker:
        yield worker


def pid_of(module: ModuleType) -> int:
    return int(module.who.delay().get(timeout=60)[2])


@ONE_BROKER
def test_a_soft_limit_is_raised_in_the_task(pool: str, module: ModuleType, tmp_path: Path, folder: Path) -> None:
    with at_work(tmp_path, pool) as worker:
        pid = pid_of(module)
        for task in (module.tidy, module.tidy_async):
            assert task.delay(task.name).get(timeout=60) == [0.5], "who catches it succeeds"
        assert ran(folder, "tidied-") == ["tidied-tasks.tidy", "tidied-tasks.tidy_async"]
        for task in (module.slow, module.slow_async):
            result = task.delay(task.name)
            with pytest.raises(SoftTimeLimitExceeded) as caught:
                result.get(timeout=60)
            assert caught.value.args == (0.5,) and result.state == "FAILURE"
            worker.wait_log(f"Soft time limit (0.5s) exceeded for {task.name}[{result.id}]")
        assert len(ran(folder, "slow-")) == 2, "each ran once"
        assert "await asyncio.sleep(LONG_S)" in str(result.traceback), "it says where the task was"
        if pool != "prefork":
            assert pid_of(module) == pid
        assert "exited with" not in worker.log


def test_a_hard_limit_ends_a_task_that_refuses_to_end(pool: str, module: ModuleType, tmp_path: Path, folder: Path) -> None:
    with at_work(tmp_path, pool, *(("-c", "1") if pool == "prefork" else ())) as worker:
        pid = pid_of(module)
        for task in (module.stubborn, module.stubborn_async):
            result = task.delay(task.name)
            with pytest.raises(TimeLimitExceeded) as caught:
                result.get(timeout=60)
            assert caught.value.args == (1,) and result.state == "FAILURE"
            worker.wait_log(f"Hard time limit (1s) exceeded for {task.name}[{result.id}]")
        assert (pid_of(module) == pid) is (pool != "prefork")
        assert ran(folder, "stubborn-") == ["stubborn-tasks.stubborn", "stubborn-tasks.stubborn_async"], "each ran once"
        assert worker.log.count("exited with") == (2 if pool == "prefork" else 0)


@pytest.mark.parametrize("pool", KILLING, indirect=True)
def test_a_process_that_is_blocked_past_a_hard_limit_is_killed_and_nothing_else_is_lost(
    pool: str, module: ModuleType, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_MAX_DELIVERIES", "1")  # whoever is charged for the death is a dead letter at once
    deaf = module.deaf_async if pool == "asyncio" else module.deaf
    patient = module.patient_async if pool == "asyncio" else module.patient
    with at_work(tmp_path, pool) as worker:
        neighbour = patient.delay("gate")
        eventually(lambda: ran(folder, "waiting-"), "the neighbour runs")
        result = deaf.apply_async(("a",), link_error=module.follow.si())
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=60)
        worker.wait_log(f"Hard time limit (1s) exceeded for {deaf.name}[{result.id}]")
        if pool != "prefork":
            eventually(lambda: len(ran(folder, "waiting-")) == 2, "the neighbour runs again")
        (folder / "gate").touch()
        assert neighbour.get(timeout=60) == "gate"
        eventually(lambda: ran(folder, "follow"), "what follows a failure runs")
        assert ran(folder, "deaf-") == ["deaf-a"], "it ran once"
        assert ran(folder, "follow") == ["follow"]
        assert "WorkerLostError" not in worker.log


@pytest.mark.parametrize("pool", ["solo"], indirect=True)
def test_a_blocked_solo_worker_is_killed_by_its_keeper_which_settles_the_task(
    pool: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with at_work(tmp_path, pool) as worker:
        result = module.deaf.delay("a")
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=60)
        assert worker.process.wait(60) == -9
    with at_work(tmp_path, pool):
        assert module.add.delay(1, 1).get(timeout=60) == 2
    assert ran(folder, "deaf-") == ["deaf-a"], "it ran once"


@ONE_BROKER
@pytest.mark.parametrize("pool", ["threads"], indirect=True)
def test_a_blocked_thread_fails_when_it_comes_back_and_its_process_lives(
    pool: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with at_work(tmp_path, pool) as worker:
        pid = pid_of(module)
        for deaf in (module.deaf, module.deaf_async):
            with pytest.raises(TimeLimitExceeded):
                deaf.delay(deaf.name, 2.5).get(timeout=60)
        assert pid_of(module) == pid
        assert ran(folder, "deaf-") == ["deaf-tasks.deaf", "deaf-tasks.deaf_async"]
        assert "exited with" not in worker.log


@ONE_BROKER
def test_the_limits_of_a_call_win_over_those_of_the_task(module: ModuleType, tmp_path: Path, folder: Path) -> None:
    with at_work(tmp_path, "prefork"):
        with pytest.raises(TimeLimitExceeded) as hard:
            module.unlimited.apply_async(("a",), time_limit=0.5).get(timeout=60)
        assert hard.value.args == (0.5,)
        with pytest.raises(SoftTimeLimitExceeded) as soft:
            module.slow.apply_async(("a",), soft_time_limit=0.75).get(timeout=60)
        assert soft.value.args == (0.75,)
        assert ran(folder, "unlimited-") == ["unlimited-a"]


@ONE_BROKER
def test_the_limits_of_the_command_line_are_those_of_tasks_without(module: ModuleType, tmp_path: Path, folder: Path) -> None:
    with at_work(tmp_path, "threads", "--time-limit", "1"):
        with pytest.raises(TimeLimitExceeded):
            module.unlimited.delay("a").get(timeout=60)
        assert ran(folder, "unlimited-") == ["unlimited-a"]


@ONE_BROKER
def test_many_short_tasks_with_limits_run_once_each(pool: str, module: ModuleType, tmp_path: Path, folder: Path) -> None:
    with at_work(tmp_path, pool) as worker:
        assert [r.get(timeout=60) for r in module.quick.delay_many([(i,) for i in range(200)])] == list(range(200))
        assert len(ran(folder, "quick-")) == 200
        assert worker.terminate() == 0
        assert "Traceback" not in worker.log
