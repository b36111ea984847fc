"""A broker to run on, and an application module that both the test and its workers import."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.drawing import draw


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    draw(config, items, Path(__file__).parent, share=0.5, least=4)


TASKS = '''\
"""Tasks of the integration suite; effects are files, so that they can be counted whoever ran them."""
import asyncio
import os
import sys
import time
import uuid

from fastq import FastQ

app = FastQ("tasks", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BROKER"])
app.conf.worker_lease = float(os.environ.get("TEST_LEASE", "15"))
FOLDER = os.environ["TEST_FOLDER"]


def effect(name):
    """Leave one file per run."""
    fd = os.open(os.path.join(FOLDER, f"{name}.{uuid.uuid4().hex}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(fd)


def await_file(name, deadline_s=60):
    end = time.monotonic() + deadline_s
    while not os.path.exists(os.path.join(FOLDER, name)):
        if time.monotonic() > end:
            raise RuntimeError("gate never opened: " + name)
        time.sleep(0.01)


@app.task
def add(x, y):
    return x + y


@app.task
def mark(name):
    effect(name)
    return name


@app.task
def work(i, ms):
    time.sleep(ms / 1000)
    effect(f"work-{i}")
    return i


@app.task
async def async_add(x, y):
    await asyncio.sleep(0.01)
    return x + y


@app.task
def fail(text):
    raise ValueError(text)


@app.task(bind=True)
def who(self):
    return [self.request.id, self.name, os.getpid()]


@app.task
def wait_for(name):
    effect("waiting-" + name)
    await_file(name)
    effect("waited-" + name)
    return name


@app.task
def hold(name):
    """Say which process runs this, and stay until told."""
    effect(f"holding-{name}-{os.getpid()}")
    await_file(name)
    return name


@app.task
def die(name):
    effect(f"dying-{name}")
    os.kill(os.getpid(), 9)


@app.task
def unserializable():
    return object()


@app.task
def large(n):
    return "x" * n


@app.task
def say(text):
    print(text)


@app.task(bind=True)
def progress(self, name):
    self.update_state(state="PROGRESS", meta={"current": 1, "total": 2})
    effect("progress-" + name)
    await_file(name)
    return "done"


@app.task(track_started=True)
def tracked(name):
    await_file(name)
    return "done"


@app.task(ignore_result=True)
def ignored():
    return 1
'''


@pytest.fixture(params=["redis", "sqlite"])
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The two brokers that processes can share."""
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return f"sqlite:///{tmp_path / 'fastq.db'}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where tasks leave their effects."""
    path = tmp_path / "effects"
    path.mkdir()
    return path


@pytest.fixture
def tasks(broker_url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The application module, imported here as a producer would; workers started in ``tmp_path`` import the same file."""
    monkeypatch.setenv("TEST_BROKER", broker_url)
    monkeypatch.setenv("TEST_FOLDER", str(folder))
    monkeypatch.setenv("TEST_LEASE", "2")
    path = tmp_path / "tasks.py"
    path.write_text(TASKS)
    spec = importlib.util.spec_from_file_location("tasks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tasks", module)
    spec.loader.exec_module(module)
    yield module
    module.app.close()


def ran(folder: Path, prefix: str) -> list[str]:
    """Return the names of the effects that begin with ``prefix``, one per run."""
    return sorted(p.name.rpartition(".")[0] for p in folder.iterdir() if p.name.startswith(prefix))
