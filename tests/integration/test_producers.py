"""Producers as applications use them: forked web servers, several event loops, interpreter exit, many threads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from fastq import exceptions
from tests.integration.conftest import ran
from tests.workers import Worker, eventually


def run_script(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    path = directory / "script.py"
    path.write_text(script)
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}{os.pathsep}{directory}"}
    command = [sys.executable, "-W", "error", str(path)]
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=120)


def test_forked_children_of_a_preloading_server_start_afresh(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    """The parent has connections, an inbox and a producer number in use when it forks; each child starts afresh."""
    script = """
import os, tasks
assert tasks.add.delay(1, 1).get(timeout=30) == 2
pids = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        results = [tasks.mark.delay(f"child-{child}-{i}") for i in range(20)]
        ok = [r.get(timeout=30) for r in results] == [f"child-{child}-{i}" for i in range(20)]
        os._exit(0 if ok else 1)
    pids.append(pid)
assert [tasks.mark.delay(f"parent-{i}").get(timeout=30) for i in range(20)]
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
"""
    with Worker(tmp_path, "-P", "threads", "-c", "4").wait_ready():
        done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(ran(folder, "child-")) == 60 and len(ran(folder, "parent-")) == 20


def test_what_delay_accepted_survives_the_exit_of_the_interpreter(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    script = """
import asyncio, tasks
for i in range(50):
    tasks.mark.delay(f"sync-{i}")
async def main():
    await asyncio.gather(*(tasks.mark.adelay(f"async-{i}") for i in range(50)))
asyncio.run(main())
"""
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    with Worker(tmp_path, "-P", "threads", "-c", "4").wait_ready():
        eventually(lambda: len(ran(folder, "sync-")) == 50 and len(ran(folder, "async-")) == 50, "all run")


def test_several_event_loops_await_results_side_by_side(tasks: ModuleType, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    async def main(base: int) -> None:
        results = [await tasks.add.adelay(base, i) for i in range(20)]
        assert [await r.aget(timeout=30) for r in results] == [base + i for i in range(20)]
        with pytest.raises(ValueError, match="from afar"):
            await (await tasks.fail.adelay("from afar")).aget(timeout=30)

    def loop(base: int) -> None:
        try:
            asyncio.run(main(base))
        except BaseException as exc:  # reported by the main thread
            failures.append(exc)

    with Worker(tmp_path, "-P", "threads", "-c", "4").wait_ready():
        threads = [threading.Thread(target=loop, args=(n * 100,)) for n in range(4)]
        for thread in threads:
            thread.start()
        asyncio.run(main(1000))
        for thread in threads:
            thread.join()
    assert not failures


def test_fifty_threads_share_one_connection(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    results: list[object] = []

    def send(n: int) -> None:
        results.extend([tasks.mark.delay(f"thread-{n}-{i}") for i in range(20)])

    threads = [threading.Thread(target=send, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1000
    with Worker(tmp_path, "-P", "prefork", "-c", "2").wait_ready():
        eventually(lambda: len(ran(folder, "thread-")) == 1000, "all run")
    assert len(set(ran(folder, "thread-"))) == 1000, "each once"


def test_states_are_seen_by_the_caller(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", "threads", "-c", "4").wait_ready():
        result = tasks.progress.delay("p")
        eventually(lambda: ran(folder, "progress-"), "progress written")
        eventually(lambda: result.state == "PROGRESS", "state PROGRESS")
        assert result.info == {"current": 1, "total": 2}
        assert not result.ready()
        with pytest.raises(exceptions.TimeoutError, match=r"The operation timed out\."):
            result.get(timeout=0.05)
        (folder / "p").touch()
        assert result.get(timeout=30) == "done"
        assert result.successful() and result.state == result.status == "SUCCESS"

        tracked = tasks.tracked.delay("t")
        eventually(lambda: tracked.state == "STARTED", "state STARTED")
        (folder / "t").touch()
        assert tracked.get(timeout=30) == "done"

        failed = tasks.fail.delay("oh")
        with pytest.raises(ValueError, match="oh"):
            failed.get(timeout=30)
        assert failed.failed() and "raise ValueError(text)" in failed.traceback
        assert isinstance(failed.get(propagate=False), ValueError)

        assert tasks.ignored.delay().get(timeout=1) is None
        result.forget()
        assert result.state == "PENDING"
        assert tasks.app.AsyncResult(failed.id).state == "FAILURE"

        expired = tasks.add.apply_async((1, 1), countdown=0.3, expires=0.1)
        with pytest.raises(exceptions.TaskRevokedError, match="expired"):
            expired.get(timeout=30)
        assert expired.state == "REVOKED"


def test_a_long_task_holds_up_nothing_behind_it(tasks: ModuleType, tmp_path: Path, folder: Path) -> None:
    """Two processes of one slot, all names known to be short; then one of them turns out long with others behind it."""
    with Worker(tmp_path, "-P", "prefork", "-c", "2").wait_ready():
        for r in tasks.mark.delay_many([(f"warm-{i}",) for i in range(500)]):
            r.get(timeout=30)
        tasks.wait_for.delay("long")
        eventually(lambda: ran(folder, "waiting-long"), "the long task running")
        short = tasks.mark.delay_many([(f"short-{i}",) for i in range(100)])
        assert [r.get(timeout=30) for r in short] == [f"short-{i}" for i in range(100)]
        assert not ran(folder, "waited-long")
        (folder / "long").touch()
