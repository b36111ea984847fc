"""An application with real workers for canvases: its tasks write down every run, so that runs can be counted whoever made them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

from fastq.result import AsyncResult
from fastq.results import GroupResult
from fastq.transports import Inspector, open_inspector
from tests.canvases import Failure, Shape, signature_of
from tests.workers import Worker, eventually

__all__ = ["Run", "Site", "deploy", "value_of"]

#: tasks by which random canvases are made
TASKS = '''\
"""Tasks of canvases; every run writes one line."""
import json
import os
import time

from fastq import FastQ, signature
from fastq.running import current

app = FastQ("canvased", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"] or None)
app.conf.worker_lease = 2.0
app.conf.task_max_deliveries = int(os.environ.get("TEST_DELIVERIES") or 3)
RUNS = os.path.join(os.environ["TEST_FOLDER"], "runs")
PAUSE_S = float(os.environ.get("TEST_PAUSE_MS") or 0) / 1000


def note(name, args):
    """Write down a run: one write, so that a process that is killed leaves all of it or nothing."""
    d = current.get()
    options = d.options or {}
    nesting = options.get("replaced_task_nesting") or 0
    told = [options.get("root_id"), d.id, d.name, nesting, d.enqueued_ms, d.deliveries, d.retries, d.queue, os.getpid()]
    line = json.dumps([*told, name, list(args)]) + "\\n"
    fd = os.open(RUNS, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
    if PAUSE_S:
        time.sleep(PAUSE_S)


@app.task(name="step", bind=True)
def step(self, *args, retries=0):
    note("step", args)
    if self.request.retries < retries:
        raise self.retry(countdown=0.005, exc=ConnectionError("again"), max_retries=retries)
    return list(args)


@app.task(name="fail", bind=True)
def fail(self, *args, retries=0):
    note("fail", args)
    if self.request.retries < retries:
        raise self.retry(countdown=0, max_retries=retries)
    raise ValueError("no")


@app.task(name="swap", bind=True)
def swap(self, *args):
    *before, sig = args
    note("swap", before)
    raise self.replace(signature(sig, app=app))


@app.task(name="told")
def told(request, exc, traceback, *args):
    note("told", args)
'''


class Run(NamedTuple):
    """One run of a task, as it wrote it down."""

    root: str | None
    id: str
    #: the task that the message names: a map calls others
    message: str
    #: how many replacements led to it
    nesting: int
    #: when the message was made
    enqueued_ms: int
    deliveries: int
    retries: int
    queue: str
    pid: int
    name: str
    args: list[Any]


@dataclass
class Site:
    """An application as its producer has it, and the directory from which workers run it."""

    module: ModuleType
    directory: Path
    env: dict[str, str]
    _runs: list[Run] = field(default_factory=list)
    _read: int = 0

    @property
    def app(self) -> Any:
        return self.module.app

    @property
    def broker(self) -> str:
        return self.env["TEST_BROKER"]

    def worker(self, *arguments: str) -> Worker:
        return Worker(self.directory, *arguments, app=self.module.__name__, env=self.env)

    def runs(self) -> list[Run]:
        """Return every run so far, in the order in which they began."""
        path = self.directory / "runs"
        if path.exists():
            with path.open("rb") as file:
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
            if whole:
                self._read += len(whole) + 1
                self._runs.extend(Run(*json.loads(line)) for line in whole.splitlines())
        return self._runs

    def count(self, name: str) -> int:
        return sum(run.name == name for run in self.runs())

    def counted(self, root: str) -> Counter[str]:
        """Return how often each task of a canvas ran, told apart by its arguments."""
        return Counter(repr((run.name, run.args)) for run in self.runs() if run.root == root)

    def send(self, shape: Shape, root: str, args: tuple[Any, ...] = (), *, lazily: bool = False) -> Any:
        return signature_of(self.app, shape, lazily).apply_async(args, root_id=root)

    def inspector(self) -> Inspector:
        return open_inspector(self.app.broker_url, self.app.transport_options())

    def left(self) -> dict[str, int]:
        """Return what the broker still holds of messages, over all queues: ready, delayed, leased, dead."""
        with contextlib.closing(self.inspector()) as inspector:
            total: Counter[str] = Counter()
            for queue in inspector.queues():
                total.update(inspector.depth(queue))
        return {kind: total[kind] for kind in ("ready", "delayed", "leased", "dead")}

    def wait_idle(self) -> None:
        """Wait until nothing is waiting or running: settlements come after the last line of a run."""

        def idle() -> bool:
            left = self.left()
            return not (left["ready"] or left["delayed"] or left["leased"])

        eventually(idle, "an empty broker", every_s=0.02)


@contextlib.contextmanager
def deploy(
    directory: Path, broker: str, backend: str | None = None, *, more: str = "", name: str = "canvased", **env: str
) -> Iterator[Site]:
    """Write the application's module, import it as a producer does, and close it in the end. ``more``: further tasks."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.py"
    path.write_text(TASKS + more)
    env = {"TEST_BROKER": broker, "TEST_BACKEND": broker if backend is None else backend, "TEST_FOLDER": str(directory), **env}
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, env), mock.patch.dict(sys.modules, {name: module}):
        spec.loader.exec_module(module)
        try:
            yield Site(module, directory, env)
        finally:
            module.app.close()


def value_of(result: AsyncResult[Any] | GroupResult[Any] | None, timeout_s: float = 30.0) -> Any:
    """Wait for a result and return its value, a Failure for a failed one."""
    if result is None:
        return None
    if isinstance(result, GroupResult):
        return [value_of(member, timeout_s) for member in result.results]
    value = result.get(timeout=timeout_s, propagate=False)
    return Failure(type(value).__name__, str(value)) if isinstance(value, BaseException) else value
