"""How soon the very tasks of a killed process run again; the times are printed, the bounds leave room for busy machines.

``benchmarks/recovery.py`` measures the same over many kills, on a quiet machine, against what is promised.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.integration.conftest import ran
from tests.workers import POOLS, Worker, children, eventually

LEASE_S = 2.0
#: a green process is a fresh interpreter: 0.3 s of CPU time, which took 2.4 s with five times as much work under way as CPUs
BUSY_S = {"gevent": 5.0, "eventlet": 5.0}


def holders(folder: Path, name: str) -> list[int]:
    """Return the pids of the processes that have begun the task, one per run."""
    return [int(effect.rpartition("-")[2]) for effect in ran(folder, f"holding-{name}-")]


@pytest.mark.parametrize("pool", [p for p in POOLS if p != "solo"])
def test_a_killed_childs_task_runs_again_at_once(pool: str, tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO").wait_ready() as worker:
        result = tasks.hold.delay("a")
        eventually(lambda: holders(folder, "a"), "the task running")
        os.kill(holders(folder, "a")[0], signal.SIGKILL)
        killed = time.monotonic()
        eventually(lambda: len(holders(folder, "a")) == 2, lambda: f"the task running again\n{worker.log[-2000:]}", every_s=0.002)
        again_s = time.monotonic() - killed
        print(f"{pool}: running again {again_s * 1000:.0f} ms after the kill")
        (folder / "a").touch()
        assert result.get(timeout=60) == "a"
        assert len(set(holders(folder, "a"))) == 2
        assert again_s < BUSY_S.get(pool, 2.5), "a second is promised on a machine that is not overloaded"


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)  # the embedded broker is one host's
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_node_on_another_host_takes_over_within_two_leases(pool: str, tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    """The survivor was there before: it sees only that the dead node's leases stand still."""
    again_s = take_over(pool, tasks, tmp_path, folder, other_host(tmp_path))
    assert again_s > 0.6 * LEASE_S, "nobody is taken for dead before three looks at a lease that stands still"
    assert again_s < 2 * LEASE_S + 3, "two leases, and some for a busy machine"


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_node_on_the_same_host_takes_over_within_a_lease(pool: str, tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    """It sees that the processes are gone as soon as their leases are late."""
    again_s = take_over(pool, tasks, tmp_path, folder, {})
    assert again_s < LEASE_S + 3, "a lease, and some for a busy machine"


def take_over(pool: str, tasks: ModuleType, tmp_path: Path, folder: Path, victims_env: dict[str, str]) -> float:
    """Kill a node that holds two tasks, beside one that holds none; return after how long both run again."""
    common = ("-P", pool, "-c", "2", "-l", "INFO", "-n")
    with Worker(tmp_path, *common, "first@%h", env=victims_env).wait_ready() as first:
        results = [tasks.hold.delay(name) for name in ("a", "b")]
        eventually(lambda: holders(folder, "a") and holders(folder, "b"), "both tasks running")
        with Worker(tmp_path, *common, "second@%h").wait_ready() as second:
            first.kill_all()
            killed = time.monotonic()
            eventually(
                lambda: len(holders(folder, "a")) == 2 and len(holders(folder, "b")) == 2,
                f"both running again\n{second.log[-2000:]}",
                every_s=0.002,
            )
            again_s = time.monotonic() - killed
            print(f"{pool}: both running again {again_s:.2f} s after the kill, lease {LEASE_S:g} s")
            for name in ("a", "b"):
                (folder / name).touch()
            assert [r.get(timeout=60) for r in results] == ["a", "b"]
    return again_s


def other_host(tmp_path: Path) -> dict[str, str]:
    """Return what lets a node believe that it is on a host of its own, so that no other can look at its processes."""
    place = tmp_path / "other_host"
    place.mkdir()
    # not in the interpreters that patch first: there nothing of fastq may be imported yet, and they have no identity
    (place / "sitecustomize.py").write_text(
        "import sys\n"
        "if sys.orig_argv[1:3] == ['-m', 'fastq']:\n"
        "    from fastq.worker import identity\n"
        "    identity._host = lambda: '0123456789ab'\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(place), str(Path(__file__).parents[2])])}


def test_a_task_that_kills_its_process_becomes_a_dead_letter(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    """Three deaths under it, its caller is told why, and its neighbours run."""
    from fastq.exceptions import WorkerLostError

    with Worker(tmp_path, "-P", "prefork", "-c", "2", "-l", "INFO").wait_ready() as worker:
        poison = tasks.die.delay("p")
        neighbours = [tasks.mark.delay(f"neighbour-{i}") for i in range(50)]
        with pytest.raises(WorkerLostError):
            poison.get(timeout=60)
        assert [r.get(timeout=60) for r in neighbours] == [f"neighbour-{i}" for i in range(50)]
        assert len(ran(folder, "dying-p")) == 3
        assert worker.terminate() == 0


def test_max_tasks_per_child_replaces_the_process(tasks: ModuleType, tmp_path: Path) -> None:
    with Worker(tmp_path, "-P", "prefork", "-c", "1", "--max-tasks-per-child", "5", "-l", "INFO").wait_ready() as worker:
        pids = [tasks.who.delay().get(timeout=60)[2] for _ in range(20)]
        assert all(pids.count(pid) == 5 for pid in set(pids)), pids
        assert len(set(pids)) == 4
        assert worker.terminate() == 0


@pytest.mark.parametrize("pool", POOLS)
def test_processes_die_with_their_supervisor(pool: str, tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    """Only the supervisor is killed: nobody would renew its processes' leases, so they must not go on."""
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO").wait_ready() as worker:
        result = tasks.hold.delay("a")
        eventually(lambda: holders(folder, "a"), "the task running")
        pids = children(worker.pid)
        assert pids
        os.kill(worker.pid, signal.SIGKILL)
        worker.process.wait(60)
        eventually(lambda: not any(alive(pid) for pid in pids), f"the children of the killed supervisor gone: {pids}")
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO").wait_ready():
        eventually(lambda: len(holders(folder, "a")) == 2, "the task running again")
        (folder / "a").touch()
        assert result.get(timeout=60) == "a"


def test_a_solo_worker_ends_with_its_lease_keeper(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    """Else its task would go on here after its lease has run out, and run a second time elsewhere at the same time."""
    with Worker(tmp_path, "-P", "solo", "-l", "INFO", env=other_host(tmp_path)).wait_ready() as worker:
        result = tasks.hold.delay("a")
        eventually(lambda: holders(folder, "a"), "the task running")
        (keeper,) = children(worker.pid)
        os.kill(keeper, signal.SIGKILL)
        assert worker.process.wait(60) == 1
        assert "this one ends in the middle of its tasks" in worker.log
        with Worker(tmp_path, "-P", "solo", "-l", "INFO").wait_ready():
            eventually(lambda: len(holders(folder, "a")) == 2, "the task running again")
            (folder / "a").touch()
            assert result.get(timeout=60) == "a"


def alive(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
