"""examples/flask_progress with Flask's test client and a real worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.workers import Worker, eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "flask_progress"


@pytest.fixture
def progress(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's package, imported as ``flask --app progress`` imports it."""
    monkeypatch.setenv("FASTQ_BROKER_URL", broker_url)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import progress

    yield progress
    for name in [name for name in sys.modules if name == "progress" or name.startswith("progress.")]:
        del sys.modules[name]


@pytest.fixture
def app(progress: ModuleType) -> Iterator[Any]:
    app = progress.create_app({"TESTING": True})
    yield app
    app.extensions["fastq"].close()


@pytest.fixture
def worker(progress: ModuleType, tmp_path: Path) -> Iterator[Worker]:
    path = {"PYTHONPATH": f"{EXAMPLE}:{EXAMPLE.parents[1]}"}
    with Worker(tmp_path, "-P", "threads", "-c", "2", app="make_fastq", env=path) as worker:
        yield worker.wait_ready()


def test_a_page_follows_a_long_task(app: Any, worker: Worker) -> None:
    client = app.test_client()
    assert b"Start a long task" in client.get("/").data
    started = client.post("/start", data={"pages": 5, "pause_s": 0.1})
    assert started.status_code == 202
    place = started.headers["Location"]
    assert place == f"/status/{started.json['id']}"
    told: list[dict[str, Any]] = []

    def ended() -> bool:
        told.append(client.get(place).json)
        return told[-1]["state"] == "SUCCESS"

    eventually(ended, lambda: f"the end of the task; the worker's log:\n{worker.log}")
    steps = [one["current"] for one in told if one["state"] == "PROGRESS"]
    assert steps and steps == sorted(steps) and all(one["total"] == 5 for one in told if one["state"] == "PROGRESS")
    # the greeting is from Flask's configuration: the task ran in its context
    assert told[-1] == {"state": "SUCCESS", "current": 5, "total": 5, "status": "Indexed by Flask", "result": 5}


def test_a_page_shows_why_a_task_failed(app: Any, worker: Worker) -> None:
    client = app.test_client()
    place = client.post("/fail").headers["Location"]
    eventually(lambda: client.get(place).json["state"] == "FAILURE", "the failure")
    assert client.get(place).json == {"state": "FAILURE", "status": "no pages there"}


def test_a_task_that_nobody_sent_is_pending(app: Any) -> None:
    assert app.test_client().get("/status/unknown").json["state"] == "PENDING"


def test_tasks_run_in_the_context_of_their_own_application(progress: ModuleType) -> None:
    config = {"broker_url": "memory://flask contexts", "task_always_eager": True, "imports": ["progress.tasks"]}
    for greeting in ("one", "two"):
        app = progress.create_app({"GREETING": greeting, "FASTQ": config})
        task = app.extensions["fastq"].tasks["progress.tasks.index_pages"]
        assert task.delay(0).get()["status"] == greeting
        app.extensions["fastq"].close()
