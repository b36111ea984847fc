"""What the application is told of tasks whose process was killed, with real workers on the pools where that happens."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from fastq.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from tests.integration.conftest import TASKS, ran
from tests.workers import Worker, eventually

MORE = """

import collections
import itertools
import signal

from fastq import Task, signals


@signals.task_revoked.connect
def revoked(sender=None, request=None, terminated=None, signum=None, expired=None, **_):
    effect(f"revoked-{sender.name}-{request.id}-{request.args}-{terminated}-{signum!r}-{expired}")


@signals.task_failure.connect
def failed(sender=None, task_id=None, exception=None, args=None, kwargs=None, einfo=None, **_):
    effect(f"failure-{sender.name}-{task_id}-{args}-{kwargs}-{type(exception).__name__}-{type(einfo.exception).__name__}")


class Watched(Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        effect(f"hook-{self.name}-{task_id}-{self.request.id}-{args}-{type(exc).__name__}-{os.getpid()}")


def block():
    # in C, with the GIL: nothing interrupts it
    collections.deque(itertools.repeat(None), maxlen=0)


@app.task(base=Watched, time_limit=1)
def deaf(name):
    effect("began-" + name)
    block()


@app.task
def stubborn(name):
    effect("began-" + name)
    block()


@app.task(base=Watched, max_retries=None)
def deadly(name):
    effect("began-" + name)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(base=Watched)
def fails(name):
    raise ValueError(name)
"""

#: what is told is the same on every broker
ONE_BROKER = pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
pytestmark = ONE_BROKER


@pytest.fixture
def module(tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "tasks.py").write_text(TASKS + MORE)
    monkeypatch.setenv("TEST_MAX_DELIVERIES", "1")
    exec(compile(MORE, str(tmp_path / "tasks.py"), "exec"), tasks.__dict__)
    return tasks


@pytest.mark.parametrize("pool", ["prefork", "asyncio", "gevent", "eventlet"])
def test_a_task_killed_for_its_hard_limit_or_with_its_process_tells_of_its_failure(
    pool: str, module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "1", "-l", "INFO").wait_ready() as worker:
        late = module.deaf.delay("late")
        with pytest.raises(TimeLimitExceeded):
            late.get(timeout=60)
        eventually(lambda: ran(folder, f"hook-tasks.deaf-{late.id}-"), "the hook of what was over its limit")
        eventually(lambda: ran(folder, f"failure-tasks.deaf-{late.id}-"), "the signal of what was over its limit")
        lost = module.deadly.delay("lost")
        with pytest.raises(WorkerLostError):
            lost.get(timeout=60)
        eventually(lambda: ran(folder, f"hook-tasks.deadly-{lost.id}-"), "the hook of what was lost")
        eventually(lambda: ran(folder, f"failure-tasks.deadly-{lost.id}-"), "the signal of what was lost")
        if pool == "prefork":
            told = ran(folder, "hook-")
            assert str(worker.process.pid) not in {name.rpartition("-")[2] for name in told}, "not in the supervisor"
        assert module.add.delay(1, 2).get(timeout=60) == 3
    assert ran(folder, "failure-") == sorted(
        [
            f"failure-tasks.deaf-{late.id}-('late',)-{{}}-TimeLimitExceeded-TimeLimitExceeded",
            f"failure-tasks.deadly-{lost.id}-('lost',)-{{}}-WorkerLostError-WorkerLostError",
        ]
    ), "each once"
    hooks = [name.rpartition("-")[0] for name in ran(folder, "hook-")]
    assert hooks == sorted(
        [
            f"hook-tasks.deaf-{late.id}-{late.id}-('late',)-TimeLimitExceeded",
            f"hook-tasks.deadly-{lost.id}-{lost.id}-('lost',)-WorkerLostError",
        ]
    ), "each once"
    assert "Traceback" not in worker.log


def test_a_task_killed_for_its_revocation_tells_of_it_also_when_the_node_ends(
    module: ModuleType, tmp_path: Path, folder: Path
) -> None:
    with Worker(tmp_path, "-P", "prefork", "-c", "1", "-l", "INFO").wait_ready() as worker:
        results = []
        for name, signal in (("firm", "SIGTERM"), ("at-once", "SIGKILL")):
            result = module.stubborn.delay(name)
            eventually(lambda name=name: ran(folder, "began-" + name), "it to start")  # type: ignore[misc]
            result.revoke(terminate=True, signal=signal)
            with pytest.raises(TaskRevokedError, match="terminated"):
                result.get(timeout=30)
            results.append((result.id, signal))
        eventually(lambda: len(ran(folder, "revoked-")) == 2, "the signals")
        last = module.deaf.delay("last")
        eventually(lambda: ran(folder, "began-last"), "the last to start")
        worker.process.terminate()
        assert worker.process.wait(60) == 0
        # the node has waited for who told of it
        assert len(ran(folder, f"hook-tasks.deaf-{last.id}-")) == 1
        assert len(ran(folder, f"failure-tasks.deaf-{last.id}-")) == 1
    signums = {"SIGTERM": "<Signals.SIGTERM: 15>", "SIGKILL": "<Signals.SIGKILL: 9>"}
    shown = {"SIGTERM": "['firm']", "SIGKILL": "['at-once']"}
    assert ran(folder, "revoked-") == sorted(
        f"revoked-tasks.stubborn-{id}-{shown[signal]}-True-{signums[signal]}-False" for id, signal in results
    )
