"""Revocations that end tasks that run, with real workers on every pool: each cell of the table in docs/revoking.md."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastq import chord
from fastq.exceptions import ChordError, TaskRevokedError
from tests.integration.conftest import TASKS, ran
from tests.workers import POOLS, Worker, eventually

MORE = """

from fastq import signals
from fastq.exceptions import TaskRevokedError

if "TEST_DEAF" in os.environ:
    app.conf.worker_enable_remote_control = False

#: s: nothing is waited for so long unless nothing ends it
LONG_S = 120


@signals.task_revoked.connect
def told(request=None, terminated=None, signum=None, expired=None, **_):
    effect(f"told-{request.id}-{terminated}-{int(signum or 0)}-{expired}")


def spin(caught=()):
    end = time.monotonic() + LONG_S
    while True:
        try:
            while time.monotonic() < end and not os.path.exists(os.path.join(FOLDER, "enough")):
                time.sleep(0.01)
            return
        except caught:
            pass


# it has begun when nothing can come any more before it is ready to be ended
@app.task
def endless(name):
    try:
        effect("began-" + name)
        spin()
    except Exception:
        effect("swallowed-" + name)
    finally:
        effect("finally-" + name)


@app.task
async def endless_async(name):
    try:
        effect("began-" + name)
        await asyncio.sleep(LONG_S)
    finally:
        effect("finally-" + name)


@app.task
def graceful(name):
    try:
        effect("began-" + name)
        spin()
    except TaskRevokedError:
        return "tidied"


@app.task(max_retries=None)
def stubborn(name):
    effect("began-" + name)
    spin(BaseException)
    return "never mind"
"""

#: what the pool does is the same on every broker
ONE_BROKER = pytest.mark.parametrize("broker_url", ["redis"], indirect=True)

#: pools of which a task that refuses to end is left alone, as its process has others
NEIGHBOURLY = ("threads", "gevent", "eventlet", "solo", "asyncio")


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def module(tasks: ModuleType, tmp_path: Path) -> ModuleType:
    (tmp_path / "tasks.py").write_text(TASKS + MORE)
    exec(compile(MORE, str(tmp_path / "tasks.py"), "exec"), tasks.__dict__)
    return tasks


def begin(task: Any, name: str, folder: Path) -> Any:
    result = task.delay(name)
    eventually(lambda: ran(folder, "began-" + name), f"{name} to start")
    return result


@ONE_BROKER
def test_a_running_task_ends_and_its_finally_runs(pool: str, module: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        # SIGKILL is for the process of a task, which is its own on prefork only
        for task, signum in ((module.endless, 15), (module.endless_async, 15 if pool == "prefork" else 9)):
            result = begin(task, task.name, folder)
            result.revoke(terminate=True, signal=signum)
            with pytest.raises(TaskRevokedError, match="terminated"):
                result.get(timeout=30)
            assert result.state == "REVOKED"
            eventually(lambda id=result.id: ran(folder, f"told-{id}-"), "the signal")  # type: ignore[misc]
            assert ran(folder, f"told-{result.id}-") == [f"told-{result.id}-True-{signum}-False"]
            worker.wait_log(f"Task {task.name}[{result.id}] was terminated")
            eventually(lambda name=task.name: f"finally-{name}" in ran(folder, "finally-"), "its finally")  # type: ignore[misc]
        assert not ran(folder, "swallowed-")
        gentle = begin(module.graceful, "gentle", folder)
        assert gentle.revoke(terminate=True, signal="USR1", wait=True) is None
        assert gentle.get(timeout=30) == "tidied", "a task that catches it has an end of its own"
        assert module.add.delay(1, 2).get(timeout=30) == 3, "the slot goes on"
        assert "exited with" not in worker.log


@ONE_BROKER
@pytest.mark.parametrize("pool", NEIGHBOURLY)
def test_what_refuses_to_end_goes_on_and_that_is_said(pool: str, module: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        result = begin(module.stubborn, "stubborn", folder)
        result.revoke(terminate=True)
        worker.wait_log(f"Task tasks.stubborn[{result.id}] was revoked with SIGTERM, and goes on")
        (folder / "enough").touch()
        assert result.get(timeout=30) == "never mind"
        assert "exited with" not in worker.log


def test_a_prefork_process_is_killed_for_what_refuses_to_end(module: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", "prefork", "-c", "1", "-l", "INFO").wait_ready() as worker:
        stubborn = begin(module.stubborn, "stubborn", folder)
        behind = module.mark.delay("behind")
        body = chord([module.stubborn.s("member")])(module.add.s(1))
        stubborn.revoke(terminate=True)
        with pytest.raises(TaskRevokedError, match="terminated"):
            stubborn.get(timeout=30)
        eventually(lambda: ran(folder, "began-member"), "the member to start")
        body.parent[0].revoke(terminate=True, signal="SIGKILL")
        with pytest.raises(TaskRevokedError, match="terminated"):
            body.parent[0].get(timeout=30)
        with pytest.raises(ChordError):
            body.get(timeout=30, follow_parents=False)
        assert behind.get(timeout=30) == "behind"
        worker.wait_log("killed: its task was revoked")
        assert ran(folder, "began-") == ["began-member", "began-stubborn"], "none of them ran again"


@ONE_BROKER
def test_a_node_that_hears_no_requests_ends_them_at_its_next_renewal(module: ModuleType, tmp_path: Path, folder: Path) -> None:
    env = {**os.environ, "TEST_DEAF": "1", "TEST_LEASE": "3"}
    with Worker(tmp_path, "-P", "threads", "-c", "4", "-l", "INFO", env=env).wait_ready() as worker:
        results = [begin(module.endless, f"endless-{i}", folder) for i in range(2)]
        module.app.control.terminate([result.id for result in results], signal="TERM")
        for result in results:
            with pytest.raises(TaskRevokedError, match="terminated"):
                result.get(timeout=30)
        stamped = module.endless.s("stamped")
        stamped.stamp(customer="acme")
        running = stamped.delay()
        eventually(lambda: ran(folder, "began-stamped"), "the stamped task to start")
        running.revoke_by_stamped_headers({"customer": ["acme", "other"]}, terminate=True)
        with pytest.raises(TaskRevokedError, match="terminated"):
            running.get(timeout=30)
        again = stamped.delay()
        with pytest.raises(TaskRevokedError):
            again.get(timeout=30)
        assert ran(folder, "began-stamped") == ["began-stamped"]
        assert module.add.delay(1, 2).get(timeout=30) == 3
        assert "goes on" not in worker.log
