"""Retries, workflows, hooks and rate limits through real workers, counted by the files that the tasks leave."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastq import _core, flow
from fastq.exceptions import ChordError, MaxRetriesExceededError
from fastq.serialization import MSGPACK
from tests.integration.conftest import ran
from tests.workers import POOLS, Worker, eventually

TASKS = '''
import os
import uuid

from fastq import FastQ, Task
from fastq.exceptions import Ignore, Reject

app = FastQ("flows", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"] or None)
app.conf.worker_lease = 2.0
FOLDER = os.environ["TEST_FOLDER"]


def effect(name):
    """Leave one file per run."""
    fd = os.open(os.path.join(FOLDER, f"{name}.{uuid.uuid4().hex}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(fd)


@app.task
def add(x, y):
    effect(f"add-{x}-{y}")
    return x + y


@app.task
async def async_add(x, y):
    return x + y


@app.task(bind=True, default_retry_delay=0.01)
def flaky(self, name, times):
    effect(f"flaky-{name}")
    if self.request.retries < times:
        raise self.retry(exc=ConnectionError(name))
    return self.request.retries


@app.task(bind=True, default_retry_delay=0.01)
async def async_flaky(self, name, times):
    effect(f"flaky-{name}")
    if self.request.retries < times:
        raise self.retry(max_retries=5)
    return self.request.retries


@app.task(autoretry_for=(ConnectionError,), retry_kwargs={"max_retries": 2, "countdown": 0.01})
def automatic(name):
    effect(f"automatic-{name}")
    raise ConnectionError(name)


@app.task(bind=True, max_retries=1, default_retry_delay=0.01)
def hopeless(self):
    self.retry()


@app.task
def fail(*args):
    raise ValueError("broken")


@app.task
def total(values):
    effect("total")
    return sum(values)


@app.task
def told(request, exc, traceback):
    effect(f"told-{request.id}-{type(exc).__name__}")


@app.task
def told_id(task_id):
    effect(f"told_id-{task_id}")


@app.task(bind=True)
def back(self):
    effect("back")
    if not self.request.delivery_info["redelivered"]:
        raise Reject("not yet", requeue=True)
    return "done"


class Hooked(Task):
    def before_start(self, task_id, args, kwargs):
        effect("hook-1-before_start")

    def on_success(self, retval, task_id, args, kwargs):
        effect("hook-2-on_success")

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        effect("hook-3-after_return")


@app.task(base=Hooked)
def hooked():
    return 1


@app.task(rate_limit="10/s")
def limited(i):
    effect(f"limited-{i}")
    return i
'''

_numbers = itertools.count(1)


def load(broker_url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend_url: str) -> ModuleType:
    monkeypatch.setenv("TEST_BROKER", broker_url)
    monkeypatch.setenv("TEST_BACKEND", backend_url)
    monkeypatch.setenv("TEST_FOLDER", str(folder))
    path = tmp_path / "flows.py"
    path.write_text(TASKS)
    spec = importlib.util.spec_from_file_location("flows", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "flows", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def flows(broker_url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = load(broker_url, folder, tmp_path, monkeypatch, broker_url)
    yield module
    module.app.close()


def node(name: str, *args: Any, id: str, immutable: bool = False, **options: Any) -> bytes:
    body = _core.encode_call(args, {})
    return flow.leaf(id, f"flows.{name}", "default", 0, MSGPACK, body, immutable=immutable, options=options or None)


def start(flows: ModuleType, made: bytes) -> None:
    """Send a workflow, as a producer does."""
    broker = flows.app.open_broker()
    begun = flow.begin(made, flow.Place(broker.now_ms()))
    broker.publish("test", next(_numbers), begun.publications, begun.openings)
    broker.close()


def result(flows: ModuleType, id: str) -> Any:
    return flows.app.AsyncResult(id).get(timeout=30)


@pytest.mark.parametrize("pool", POOLS)
def test_tasks_of_every_kind_run_on_every_pool(pool: str, flows: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", pool, "-c", "2", "-l", "INFO", app="flows").wait_ready() as worker:
        assert flows.flaky.delay("a", 2).get(timeout=30) == 2
        assert flows.async_flaky.delay("b", 2).get(timeout=30) == 2
        assert (len(ran(folder, "flaky-a")), len(ran(folder, "flaky-b"))) == (3, 3)
        with pytest.raises(ConnectionError):
            flows.automatic.delay("c").get(timeout=30)
        assert len(ran(folder, "automatic-c")) == 3
        with pytest.raises(MaxRetriesExceededError, match="hopeless"):
            flows.hopeless.delay().get(timeout=30)
        worker.wait_log("retry: Retry in 0.01s: ConnectionError('a')")
        assert flows.back.delay().get(timeout=30) == "done" and len(ran(folder, "back")) == 2
        assert flows.hooked.delay().get(timeout=30) == 1
        assert ran(folder, "hook-") == ["hook-1-before_start", "hook-2-on_success", "hook-3-after_return"]

        start(flows, flow.chain([node("add", 1, 1, id="c1"), node("async_add", 10, id="c2"), node("add", 100, id="c3")]))
        assert result(flows, "c3") == 112
        members = [node("add" if i % 2 else "async_add", i, 1, id=f"m{i}") for i in range(20)]
        start(flows, flow.chord("j1", "default", members, node("total", id="body")))
        assert result(flows, "body") == 210 and len(ran(folder, "total")) == 1

        errbacks = {"errbacks": [node("told", id="e1"), node("told_id", id="e2")]}
        members = [node("fail", id="f1"), node("add", 1, 1, id="f2")]
        start(flows, flow.chord("j2", "default", members, node("total", id="f3", flow=errbacks)))
        with pytest.raises(ChordError, match=r"Dependency f1 raised ValueError\('broken'\)"):
            result(flows, "f3")
        eventually(lambda: ran(folder, "told") == ["told-f3-ChordError", "told_id-f3"], "the errbacks")
        assert len(ran(folder, "total")) == 1
        assert worker.terminate() == 0


def test_workflows_need_no_result_backend(
    broker_url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = load(broker_url, folder, tmp_path, monkeypatch, "disabled://")
    try:
        with Worker(tmp_path, "-P", "threads", "-c", "2", app="flows").wait_ready():
            members = [node("add", i, 1, id=f"m{i}") for i in range(5)]
            body = node("total", id="body", flow={"links": [node("add", 1, id="l")]})
            start(flows, flow.chord("j1", "default", members, body))
            eventually(lambda: ran(folder, "add-15-1"), "what follows the body")
    finally:
        flows.app.close()


def test_a_rate_limit_holds_for_all_workers_together(flows: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", "threads", "-c", "4", app="flows").wait_ready(), Worker(
        tmp_path, "-P", "prefork", "-c", "2", "-n", "other@%h", app="flows"
    ).wait_ready():
        began = time.monotonic()
        results = flows.limited.delay_many([(i,) for i in range(16)])
        time_of: list[float] = []
        for r in results:
            r.get(timeout=30)
            time_of.append(time.monotonic())
        assert time_of[-1] - began >= 1.4, "16 runs at 10 a second take 1.5 s"
        assert len(ran(folder, "limited-")) == 16


def kill_one(worker: Worker) -> bool:
    """Kill a process of the pool; False if there is none now."""
    for pid in worker.pool_pids():
        with contextlib.suppress(ProcessLookupError):  # the list is a moment old
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def test_workflows_survive_processes_that_are_killed(flows: ModuleType, tmp_path: Path, folder: Path) -> None:
    with Worker(tmp_path, "-P", "prefork", "-c", "2", app="flows").wait_ready() as worker:
        for i in range(20):
            start(flows, flow.chain([node("add", 1, 1, id=f"{i}-0"), *(node("add", 1, id=f"{i}-{n}") for n in range(1, 6))]))
        members = [flow.chain([node("add", i, 0, id=f"m{i}"), node("flaky", 1, id=f"n{i}")]) for i in range(10)]
        start(flows, flow.chord("j1", "default", members, node("total", id="body")))
        for n in (3, 20, 60):
            eventually(lambda least=n: len(ran(folder, "add-")) >= least, f"{n} runs")  # type: ignore[misc]
            # while its successor starts, there may be none
            eventually(lambda: kill_one(worker), "a process that runs tasks")
        assert [result(flows, f"{i}-5") for i in range(20)] == [7] * 20
        assert result(flows, "body") == 10
        # none is missing; those whose end was not settled when their process died have run again
        assert len(ran(folder, "add-")) >= 130 and 1 <= len(ran(folder, "total")) <= 4
